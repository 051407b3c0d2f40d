"""EMIS-Net: a light U-shaped network for one image in, one mask out.

Source: the EMIS-Net patent text; what it leaves open (widths, depths, stem, where ICM stands, what EFAM fuses) is a
constructor argument here, so all of it can be swept. Unusual: the published context convolution and EFAM are dilated
1x1 convolutions, which see one pixel at any rate (the network warns), and EFAM fuses all decoder scales at the first
decoder scale rather than refining the skips.
"""

import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from src.models.blocks import EFAM, ICM, LGFE, make_act
from src.models.sizes import check_channels, check_depths, pad_to_multiple, upsample

MIN_SIZE = 32


def make_stem(in_channels: int, out_channels: int, stride: int, act: str) -> nn.Sequential:
    """3x3 conv, BN, act; stride 4 is two such steps of stride 2, since one 3x3 at stride 4 would skip pixels."""
    strides = {1: (1,), 2: (2,), 4: (2, 2)}.get(stride)
    if strides is None:
        raise ValueError(f"stem_stride={stride} is not possible. Use 1, 2 or 4.")
    layers: list[nn.Module] = []
    for step in strides:
        layers += [
            nn.Conv2d(in_channels, out_channels, 3, stride=step, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            make_act(act),
        ]
        in_channels = out_channels
    return nn.Sequential(*layers)


class ScaleFusion(nn.Module):
    """EFAM over the decoder's scales: EFAM(concat_i up(D_i)), at the size of the first (largest) scale.

    A 1x1 convolution commutes with bilinear upsampling, so with 1x1 kernels the same output and the same gradients come
    from sum_i up(W_i D_i) + b, W and b being EFAM's layers multiplied out at every step. Computed literally, the
    concatenation at full resolution made a training step of the default network twice as long (batch 4 at 256x256,
    two CPU threads: 1.0 against 2.0 img/s).
    """

    def __init__(self, channels: Sequence[int], *, dilations: Sequence[int], kernel_size: int):
        super().__init__()
        self.channels = tuple(channels)
        self.pointwise = kernel_size == 1
        self.efam = EFAM(sum(channels), channels[0], dilations=dilations, kernel_size=kernel_size)

    def forward(self, scales: list[Tensor]) -> Tensor:
        if not self.pointwise:
            return self.efam(concat_scales(scales))
        weight, bias = self.efam.as_conv()
        return sum_of_scales(scales, weight.split(self.channels, dim=1), bias)


def concat_scales(scales: list[Tensor]) -> Tensor:
    """All scales at the size of the first, concatenated along the channels."""
    size = scales[0].shape[-2:]
    return torch.cat([scales[0], *(upsample(scale, size) for scale in scales[1:])], dim=1)


def sum_of_scales(scales: list[Tensor], weights: Sequence[Tensor], bias: Tensor | None) -> Tensor:
    """sum_i up(conv1x1(D_i, W_i)) + b, each convolution at its scale's own resolution."""
    size = scales[0].shape[-2:]
    total = F.conv2d(scales[0], weights[0], bias)
    for scale, weight in zip(scales[1:], weights[1:], strict=True):
        total = total + upsample(F.conv2d(scale, weight), size)
    return total


class Concat(nn.Module):
    """A list of tensors, concatenated along the channels."""

    def forward(self, parts: list[Tensor]) -> Tensor:
        return torch.cat(parts, dim=1)


class EMISNet(nn.Module):
    """EMIS-Net: image (B, in_channels, H, W) float -> logits (B, num_classes, H, W), any H, W >= 32.

    Args:
        in_channels: channels of the image.
        num_classes: logit planes; 1 for a binary task.
        channels: width of each level, full resolution first.
        encoder_depths: LGFE blocks per encoder level, the last level being the bottleneck (the stage compute ratio).
        decoder_depths: LGFE blocks per decoder level, full resolution first; one level fewer than the encoder.
        stem_stride: 1, 2 or 4; the strongest lever on latency.
        act: gelu (as published), relu or hardswish.
        icm_levels: encoder levels whose output passes an ICM before the decoder reads it; () takes ICM out.
        icm_inner_act: an activation between ICM's convolutions (published: none).
        local_kernel_size: of LGFE's depthwise convolution; 5 as published.
        context_kernel_size, context_dilation: of LGFE's context branch; kernel 1 as published. The dilation may be a
            list, one of each level, full resolution first: at a level of 8 px a rate of 7 sees little but padding.
        fusion_dilations: EFAM's rates; () takes EFAM out, so that the last decoder stage goes straight to the head.
        fusion_kernel_size: EFAM's kernel; 1 as published.
        ghost_ratio: of the Ghost module.
        ca_reduction: the CA bottleneck is max(8, C // ca_reduction) wide.
        ghost, attention, context: False takes that part of LGFE out.
        deep_supervision: auxiliary 1x1 heads on the lower decoder scales; in training mode forward then returns a list
            of logits at full size, the main one first. They do not exist otherwise.

    Raises:
        ValueError: for arguments that contradict each other, and from forward for an image smaller than 32 or with
            the wrong number of channels.
    """

    pooled_from = 1  # the first level that halves the map: those before have strides of their own

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 1,
        channels: Sequence[int] = (16, 32, 64, 128, 160),
        encoder_depths: Sequence[int] = (1, 1, 3, 1, 1),
        decoder_depths: Sequence[int] = (1, 1, 1, 1),
        stem_stride: int = 1,
        act: str = "gelu",
        icm_levels: Sequence[int] = (4,),
        icm_inner_act: bool = False,
        local_kernel_size: int = 5,
        context_kernel_size: int = 1,
        context_dilation: int | Sequence[int] = 7,
        fusion_dilations: Sequence[int] = (1, 3, 5),
        fusion_kernel_size: int = 1,
        ghost_ratio: int = 2,
        ca_reduction: int = 32,
        ghost: bool = True,
        attention: bool = True,
        context: bool = True,
        deep_supervision: bool = False,
    ):
        super().__init__()
        _check_levels(channels, encoder_depths, decoder_depths, icm_levels)
        for name, number in (("in_channels", in_channels), ("num_classes", num_classes)):
            if number < 1:
                raise ValueError(f"{name}={number}: at least 1 is needed.")
        levels = len(channels)
        rates = (context_dilation,) * levels if isinstance(context_dilation, int) else tuple(context_dilation)
        if len(rates) != levels:
            raise ValueError(f"context_dilation={list(rates)}: one rate, or one for each of {levels} levels.")
        _warn_of_dilated_1x1(
            max(rates) if context and context_kernel_size == 1 else 1,
            max(fusion_dilations, default=1) if fusion_kernel_size == 1 else 1,
        )
        self.in_channels, self.num_classes = in_channels, num_classes
        self.divisor = stem_stride * 2 ** (len(channels) - 1)

        def stage(stage_in: int, stage_out: int, depth: int, rate: int) -> nn.Sequential:
            return nn.Sequential(
                *(
                    LGFE(
                        stage_in if i == 0 else stage_out,
                        stage_out,
                        local_kernel_size=local_kernel_size,
                        context_kernel_size=context_kernel_size,
                        context_dilation=rate,
                        ghost_ratio=ghost_ratio,
                        ca_reduction=ca_reduction,
                        act=act,
                        ghost=ghost,
                        attention=attention,
                        context=context,
                    )
                    for i in range(depth)
                )
            )

        self.stem = make_stem(in_channels, channels[0], stem_stride, act)
        inputs = (channels[0], *channels[:-1])
        self.encoder = nn.ModuleList(map(stage, inputs, channels, encoder_depths, rates))
        self.pool = nn.MaxPool2d(2)
        self.join = Concat()  # of upsampled features and skip
        self.icm = nn.ModuleDict(
            {str(i): ICM(channels[i], act=act, inner_act=icm_inner_act) for i in sorted(icm_levels)}
        )
        self.skips = skips = tuple(channels[:-1])
        self.decoder = nn.ModuleList(
            stage(channels[i + 1] + skips[i], skips[i], decoder_depths[i], rates[i]) for i in range(len(skips))
        )
        self.fusion = (
            ScaleFusion(skips, dilations=fusion_dilations, kernel_size=fusion_kernel_size) if fusion_dilations else None
        )
        self.head = nn.Conv2d(channels[0], num_classes, 1)
        self.aux_heads = (
            nn.ModuleList(nn.Conv2d(width, num_classes, 1) for width in skips[1:]) if deep_supervision else None
        )

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h w"] | list[Tensor]:
        _check_image(image, self.in_channels)
        size = image.shape[-2:]
        scales = self.decode(self.encode(pad_to_multiple(image, self.divisor)))
        logits = self.head(scales[0] if self.fusion is None else self.fusion(scales))
        if self.training and self.aux_heads is not None:
            aux = [head(scale) for head, scale in zip(self.aux_heads, scales[1:], strict=True)]
            return [self._to_image_size(plane, size) for plane in (logits, *aux)]
        return self._to_image_size(logits, size)

    def encode(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The features of every level, full resolution first, ICM applied where it stands."""
        x, features = self.stem(image), []
        for level, blocks in enumerate(self.encoder):
            x = blocks(x if level < self.pooled_from else self.pool(x))
            features.append(self.icm[str(level)](x) if str(level) in self.icm else x)
        return features

    def decode(self, features: list[Tensor]) -> list[Tensor]:
        """The decoder's scales, full resolution first."""
        x, scales = features[-1], []
        for blocks, skip in zip(reversed(self.decoder), reversed(features[:-1]), strict=True):
            x = blocks(self.join([upsample(x, skip.shape[-2:]), skip]))
            scales.append(x)
        return scales[::-1]

    def _to_image_size(self, logits: Tensor, size: Sequence[int]) -> Tensor:
        """Undo stem stride or decoder scale, then crop what `pad_to_multiple` added."""
        height, width = (-(-side // self.divisor) * self.divisor for side in size)
        if logits.shape[-2:] != (height, width):
            logits = upsample(logits, (height, width))
        return logits[..., : size[0], : size[1]]


def _check_image(image: Tensor, in_channels: int) -> None:
    check_channels(image, in_channels)
    if min(image.shape[-2:]) < MIN_SIZE:
        raise ValueError(
            f"the image is {image.shape[-2]}x{image.shape[-1]} px; EMIS-Net needs at least {MIN_SIZE}x{MIN_SIZE}. "
            "Resize it first."
        )


def _check_levels(
    channels: Sequence[int], encoder_depths: Sequence[int], decoder_depths: Sequence[int], icm_levels: Sequence[int]
) -> None:
    levels = len(channels)
    if levels < 2 or min(channels) < 1:
        raise ValueError(f"channels={tuple(channels)}: at least two levels, each at least 1 wide.")
    for name, depths, wanted in (
        ("encoder_depths", encoder_depths, levels),
        ("decoder_depths", decoder_depths, levels - 1),
    ):
        if len(depths) != wanted:
            raise ValueError(f"{name}={tuple(depths)}: {levels} channels ask for {wanted} depths.")
        check_depths(name, depths)
    if wrong := [level for level in icm_levels if not 0 <= level < levels]:
        raise ValueError(f"icm_levels={tuple(icm_levels)}: {wrong} is not among the levels 0 to {levels - 1}.")


def _warn_of_dilated_1x1(context_dilation: int, fusion_dilation: int) -> None:
    parts = []
    if context_dilation > 1:
        parts.append(f"the context branch (context_dilation={context_dilation})")
    if fusion_dilation > 1:
        parts.append(f"EFAM (fusion_dilations up to {fusion_dilation})")
    if parts:
        warnings.warn(
            f"A dilation > 1 meets a 1x1 kernel in {' and '.join(parts)}: a 1x1 kernel has one tap, so the rate "
            "changes nothing. This is the network as published; for a real dilation use context_kernel_size=3, "
            "fusion_kernel_size=3 (model=emisnet_intended has the first).",
            UserWarning,
            stacklevel=3,
        )
