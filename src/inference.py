"""Segmenter, the one way from weights and images to probability maps at native size.

Its modes:
    full            the whole image, once
    coarse_to_fine  the whole image, then the part of it around what was found there, from native pixels
    tiled           overlapping windows of native pixels, for images much larger than those trained on
    oracle_crop     the part around the *true* mask: how the method was published; leaks, see LEAKS
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from src.data.transforms import MARGIN, lesion_box, resize_image
from src.progress import progress
from src.tiling import blend, number_of_windows

CROP = f"square around all of it, margin {sum(MARGIN) / 2:g} of its longer side, moved inside the image, native pixels"
MODES: dict[str, dict[str, str]] = {  # with what the protocol says of them
    "full": {},
    "coarse_to_fine": {
        "crop": f"the coarse mask, cut where mode full is: {CROP}; outside the crop, and of an empty mask, the coarse "
        "result stands"
    },
    "tiled": {},  # see Segmenter.protocol
    "oracle_crop": {"crop": f"the true mask: {CROP}; outside the crop background; of an empty mask the whole image"},
}
LEAKS = {"oracle_crop": "the true mask is used: the crop tells the network where the lesion is, and how large"}

# Views of an image whose logits are averaged: quarter turns, and whether it is mirrored before.
TTA: dict[str, tuple[tuple[int, bool], ...]] = {
    "none": ((0, False),),
    "flips": tuple((turns, mirrored) for mirrored in (False, True) for turns in (0, 2)),
    "d4": tuple((turns, mirrored) for mirrored in (False, True) for turns in range(4)),
}
PRECISIONS = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
MANY_WINDOWS = 64  # in one image, from which on they have a progress bar of their own
SMALLEST = 32  # side of what a network is shown, px

Box = tuple[slice, slice]  # rows and columns of an image


def normalize(image: UInt8[Tensor, "b c h w"], mean: Float[Tensor, "c 1 1"], std: Float[Tensor, "c 1 1"]) -> Tensor:
    """uint8 0..255 to what the network takes, on the image's device: (image / 255 - mean) / std in float32."""
    return (image.float() / 255 - mean) / std


def channel_stats(values: Sequence[float]) -> Float[Tensor, "c 1 1"]:
    """A mean or std per channel, shaped to broadcast over (B, C, H, W)."""
    return torch.tensor(tuple(values), dtype=torch.float32)[:, None, None]


def checked_modes(modes: str | Sequence[str]) -> list[str]:
    """Each mode once, `full` first, because it is always scored. ValueError for one that does not exist."""
    given = [modes] if isinstance(modes, str) else list(modes)
    if wrong := [mode for mode in given if mode not in MODES]:
        raise ValueError(f"mode {wrong[0]!r} is not known. Possible: {', '.join(MODES)}.")
    return list(dict.fromkeys(["full", *given]))


def _choice(name: str, value: Any, possible: Mapping[str, Any]) -> Any:
    if value not in possible:
        raise ValueError(f"{name}={value!r} is not known. Possible: {', '.join(possible)}.")
    return possible[value]


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, (int, kind)) and not isinstance(value, bool)


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
            if logits.shape[2:] != size:
                logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
            plane[rows, columns] = logits[0, 0]
        return plane.sigmoid_().cpu().numpy()


