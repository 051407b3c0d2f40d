"""The usual rivals, built by segmentation-models-pytorch with timm encoders behind EMIS-Net's calling convention."""

import difflib
from collections.abc import Sequence
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from timm.models.efficientnet import EfficientNetFeatures
from timm.models.mobilenetv3 import MobileNetV3Features
from torch import Tensor, nn

from src.models.sizes import PaddedNet

ARCHITECTURES = {
    "unet": smp.Unet,
    "unetplusplus": smp.UnetPlusPlus,
    "deeplabv3plus": smp.DeepLabV3Plus,
    "fpn": smp.FPN,
    "segformer": smp.Segformer,
}
SCALED = ("unet", "unetplusplus")  # those whose depth and widths can be chosen
DEPTHS = (3, 4, 5)
MOST_CHANNELS = 512  # of a level: a stranger's config may ask for any number
TIMM = "tu-"  # before the names of timm's encoders
KEEPS = (
    "encoder_depth={} of encoder_name={}: it keeps the weights of the levels that it leaves out. Use encoder_depth=5, "
    f"or an encoder that drops them, such as {TIMM}resnet18."
)


class Baseline(PaddedNet):
    """An smp network: image (B, in_channels, H, W) -> logits (B, num_classes, H, W), any H, W.

    Args:
        encoder_name: one of smp's encoders, or `tu-<name>` for any of timm's.
        encoder_weights: None starts from random weights and needs no hub; "imagenet" downloads; for an encoder of
            timm's, a path that ends in .safetensors reads the file that timm's hub has for it (model.safetensors).
        encoder_depth, decoder_channels: of unet and unetplusplus, to make them smaller: 3, 4 or 5 levels, and a width
            for each, the lowest first. None: 5, and smp's own widths. Fewer than 5 with most of timm's encoders; those
            of smp, and some of timm's, keep the weights of the levels that they leave out, and are refused.

    Raises:
        ValueError: for an architecture that is not among ARCHITECTURES, an encoder that nobody has, other depths and
            widths than these, and weights that are not known, cannot be read or are of another encoder.
    """

    def __init__(
        self,
        *,
        architecture: str,
        encoder_name: str,
        encoder_weights: str | None = None,
        encoder_depth: int | None = None,
        decoder_channels: Sequence[int] | None = None,
        in_channels: int = 3,
        num_classes: int = 1,
    ):
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        if architecture not in ARCHITECTURES:
            raise ValueError(f"architecture={architecture!r} is not known. Possible: {', '.join(ARCHITECTURES)}.")
        _check_encoder(encoder_name)
        options = _scaled(architecture, encoder_depth, decoder_channels)
        smaller = encoder_depth in DEPTHS[:-1]
        if smaller and not encoder_name.startswith(TIMM):  # before anything is downloaded
            raise ValueError(KEEPS.format(encoder_depth, encoder_name))
        start: str | bool | None = encoder_weights
        if encoder_weights is not None and encoder_name.startswith(TIMM):
            if encoder_weights != "imagenet":
                _check_file(encoder_name, encoder_weights)
                options["pretrained_cfg_overlay"] = {"file": encoder_weights}
            # timm's take whether, not which; on meta only shapes are asked for
            start = None if torch.get_default_device().type == "meta" else True
        self.net = ARCHITECTURES[architecture](
            encoder_name=encoder_name,
            encoder_weights=start,
            in_channels=in_channels,
            classes=num_classes,
            **options,
        )
        if smaller:
            _cut(self.net.encoder.model)
            if _has_idle(self.net, in_channels):
                raise ValueError(KEEPS.format(encoder_depth, encoder_name))

    def segment(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h w"]:
        return self.net(image)  # most of smp's decoders refuse sides that are no multiples of 32


def _scaled(architecture: str, depth: int | None, channels: Sequence[int] | None) -> dict[str, Any]:
    """smp's arguments for a network of that depth and those widths; none where neither is given."""
    if depth is None and channels is None:
        return {}
    if architecture not in SCALED:
        raise ValueError(f"encoder_depth and decoder_channels are of {' and '.join(SCALED)}. Leave out both.")
    depth = 5 if depth is None else depth
    widths = list(channels) if isinstance(channels, Sequence) else []
    whole = all(type(width) is int and 1 <= width <= MOST_CHANNELS for width in widths)
    if depth not in DEPTHS or len(widths) != depth or not whole:
        raise ValueError(
            f"encoder_depth={depth}, decoder_channels={channels}: needed are 3, 4 or 5 levels and a whole number from "
            f"1 to {MOST_CHANNELS} for each, such as encoder_depth=4 decoder_channels=[64,48,32,16]."
        )
    return {"encoder_depth": depth, "decoder_channels": widths}


def _cut(encoder: nn.Module) -> None:
    """Takes off the stages below the last one read, which timm's EfficientNets and MobileNets compute for nothing."""
    if isinstance(encoder, EfficientNetFeatures | MobileNetV3Features):
        last = max(level["stage"] for level in encoder.feature_info.get_dicts())
        encoder.blocks = encoder.blocks[:last]


def _has_idle(net: nn.Module, in_channels: int) -> bool:
    """Whether some weights have no say in what `net` computes; False where only shapes are asked of it."""
    weights = list(net.parameters())
    if weights[0].is_meta or not torch.is_grad_enabled():
        return False
    net.eval()
    try:
        logits = net(torch.zeros(1, in_channels, 64, 64))
    except (AssertionError, RuntimeError, ValueError):  # of those that take images of one size alone
        return False
    finally:
        net.train()
    return any(found is None for found in torch.autograd.grad(logits.sum(), weights, allow_unused=True))


def _check_file(encoder_name: str, path: str) -> None:
    """ValueError unless timm's network of that name has the tensors of the file, its classifier excepted. timm itself
    would take the part that fits, and a word that is no file for a wish to download."""
    if not path.endswith(".safetensors"):
        raise ValueError(
            f"encoder_weights={path} is not possible. Use null, imagenet, or the path of a .safetensors file."
        )
    try:
        with safe_open(path, framework="pt") as file:
            held = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise ValueError(f"encoder_weights={path} is not a readable safetensors file ({error}).") from error
    with torch.device("meta"):
        whole = timm.create_model(encoder_name.removeprefix(TIMM))
    own = {name: list(value.shape) for name, value in whole.state_dict().items()}
    told: Any = whole.pretrained_cfg
    classifier = told.get("classifier") or ()
    beside = tuple(f"{one}." for one in ([classifier] if isinstance(classifier, str) else classifier))
    unlike = sorted(
        name
        for name in held.keys() | own.keys()
        if held.get(name) != own.get(name)
        and not name.endswith("num_batches_tracked")  # not in every file
        and not name.startswith(beside)
    )
    if unlike:
        raise ValueError(
            f"encoder_weights={path} is of another encoder than {encoder_name}: {len(unlike)} tensors differ in name "
            f"or shape, such as {unlike[0]}. Take the file that timm's hub has for this one."
        )


def _check_encoder(name: str) -> None:
    possible = [*smp.encoders.get_encoder_names(), *(f"{TIMM}{model}" for model in timm.list_models())]
    # timm's names may carry a .tag
    if name in possible or (name.startswith(TIMM) and timm.is_model(name.removeprefix(TIMM))):
        return
    near = ", ".join(difflib.get_close_matches(name, possible, n=3)) or "nothing"
    raise ValueError(
        f"encoder_name={name!r} is neither one of smp's encoders nor tu-<name> of timm's. Near it: {near}. "
        "smp.encoders.get_encoder_names() and timm.list_models() list all."
    )
