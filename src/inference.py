"""Segmenter, the one way from weights and images to probability maps at native size."""

import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from src.data.transforms import resize_image


def normalize(image: UInt8[Tensor, "b c h w"], mean: Float[Tensor, "c 1 1"], std: Float[Tensor, "c 1 1"]) -> Tensor:
    """uint8 0..255 to what the network takes, on the image's device: (image / 255 - mean) / std in float32."""
    return (image.float() / 255 - mean) / std


def channel_stats(values: Sequence[float]) -> Float[Tensor, "c 1 1"]:
    """A mean or std per channel, shaped to broadcast over (B, C, H, W)."""
    return torch.tensor(tuple(values), dtype=torch.float32)[:, None, None]


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A training checkpoint, tensors and plain values only. ValueError names a file that cannot be read."""
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):  # torch.load would unpickle it, and a text file end in an IndexError
                raise pickle.UnpicklingError("cut short, or not written by torch.save")
            file.seek(0)
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is not a readable checkpoint ({type(error).__name__}: {error}).") from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path} is not a readable checkpoint (it holds a {type(checkpoint).__name__}, not a dict).")
    return checkpoint


def read_weights(path: str | Path, net: nn.Module) -> nn.Module:
    """Puts the network's weights of a training checkpoint into `net`; with EMA those are the averaged ones.

    Raises ValueError for a file that cannot be read, or that belongs to another network.
    """
    state = read_checkpoint(path).get("state_dict", {})
    try:
        net.load_state_dict(
            {name.removeprefix("net."): value for name, value in state.items() if name.startswith("net.")}
        )
    except RuntimeError as error:
        raise ValueError(
            f"{path} holds the weights of another network: {str(error).splitlines()[1].strip()}"
        ) from error
    return net


class Segmenter:
    """Images of any size -> probability maps of their own size, in float32; FloatingPointError if they are not finite.

    Each image is resized to `size`, normalised and segmented; the *logits* are resized back, bilinear, and only then
    become probabilities, so thresholding happens at native size.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        threshold: float = 0.5,
        device: str | torch.device = "cpu",
    ):
        self.device = torch.device(device)
        self.net = net.to(self.device).eval()
        self.size, self.threshold = size, threshold
        self.mean, self.std = channel_stats(mean).to(self.device), channel_stats(std).to(self.device)

    @torch.inference_mode()
    def probabilities(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Each image (H, W, 3) uint8 gives a map (H, W) float32 of P(foreground)."""
        small = np.stack([resize_image(image, self.size).transpose(2, 0, 1) for image in images])
        exact = {"benchmark": False, "deterministic": True, "allow_tf32": False}  # on a GPU: the same numbers again
        with torch.backends.cudnn.flags(enabled=True, **exact):
            logits = self.net(normalize(torch.from_numpy(small).to(self.device), self.mean, self.std)).float()
        if not torch.isfinite(logits).all():
            raise FloatingPointError("the network's output is not finite: its weights are damaged or diverged.")
        return [
            F.interpolate(logits[i : i + 1], size=image.shape[:2], mode="bilinear", align_corners=False)[0, 0]
            .sigmoid()
            .cpu()
            .numpy()
            for i, image in enumerate(images)
        ]

    def protocol(self) -> Mapping[str, Any]:
        """How its masks come about, to stand beside every score."""
        return {"size": list(self.size), "mode": "full", "tta": None, "postprocess": None}


def best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