class Segmenter:
    """Images of any size -> probability maps of their own size, float32; FloatingPointError if they are not finite.

    What the network is shown (the image, or a crop of it) is resized to `size`, normalised and segmented; the *logits*
    are resized back, bilinear, and only then become probabilities, so thresholding happens at native size.

    Args:
        threshold: where masks are cut, by whoever makes masks of the probabilities.
        mode: of MODES. In `coarse_to_fine` the coarse mask is cut at `coarse_threshold`; the crop's logits cover the
            coarse ones, which stand outside. In `oracle_crop` the outside is background, as for the published method,
            which scores the crop and nothing else: Dice, IoU, precision and recall are those of the crop. In `tiled`
            an image that is not larger than a window is seen whole; the logits of the windows are averaged with
            Gaussian weights.
        tta: of TTA; the logits of the views are averaged.
        precision: of PRECISIONS, the words of Lightning's trainer; logits and all after them stay float32.
        tile: side of a window, native px, shown to the network at `size`; None: the longer side of `size`.
        overlap: of neighbouring windows, a part of their side, 0 to below 1.
        batch_size: windows that go through the network at once.

    Raises:
        ValueError: an unknown mode, tta or precision, a tile or overlap out of range.
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
        tta: str = "none",
        precision: str = "32-true",
        tile: int | None = None,
        overlap: float = 0.25,
        batch_size: int = 8,
    ):
        checked_modes(mode)
        self.views, self.half = _choice("tta", tta, TTA), _choice("precision", precision, PRECISIONS)
        self.tile = max(size) if tile is None else tile
        if not _is_number(self.tile, int) or (mode == "tiled" and self.tile < SMALLEST):
            raise ValueError(f"tile={tile} is not possible; it is a whole number of px, from {SMALLEST} up.")
        if not _is_number(overlap, float) or not 0 <= overlap < 1:
            raise ValueError(f"overlap={overlap} is not possible; it is a part of a window's side, from 0 to below 1.")
        if not _is_number(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size={batch_size} is not possible; it is a whole number from 1 up.")
        self.tta, self.precision, self.overlap, self.batch_size = tta, precision, overlap, batch_size
        try:
            self.device = torch.device(device)
        except RuntimeError as error:
            raise ValueError(f"device={device} is not possible; it is cpu, cuda or cuda:<n>.") from error
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
        if self.mode == "tiled":
            return [self._tiled(image) for image in images]
        return self._whole(images)

    def _whole(self, images: Sequence[np.ndarray]) -> list[Prediction]:
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

    def _tiled(self, image: np.ndarray) -> Prediction:
        """One layer of native size. Windows at the image's border lie inside it; a side shorter than a window is seen
        at the windows' scale."""
        height, width = image.shape[:2]
        if max(height, width) <= self.tile:
            return self._whole([image])[0]
        window = (min(self.tile, height), min(self.tile, width))
        shown = tuple(
            max(SMALLEST, round(size * side / self.tile)) for size, side in zip(self.size, window, strict=True)
        )
        number = number_of_windows((height, width), window, self.overlap)
        with progress(number if number >= MANY_WINDOWS else 0, "one image", unit=" windows") as bar:  # 0: no bar
            plane = blend(
                lambda windows: self._logits([image] * len(windows), windows, shown),
                (height, width),
                window,
                overlap=self.overlap,
                batch_size=self.batch_size,
                done=bar.update,
            )
        return Prediction((height, width), ((plane, (slice(0, height), slice(0, width))),))

    @torch.inference_mode()
    def _logits(
        self, images: Sequence[np.ndarray], boxes: Sequence[Box], size: tuple[int, ...] | None = None
    ) -> Sequence[Tensor]:
        """(1, 1, h, w) at `size` of the part of each image that its box shows, all in one batch."""
        if not images:
            return []
        size = size or self.size
        shown = [resize_image(image[box], (size[0], size[1])) for image, box in zip(images, boxes, strict=True)]
        small = np.stack([image.transpose(2, 0, 1) for image in shown])
        exact = {"benchmark": False, "deterministic": True, "allow_tf32": False}  # on a GPU: the same numbers again
        with torch.backends.cudnn.flags(enabled=True, **exact), self._autocast():
            logits = self._averaged(normalize(torch.from_numpy(small).to(self.device), self.mean, self.std))
        if not torch.isfinite(logits).all():
            reason = "its weights are damaged or diverged"
            if self.half:
                reason = f"{reason}, or precision={self.precision} is too narrow for it (try 32-true)"
            raise FloatingPointError(f"the network's output is not finite: {reason}.")
        return logits.split(1)

    def _averaged(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 h w"]:
        """The mean of the logits of all views, each turned back; of one view just its logits."""
        total: Any = None
        for turns, mirrored in self.views:
            seen = torch.rot90(image.flip(3) if mirrored else image, turns, (2, 3))
            logits = torch.rot90(self.net(seen).float(), -turns, (2, 3))
            logits = logits.flip(3) if mirrored else logits
            total = logits if total is None else total + logits
        return total / len(self.views) if len(self.views) > 1 else total

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, self.half) if self.half else nullcontext()

    @property
    def way(self) -> str:
        """Mode, windows and test-time augmentation in one word, by which a run keeps its threshold."""
        mode = f"tiled-{self.tile}-{self.overlap:g}" if self.mode == "tiled" else self.mode
        return mode if self.tta == "none" else f"{mode}+{self.tta}"

    def protocol(self) -> Mapping[str, Any]:
        """How its masks come about, to stand beside every score."""
        tta = None if self.tta == "none" else f"{self.tta}: mean of the logits of {len(self.views)} views"
        told = {"size": list(self.size), "mode": self.mode, "tta": tta, "postprocess": None, **MODES[self.mode]}
        if self.mode == "tiled":
            told["tiles"] = (
                f"windows of {self.tile} px, overlap {self.overlap:g}, Gaussian weights; smaller images whole"
            )
        return told | ({"leaks": LEAKS[self.mode]} if self.mode in LEAKS else {})


def best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
