"""A trained network as the teacher of another: its probabilities become a second target.

Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, here for each pixel and at
temperature 1: a mask's pixel has two classes, whose odds the probability keeps.
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from src.inference import channel_stats, normalize


class Teacher:
    """uint8 images (B, C, H, W) -> probabilities (B, 1, H, W), without gradient, at the size `net` was trained at.

    No nn.Module on purpose: its weights are no part of the student's checkpoints.
    """

    def __init__(self, net: nn.Module, *, size: tuple[int, int], mean: Sequence[float], std: Sequence[float]):
        self.net, self.size = net.eval().requires_grad_(False), size
        self.mean, self.std = channel_stats(mean), channel_stats(std)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # `ema` copies the task, and a second teacher would only take memory

    @torch.no_grad()
    def __call__(self, image: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b 1 h w"]:
        if self.mean.device != image.device:
            self.net.to(image.device)
            self.mean, self.std = self.mean.to(image.device), self.std.to(image.device)
        normal = normalize(image, self.mean, self.std)
        if (size := image.shape[-2:]) == self.size:
            return self.net(normal).float().sigmoid()
        # close to the area averaging that it was trained with, which torch has for whole factors only
        resized = F.interpolate(normal, self.size, mode="bilinear", antialias=True)
        return F.interpolate(self.net(resized).float(), size, mode="bilinear").sigmoid()


def distillation_loss(logits: Tensor | list[Tensor], probs: Float[Tensor, "b 1 h w"]) -> Float[Tensor, ""]:
    """Binary cross-entropy of the (main) logits against the teacher's probabilities, mean over pixels."""
    main = logits if isinstance(logits, Tensor) else logits[0]
    return F.binary_cross_entropy_with_logits(main.float(), probs)
