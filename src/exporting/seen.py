"""What a Segmenter shows its network: the one true preparation of images, for calibration."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from torch import Tensor, nn

from src.trained import Trained


def seen_by(trained: Trained, images: Iterable[np.ndarray]) -> list[Tensor]:
    """Each image (H, W, 3) uint8 as the network gets it: (1, C, h, w) float32, resized and normalised."""
    witness = _Witness()
    segmenter = replace(trained, net=witness).segmenter(device="cpu")
    for image in images:
        segmenter.predict([image])
    return witness.seen


class _Witness(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, image: Tensor) -> Tensor:
        self.seen.append(image)
        return image[:, :1]
