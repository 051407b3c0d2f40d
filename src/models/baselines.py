"""The usual rivals, built by segmentation-models-pytorch with timm encoders behind EMIS-Net's calling convention."""

import difflib

import segmentation_models_pytorch as smp
import timm
from jaxtyping import Float
from torch import Tensor

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

    `encoder_name` is one of smp's encoders, or `tu-<name>` for any of timm's. `encoder_weights=None` starts from random
    weights and needs no hub; "imagenet" downloads.

    Raises:
        ValueError: for an architecture that is not among ARCHITECTURES, or an encoder that nobody has.
    """

    def __init__(
        self,
        *,
        architecture: str,
        encoder_name: str,
        encoder_weights: str | None = None,
        in_channels: int = 3,
        num_classes: int = 1,
    ):
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        if architecture not in ARCHITECTURES:
            raise ValueError(f"architecture={architecture!r} is not known. Possible: {', '.join(ARCHITECTURES)}.")
        _check_encoder(encoder_name)
        self.net = ARCHITECTURES[architecture](
            encoder_name=encoder_name, encoder_weights=encoder_weights, in_channels=in_channels, classes=num_classes
        )

    def segment(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h w"]:
        return self.net(image)  # most of smp's decoders refuse sides that are no multiples of 32


def _check_encoder(name: str) -> None:
    possible = [*smp.encoders.get_encoder_names(), *(f"tu-{model}" for model in timm.list_models())]
    if name in possible or (name.startswith("tu-") and timm.is_model(name[3:])):  # timm's names may carry a .tag
        return
    near = ", ".join(difflib.get_close_matches(name, possible, n=3)) or "nothing"
    raise ValueError(
        f"encoder_name={name!r} is neither one of smp's encoders nor tu-<name> of timm's. Near it: {near}. "
        "smp.encoders.get_encoder_names() and timm.list_models() list all."
    )
