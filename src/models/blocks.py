"""The three blocks of EMIS-Net (LGFE, ICM, EFAM), each usable alone.

Source: the EMIS-Net patent text (method, system, device, storage medium, program product). Ghost module: Han et al.,
CVPR 2020. Coordinate attention: Hou et al., CVPR 2021. Both come from timm, with the arguments that make them the
papers'.

What is unusual here: as published, ICM and EFAM are purely linear chains, and the "dilated" context convolution has a
1x1 kernel, whose one tap no dilation can move. They are built as written (`src.models.fuse` folds them afterwards);
the arguments that make them do what the text's words ask for stand beside them.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from timm.layers.coord_attn import CoordAttn
from timm.models.ghostnet import GhostModule
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "hardswish": nn.Hardswish}


def make_act(name: str) -> nn.Module:
    """The activation called `name`; raises ValueError for one that is not in ACTIVATIONS."""
    if name not in ACTIVATIONS:
        raise ValueError(f"act={name!r} is not an activation of this network. Possible: {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]()


def ghost_module(in_channels: int, out_channels: int, ratio: int) -> GhostModule:
    """The Ghost module with a 1x1 primary and a 3x3 cheap convolution, 1 / ratio of its channels being primary."""
    if ratio < 2:
        raise ValueError(f"ghost_ratio={ratio}: the Ghost module needs at least 2. Use ghost=False to take it out.")
    return GhostModule(in_channels, out_channels, ratio=ratio)


def coordinate_attention(channels: int, reduction: int) -> CoordAttn:
    """Coordinate attention with the CA paper's bottleneck, `max(8, C // reduction)` wide, and its biases."""
    if reduction < 1:
        raise ValueError(f"ca_reduction={reduction}: at least 1 is needed; the paper's is 32.")
    return CoordAttn(channels, rd_channels=max(8, channels // reduction), bias=True)


def plain_mixer(in_channels: int, out_channels: int) -> nn.Sequential:
    """What stands in for the Ghost module when it is ablated: a plain convolution of the same kernel, BN, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def dilated_conv(in_channels: int, out_channels: int, kernel_size: int, dilation: int) -> nn.Module:
    """One dilated convolution that keeps H and W: a 1x1 as published, or depthwise k x k then 1x1 for k > 1."""
    if kernel_size % 2 == 0 or kernel_size < 1:
        raise ValueError(f"kernel size {kernel_size}: it must be odd, or it would shift the image. Use 1, 3, 5, ...")
    if dilation < 1:
        raise ValueError(f"dilation {dilation}: a rate must be at least 1, which is an ordinary convolution.")
    if kernel_size == 1:
        return nn.Conv2d(in_channels, out_channels, 1, dilation=dilation)
    depthwise = nn.Conv2d(
        in_channels,
        in_channels,
        kernel_size,
        padding=dilation * (kernel_size // 2),
        dilation=dilation,
        groups=in_channels,
        bias=False,
    )
    return nn.Sequential(depthwise, nn.Conv2d(in_channels, out_channels, 1))


class LGFE(nn.Module):
    """Local-global feature extraction, the encoder and decoder block: (B, C_in, H, W) -> (B, C_out, H, W).

        local   = BN(CA(Ghost(GELU(BN(depthwise5x5(x))))))
        context = conv1x1(x), dilation 7
        output  = GELU(local + context)

    `ghost=False` puts a plain 1x1 convolution, BN, ReLU in the Ghost module's place; `attention=False` and
    `context=False` take the part out.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        local_kernel_size: int = 5,
        context_kernel_size: int = 1,
        context_dilation: int = 7,
        ghost_ratio: int = 2,
        ca_reduction: int = 32,
        act: str = "gelu",
        ghost: bool = True,
        attention: bool = True,
        context: bool = True,
    ):
        super().__init__()
        if local_kernel_size % 2 == 0 or local_kernel_size < 1:
            raise ValueError(f"local_kernel_size={local_kernel_size}: it must be odd. The published one is 5.")
        padding = local_kernel_size // 2
        self.depthwise = nn.Sequential(
            nn.Conv2d(in_channels, in_channels, local_kernel_size, padding=padding, groups=in_channels, bias=False),
            nn.BatchNorm2d(in_channels),
            make_act(act),
        )
        self.ghost = (
            ghost_module(in_channels, out_channels, ghost_ratio) if ghost else plain_mixer(in_channels, out_channels)
        )
        self.attention = coordinate_attention(out_channels, ca_reduction) if attention else nn.Identity()
        self.norm = nn.BatchNorm2d(out_channels)
        self.context = (
            dilated_conv(in_channels, out_channels, context_kernel_size, context_dilation) if context else None
        )
        self.act = make_act(act)

    def forward(self, x: Float[Tensor, "b c_in h w"]) -> Float[Tensor, "b c_out h w"]:
        local = self.norm(self.attention(self.ghost(self.depthwise(x))))
        return self.act(local if self.context is None else local + self.context(x))


class ICM(nn.Module):
    """Information compression, between encoder and decoder: (B, C, H, W) -> (B, C, H, W), narrow-wide-narrow.

        output = GELU(x + BN(conv_4C->C(conv_C->4C(conv_C->C(x)))))

    Without an activation between them the three 1x1 convolutions equal one. `inner_act=True` puts one after the first
    and the second, which is what makes the expansion worth having.
    """

    def __init__(self, channels: int, *, expansion: int = 4, act: str = "gelu", inner_act: bool = False):
        super().__init__()
        self.project = nn.Sequential(
            nn.Conv2d(channels, channels, 1),
            make_act(act) if inner_act else nn.Identity(),
            nn.Conv2d(channels, expansion * channels, 1),
            make_act(act) if inner_act else nn.Identity(),
            nn.Conv2d(expansion * channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.act = make_act(act)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self.act(x + self.project(x))


class EFAM(nn.Module):
    """Feature aggregation: (B, C_in, H, W) -> (B, C_out, H, W).

        output = conv1x1(concat_d conv_dilated_d(x)),  one branch per dilation rate

    As published every kernel is 1x1, so the whole block equals one 1x1 convolution whatever the rates. With
    `kernel_size=3` each branch is a depthwise convolution at its rate followed by a 1x1.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, dilations: Sequence[int] = (1, 3, 5), kernel_size: int = 1
    ):
        super().__init__()
        if not dilations:
            raise ValueError("EFAM got no dilation rate; it needs at least one, such as dilations=(1, 3, 5).")
        self.branches = nn.ModuleList(dilated_conv(in_channels, out_channels, kernel_size, rate) for rate in dilations)
        self.merge = nn.Conv2d(len(self.branches) * out_channels, out_channels, 1)

    def forward(self, x: Float[Tensor, "b c_in h w"]) -> Float[Tensor, "b c_out h w"]:
        return self.merge(torch.cat([branch(x) for branch in self.branches], dim=1))

    def as_conv(self) -> tuple[Float[Tensor, "c_out c_in 1 1"], Float[Tensor, " c_out"]]:
        """Weight and bias of the one 1x1 convolution that this block equals; AssertionError for a kernel > 1."""
        convs = [branch for branch in self.branches if isinstance(branch, nn.Conv2d)]
        assert len(convs) == len(self.branches), "kernels > 1 are not one 1x1"
        weight = torch.cat([conv.weight for conv in convs]).flatten(1)
        bias = torch.cat([conv.bias for conv in convs if conv.bias is not None])
        merge = self.merge.weight.flatten(1)
        assert self.merge.bias is not None
        return (merge @ weight)[:, :, None, None], merge @ bias + self.merge.bias
