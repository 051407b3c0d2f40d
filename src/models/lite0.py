"""EMIS-Net whose upper encoder levels are the first stages of EfficientNet-Lite0, so that it can start from ImageNet.

Source: EfficientNet (Tan and Le, ICML 2019), its Lite0 form (no squeeze-and-excitation, ReLU6; Google's TPU repository,
2020); inverted residuals: Sandler et al., CVPR 2018. ICM, the level below, decoder, EFAM and head are EMIS-Net's.
"""

from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from src.models.emisnet import EMISNet

STEM = 32  # channels


class Stage(NamedTuple):
    width: int
    depth: int  # blocks
    kernel: int
    stride: int
    widening: int


# Lite0 has two more, of 2.5 M parameters.
STAGES = (
    Stage(16, 1, 3, 1, 1),
    Stage(24, 2, 3, 2, 6),
    Stage(40, 2, 5, 2, 6),
    Stage(80, 3, 3, 2, 6),
    Stage(112, 3, 5, 1, 6),
)
EPS = 1e-3  # of the BatchNorms, as in TensorFlow, where the weights come from
IMAGENET = Path(__file__).resolve().parents[2] / "experiments" / "pretrained" / "lite0_imagenet.safetensors"


def conv_norm(
    in_channels: int, out_channels: int, kernel: int = 1, *, stride: int = 1, groups: int = 1, act: bool = True
) -> list[nn.Module]:
    """Convolution, BN, ReLU6, on a map of even sides padded as TensorFlow does: at stride 2 more below and right."""
    excess = max(kernel - stride, 0)
    before = excess // 2
    symmetric = excess % 2 == 0
    padding: list[nn.Module] = [] if symmetric else [nn.ZeroPad2d((before, excess - before) * 2)]
    conv = nn.Conv2d(
        in_channels,
        out_channels,
        kernel,
        stride=stride,
        padding=before if symmetric else 0,
        groups=groups,
        bias=False,
    )
    return [*padding, conv, nn.BatchNorm2d(out_channels, eps=EPS), *([nn.ReLU6()] if act else [])]


class InvertedResidual(nn.Module):
    """(B, C_in, H, W) -> (B, C_out, H / stride, W / stride): 1x1 wider, depthwise, 1x1 narrow; the input is added where
    it has the output's shape."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int, stride: int, widening: int):
        super().__init__()
        inner = in_channels * widening
        self.layers = nn.Sequential(
            *(conv_norm(in_channels, inner) if widening > 1 else []),
            *conv_norm(inner, inner, kernel, stride=stride, groups=inner),
            *conv_norm(inner, out_channels, act=False),
        )
        self.adds = stride == 1 and in_channels == out_channels

    def forward(self, x: Float[Tensor, "b c_in h w"]) -> Float[Tensor, "b c_out h2 w2"]:
        return x + self.layers(x) if self.adds else self.layers(x)


class EMISNetLite0(EMISNet):
    """Image (B, in_channels, H, W) float -> logits (B, num_classes, H, W), any H, W >= 32.

    The levels from 1/2 to 1/16 of the image are EfficientNet-Lite0's first stages (widths 16, 24, 40, 80; with a fifth
    the last has 112), below them lies one of LGFE blocks.

    Args:
        stages: 4, or 5: the fifth goes on at 1/16 (0.45 M parameters more).
        bottleneck: width of the level below the stages, at 1/32.
        bottleneck_depth: its LGFE blocks.
        encoder_weights: "imagenet" puts those of the box into stem and stages (nothing is downloaded); None: random.
        options: the other arguments of `EMISNet`; channels, encoder_depths and stem_stride are given by the stages.

    Raises:
        ValueError: as EMISNet, for other `stages` or `encoder_weights`, and for ImageNet's with other than three
            channels.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 1,
        stages: int = 4,
        bottleneck: int = 128,
        bottleneck_depth: int = 1,
        encoder_weights: str | None = None,
        **options: Any,
    ):
        if stages not in (4, 5):
            raise ValueError(f"stages={stages} is not possible. Use 4 or 5.")
        if encoder_weights not in (None, "imagenet"):
            raise ValueError(f"encoder_weights={encoder_weights!r} is not possible. Use imagenet, or null for random.")
        if encoder_weights and in_channels != 3:
            raise ValueError(
                f"encoder_weights=imagenet is of colour images, model.in_channels={in_channels}. "
                "Use encoder_weights=null."
            )
        levels: list[list[Stage]] = []  # a level holds the stages that compute at one size
        for stage in STAGES[:stages]:
            if stage.stride > 1 or not levels:
                levels.append([])
            levels[-1].append(stage)
        super().__init__(
            in_channels=in_channels,
            num_classes=num_classes,
            channels=(*(level[-1].width for level in levels), bottleneck),
            encoder_depths=(*(1 for _ in levels), bottleneck_depth),
            stem_stride=2,
            **options,
        )
        self.pooled_from = len(levels)
        self.stem = nn.Sequential(*conv_norm(in_channels, STEM, 3, stride=2))
        width = STEM
        for i, level in enumerate(levels):
            blocks: list[nn.Module] = []
            for stage in level:
                for stride in [stage.stride] + [1] * (stage.depth - 1):
                    blocks.append(
                        InvertedResidual(
                            width, stage.width, kernel=stage.kernel, stride=stride, widening=stage.widening
                        )
                    )
                    width = stage.width
            self.encoder[i] = nn.Sequential(*blocks)
        if encoder_weights and next(self.parameters()).device.type != "meta":  # there, only shapes are asked for
            parts, held = self.encoder_parts(), load_file(IMAGENET)
            parts.load_state_dict({name: held[name] for name in parts.state_dict()})

    def encoder_parts(self) -> nn.ModuleDict:
        """Stem and stages: what ImageNet's weights are for."""
        return nn.ModuleDict({"stem": self.stem, "stages": nn.Sequential(*self.encoder[: self.pooled_from])})
