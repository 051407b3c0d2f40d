"""How far a network sees: the pixels that can reach one output pixel, and how much each of them matters.

The theoretical field follows from kernels, strides and rates alone. The effective one is that of given weights on given
images, fades from the centre outwards and is much smaller (Luo et al., *Understanding the Effective Receptive Field in
Deep Convolutional Neural Networks*, NeurIPS 2016).
"""

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

FAINT = 1 - 0.9545  # of the largest gradient: pixels below are outside, as in the paper (two standard deviations)
PROBE = 0.1  # input of the theoretical field: activations are then on their rising side, and no sigmoid saturates


def effective_receptive_field(net: nn.Module, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "h w"]:
    """Mean over the images of |d output / d pixel|, summed over channels, relative to its largest value.

    The output is the centre pixel of what `net` returns, (B, N, H, W), summed over its planes. Put `net` in eval mode.
    Raises ValueError where no pixel has a gradient.
    """
    total = torch.zeros(images.shape[-2:], dtype=images.dtype, device=images.device)
    for image in images.detach().split(1):
        total += _gradient(net, image).abs().sum(1)[0]
    if not total.max() > 0:
        raise ValueError("no pixel of these images has a gradient: the network's output does not depend on them.")
    return total / total.max()


def effective_side(field: Float[Tensor, "h w"]) -> float:
    """Side in px of a square with as many pixels as `field` has above FAINT."""
    return float((field > FAINT * field.max()).sum().sqrt())


def theoretical_receptive_field(net: nn.Module, input_shape: Sequence[int]) -> Bool[Tensor, "h w"]:
    """Which pixels of an input (1, C, H, W) can change the output's centre pixel, whatever the weights.

    Found as the gradient of a copy in float64 whose weights are all positive and whose pooling averages, so that every
    path counts and no two cancel. It knows convolutions, BatchNorm, max and average pooling, resizing, gates, and
    activations that rise for a positive input; pooling has to be a module.
    """
    probe = copy.deepcopy(net).double().eval().requires_grad_(False)
    for module in list(probe.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.MaxPool2d):
                setattr(module, name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding))
            elif isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
        if isinstance(module, nn.Conv2d):
            module.weight.fill_(1 / module.weight[0].numel())
            if module.bias is not None:
                module.bias.zero_()
    image = torch.full(tuple(input_shape), PROBE, dtype=torch.float64)
    return _gradient(probe, image)[0].sum(0) > 0


def extent(reached: Bool[Tensor, "h w"]) -> tuple[int, int]:
    """Rows and columns of the smallest box that holds all pixels reached; (0, 0) of none."""
    rows, columns = (reached.any(dim).nonzero().flatten() for dim in (1, 0))
    return (int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1) if len(rows) else (0, 0)


def _gradient(net: nn.Module, image: Float[Tensor, "1 c h w"]) -> Float[Tensor, "1 c h w"]:
    """Of the centre pixel of the output; the network's parameters get none."""
    image = image.clone().requires_grad_()
    output = net(image)
    height, width = output.shape[-2:]
    (gradient,) = torch.autograd.grad(output[..., height // 2, width // 2].sum(), image)
    return gradient
