"""Segmenter, the one way from weights and images to probability maps at native size.

Its modes:
    full            the whole image, once
    coarse_to_fine  the whole image, then the part of it around what was found there, from native pixels
    oracle_crop     the part around the *true* mask: how the method was published; leaks, see LEAKS
"""

import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from src.data.transforms import MARGIN, lesion_box, resize_image

CROP = f"square around all of it, margin {sum(MARGIN) / 2:g} of its longer side, moved inside the image, native pixels"
MODES: dict[str, dict[str, str]] = {  # with what the protocol says of them
    "full": {},
    "coarse_to_fine": {
        "crop": f"the coarse mask, cut where mode full is: {CROP}; outside the crop, and of an empty mask, the coarse "
        "result stands"
    },
    "oracle_crop": {"crop": f"the true mask: {CROP}; outside the crop background; of an empty mask the whole image"},
}
LEAKS = {"oracle_crop": "the true mask is used: the crop tells the network where the lesion is, and how large"}

Box = tuple[slice, slice]  # rows and columns of an image


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


def checked_modes(modes: str | Sequence[str]) -> list[str]:
    """Each mode once, `full` first, because it is always scored. ValueError for one that does not exist."""
    given = [modes] if isinstance(modes, str) else list(modes)
    if wrong := [mode for mode in given if mode not in MODES]:
        raise ValueError(f"mode {wrong[0]!r} is not known. Possible: {', '.join(MODES)}.")
    return list(dict.fromkeys(["full", *given]))


class _MeanDraws(np.random.Generator):
    """Draws the mean of every range, so that `lesion_box` gives the crop that training gives on average."""

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        return np.full(size or (), (low + high) / 2)


def crop_box(mask: np.ndarray) -> Box:
    """Where modes with a crop look, given a mask (H, W) of bool or 0 and 1: CROP; all of it where the mask is empty."""
    return lesion_box(mask, _MeanDraws(np.random.PCG64(0)))


class Prediction(NamedTuple):
    """What the network said of one image, before it is brought to native size.

    `shape` is the image's (H, W). Each of `layers` holds logits (1, 1, h, w), at the network's size, and the box of the
    image that they are of; a later layer covers those before it, and where there is none is background. It is small:
    the probability maps of 200 images of 2 Mpx would take 1.6 GB, their predictions at 256 px take 52 MB.
    """

    shape: tuple[int, int]
    layers: tuple[tuple[Tensor, Box], ...]

    @torch.inference_mode()
    def probabilities(self) -> np.ndarray:
        """(H, W) float32 of P(foreground): the logits resized, bilinear, each to its box; only then the sigmoid."""
        plane = torch.full(self.shape, -torch.inf, device=self.layers[0][0].device)
        for logits, (rows, columns) in self.layers:
            size = (rows.stop - rows.start, columns.stop - columns.start)
            plane[rows, columns] = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)[0, 0]
        return plane.sigmoid_().cpu().numpy()


class Segmenter:
    """Images of any size -> probability maps of their own size, in float32; FloatingPointError if they are not finite.

    What the network is shown (the image, or a crop of it) is resized to `size`, normalised and segmented; the *logits*
    are resized back, bilinear, and only then become probabilities, so thresholding happens at native size.

    Args:
        threshold: where masks are cut, by whoever makes masks of the probabilities.
        mode: of MODES. In `coarse_to_fine` the coarse mask is cut at `coarse_threshold`; the crop's logits cover the
            coarse ones, which stand outside. In `oracle_crop` the outside is background, as for the published method,
            which scores the crop and nothing else: Dice, IoU, precision and recall are those of the crop.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        threshold: float = 0.5,
        mode: str = "full",
        coarse_threshold: float = 0.5,
        device: str | torch.device = "cpu",
    ):
        checked_modes(mode)
        self.device = torch.device(device)
        self.net = net.to(self.device).eval()
        self.size, self.threshold = size, threshold
        self.mode, self.coarse_threshold = mode, coarse_threshold
        self.mean, self.std = channel_stats(mean).to(self.device), channel_stats(std).to(self.device)

    def probabilities(
        self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray] | None = None
    ) -> list[np.ndarray]:
        """Each image (H, W, 3) uint8 gives a map (H, W) float32 of P(foreground). See `predict` for `masks`."""
        return [prediction.probabilities() for prediction in self.predict(images, masks)]

    def predict(self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray] | None = None) -> list[Prediction]:
        """The network's answer to each image (H, W, 3) uint8.

        `masks` are the true masks (H, W), needed by mode `oracle_crop` (ValueError without) and ignored by the others.
        """
        if self.mode == "oracle_crop":
            if masks is None:
                raise ValueError(
                    "mode oracle_crop crops around the true masks, and none are given. Use coarse_to_fine for images "
                    "whose masks are not known."
                )
            boxes = [crop_box(mask > 0) for mask in masks]
            layers = zip(self._logits(images, boxes), boxes, strict=True)
            return [Prediction(image.shape[:2], (layer,)) for image, layer in zip(images, layers, strict=True)]
        whole: list[Box] = [(slice(0, image.shape[0]), slice(0, image.shape[1])) for image in images]
        layers = zip(self._logits(images, whole), whole, strict=True)
        coarse = [Prediction(image.shape[:2], (layer,)) for image, layer in zip(images, layers, strict=True)]
        return self._refined(images, coarse, whole) if self.mode == "coarse_to_fine" else coarse

    def _refined(
        self, images: Sequence[np.ndarray], coarse: Sequence[Prediction], whole: Sequence[Box]
    ) -> list[Prediction]:
        """`coarse` with a second layer, unless the crop is the whole image, whose answer is known."""
        boxes = [crop_box(prediction.probabilities() > self.coarse_threshold) for prediction in coarse]
        cropped = [i for i, box in enumerate(boxes) if box != whole[i]]
        refined = list(coarse)
        fine = self._logits([images[i] for i in cropped], [boxes[i] for i in cropped])
        for i, logits in zip(cropped, fine, strict=True):
            refined[i] = coarse[i]._replace(layers=(*coarse[i].layers, (logits, boxes[i])))
        return refined

    @torch.inference_mode()
    def _logits(self, images: Sequence[np.ndarray], boxes: Sequence[Box]) -> Sequence[Tensor]:
        """(1, 1, h, w) at `size` of the part of each image that its box shows, all in one batch."""
        if not images:
            return []
        shown = [resize_image(image[box], self.size) for image, box in zip(images, boxes, strict=True)]
        small = np.stack([image.transpose(2, 0, 1) for image in shown])
        exact = {"benchmark": False, "deterministic": True, "allow_tf32": False}  # on a GPU: the same numbers again
        with torch.backends.cudnn.flags(enabled=True, **exact):
            logits = self.net(normalize(torch.from_numpy(small).to(self.device), self.mean, self.std)).float()
        if not torch.isfinite(logits).all():
            raise FloatingPointError("the network's output is not finite: its weights are damaged or diverged.")
        return logits.split(1)

    def protocol(self) -> Mapping[str, Any]:
        """How its masks come about, to stand beside every score."""
        told = {"size": list(self.size), "mode": self.mode, "tta": None, "postprocess": None, **MODES[self.mode]}
        return told | ({"leaks": LEAKS[self.mode]} if self.mode in LEAKS else {})


def best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
