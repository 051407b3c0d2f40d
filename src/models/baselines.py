"""The usual rivals, built by segmentation-models-pytorch with timm encoders behind EMIS-Net's calling convention."""

import difflib
import inspect
from collections.abc import Sequence
from typing import Any

import segmentation_models_pytorch as smp
import timm
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from src.models.sizes import PaddedNet

ARCHITECTURES = {
    "unet": smp.Unet,
    "unetplusplus": smp.UnetPlusPlus,
    "deeplabv3plus": smp.DeepLabV3Plus,
    "fpn": smp.FPN,
    "segformer": smp.Segformer,
}


class Baseline(PaddedNet):
    """An smp network: image (B, in_channels, H, W) -> logits (B, num_classes, H, W), any H, W.

    Args:
        encoder_name: one of smp's encoders, or `tu-<name>` for any of timm's.
        encoder_weights: None starts from random weights and needs no hub; "imagenet" downloads; a path that ends in
            .safetensors reads that file, such as a model.safetensors that was fetched from timm's hub before.
        encoder_depth, decoder_channels: as smp's class of that architecture takes them, to make a rival smaller; None:
            smp's own.

    Raises:
        ValueError: for an architecture that is not among ARCHITECTURES, an encoder that nobody has, an argument that
            the architecture lacks or refuses, and a file of weights that cannot be read or is of another encoder.
    """

    def __init__(
        self,
        *,
        architecture: str,
        encoder_name: str,
        encoder_weights: str | None = None,
        encoder_depth: int | None = None,
        decoder_channels: Sequence[int] | int | None = None,
        in_channels: int = 3,
        num_classes: int = 1,
    ):
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        if architecture not in ARCHITECTURES:
            raise ValueError(f"architecture={architecture!r} is not known. Possible: {', '.join(ARCHITECTURES)}.")
        _check_encoder(encoder_name)
        given = {"encoder_depth": encoder_depth, "decoder_channels": decoder_channels}
        options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        for name in options.keys() - inspect.signature(ARCHITECTURES[architecture]).parameters.keys():
            raise ValueError(f"{architecture} takes no {name}. Leave it null.")
        local = encoder_weights is not None and encoder_weights.endswith(".safetensors")
        self.net = ARCHITECTURES[architecture](
            encoder_name=encoder_name,
            encoder_weights=None if local else encoder_weights,
            in_channels=in_channels,
            classes=num_classes,
            **options,
        )
        if local and next(self.parameters()).device.type != "meta":  # there, only shapes are asked for
            _start_encoder(self.net.encoder, str(encoder_weights))

    def segment(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h w"]:
        return self.net(image)  # most of smp's decoders refuse sides that are no multiples of 32


def _start_encoder(encoder: nn.Module, path: str) -> None:
    """Puts the weights of `path` into an encoder that needs them all; what follows an encoder there, such as a
    classifier, is left out."""
    encoder = getattr(encoder, "model", encoder)  # of timm's encoders the network itself, under timm's names
    assert isinstance(encoder, nn.Module)
    try:
        own, held = encoder.state_dict(), load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"encoder_weights={path} is not a readable safetensors file ({error}).") from error
    lacking = [name for name, value in own.items() if name not in held or held[name].shape != value.shape]
    lacking = [name for name in lacking if not name.endswith("num_batches_tracked")]  # not in every file
    if lacking:
        raise ValueError(
            f"encoder_weights={path} is of another encoder: {len(lacking)} of {len(own)} tensors are not there under "
            f"their name and shape, such as {lacking[0]}. Take the file of this encoder_name, and in_channels=3."
        )
    encoder.load_state_dict({name: held[name] for name in own if name in held}, strict=False)


def _check_encoder(name: str) -> None:
    possible = [*smp.encoders.get_encoder_names(), *(f"tu-{model}" for model in timm.list_models())]
    if name in possible or (name.startswith("tu-") and timm.is_model(name[3:])):  # timm's names may carry a .tag
        return
    near = ", ".join(difflib.get_close_matches(name, possible, n=3)) or "nothing"
    raise ValueError(
        f"encoder_name={name!r} is neither one of smp's encoders nor tu-<name> of timm's. Near it: {near}. "
        "smp.encoders.get_encoder_names() and timm.list_models() list all."
    )
