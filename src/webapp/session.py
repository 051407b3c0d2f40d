"""From the file that a user sent to masks, tables and crops: what happens behind the page, without the page."""

import csv
import io
import math
import re
import threading
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from src.data.decode import allow_pixels
from src.data.pictures import read_picture
from src.figures import shrink
from src.inference import LEAKS, Prediction, Segmenter
from src.inference import MODES as ALL_MODES
from src.outputs import at_most, crop, encoded, overlay, plain_cell
from src.rois import PostProcess, Roi, find_rois, roi_row
from src.tiling import number_of_windows
from src.trained import Trained

MODES = tuple(mode for mode in ALL_MODES if mode not in LEAKS)  # without the true mask
SHOWN_SIDE = 1600  # px: no larger picture is sent to a browser
LOGITS_KEPT = 2**20  # values (4 MB) up to which a session keeps them as they are
STEPS = tuple(round(step / 100, 2) for step in range(1, 100))  # thresholds that the slider can take
LISTED = 100  # objects, the largest, whose figures a session keeps for the page's table; the CSV file has all
MOST_ROIS = 5000  # objects that are measured: noise has more, and nobody reads them
MAX_WINDOWS = 2000  # of mode tiled: one user's picture shall not keep the others waiting for minutes
NUMBERED = 40  # ROIs whose number stands in the picture


@dataclass(frozen=True)
class Settings:
    """What a mask is made with; `threshold` is a probability."""

    threshold: float
    post: PostProcess = field(default_factory=PostProcess)


class Kept:
    """A prediction, small enough to be kept for every user; masks cut of it are those of the prediction to the pixel.

    Logits of the network's size are kept as they are. Those of native size (mode tiled) are not: of each pixel it is
    kept which of `thresholds` and STEPS its probability exceeds, so probabilities come back rounded to half a step,
    but on the same side of each of these thresholds.
    """

    def __init__(self, prediction: Prediction, thresholds: Sequence[float] = ()):
        self.shape = prediction.shape
        self.prediction: Prediction | None = None
        self.steps = np.array(sorted({*STEPS, *thresholds}), np.float32)
        self.codes = b""
        if sum(logits.numel() for logits, _ in prediction.layers) <= LOGITS_KEPT:
            self.prediction = prediction
            return
        codes = np.empty(self.shape, np.uint8)
        for i, row in enumerate(prediction.probabilities()):  # by rows: searchsorted's own result is eight times larger
            codes[i] = np.searchsorted(self.steps, row)
        self.codes = zlib.compress(codes.tobytes(), level=1)

    def probabilities(self) -> np.ndarray:
        """(H, W) float32."""
        if self.prediction is not None:
            return self.prediction.probabilities()
        ends = np.concatenate([[0.0], self.steps, [1.0]]).astype(np.float32)
        middles = (ends[:-1] + ends[1:]) / 2
        return middles[np.frombuffer(zlib.decompress(self.codes), np.uint8).reshape(self.shape)]

    @property
    def nbytes(self) -> int:
        if self.prediction is None:
            return len(self.codes)
        return sum(logits.numel() * logits.element_size() for logits, _ in self.prediction.layers)


@dataclass(frozen=True)
class Seen:
    """A picture that the network has seen: what a session keeps of it. Its native pixels stay in the file at `path`.

    `name`: what the user calls the file; `spacing`: of rows and columns in mm, None if not known; `small`: a JPEG file
    of at most SHOWN_SIDE px; `seconds`: decoding and the network.
    """

    path: Path
    name: str
    mode: str
    kept: Kept
    spacing: tuple[float, float] | None
    small: bytes
    seconds: float = 0.0

    @property
    def shape(self) -> tuple[int, int]:
        return self.kept.shape

    @property
    def preview(self) -> np.ndarray:
        """(h, w, 3) uint8 RGB, at most SHOWN_SIDE px."""
        return cv2.cvtColor(_decoded(self.small, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)

    @property
    def stem(self) -> str:
        """What its downloads are called: the file's own name, as far as it is plain letters."""
        return re.sub(r"[^A-Za-z0-9_-]+", "_", Path(self.name).stem)[:60].strip("_") or "picture"


@dataclass(frozen=True)
class Drawn:
    """The mask of `settings`, for the screen.

    `small`: a PNG file of the preview's size; `rois`: the LISTED largest of `number` objects; `share`: of foreground
    pixels. Where there are more than MOST_ROIS objects none is measured, and nothing is done to the mask.
    """

    settings: Settings
    small: bytes
    rois: list[Roi]
    number: int
    share: float

    @property
    def mask(self) -> np.ndarray:
        """(h, w) uint8 of 0 and 255."""
        return _decoded(self.small, cv2.IMREAD_GRAYSCALE)

    @property
    def too_many(self) -> bool:
        return self.number > MOST_ROIS


class Looker:
    """A network that several users share: it looks at one picture at a time, while all else goes on beside it.

    Raises ValueError as `Trained.segmenter`.
    """

    def __init__(
        self,
        trained: Trained,
        *,
        max_pixels: int,
        threshold: float | None = None,
        tile: int | None = None,
        intensity: Sequence[float] | None = None,
        device: str | None = None,
    ):
        self.trained, self.max_pixels, self.intensity = trained, max_pixels, intensity
        allow_pixels(max_pixels)
        self.segmenters: dict[str, Segmenter] = {
            mode: trained.segmenter(mode=mode, threshold=threshold, tile=tile, device=device) for mode in MODES
        }
        self._alone = threading.Lock()

    def threshold(self, mode: str) -> float:
        return float(self.segmenters[mode].threshold)

    def look(self, path: Path, name: str, mode: str) -> Seen:
        """ValueError, for the user to read, without a path of this machine: a file that is no picture, or too large."""
        pixels, spacing = self.pixels(path, name)
        segmenter = self.segmenters[mode]
        if mode == "tiled":
            _refuse_many_windows(segmenter, pixels.shape[:2])
        try:
            with self._alone:
                (prediction,) = segmenter.predict([pixels])
            kept = Kept(prediction, [self.threshold(mode)])
        except (FloatingPointError, MemoryError) as error:
            raise ValueError(f"the network could not look at {name} ({type(error).__name__}).") from error
        return Seen(path, name, mode, kept, spacing, _jpeg(shrink(pixels, SHOWN_SIDE)))

    def pixels(self, path: Path, name: str) -> tuple[np.ndarray, tuple[float, float] | None]:
        """Native pixels (H, W, 3) uint8, and the spacing in mm. ValueError as `look`."""
        try:
            return tuple(read_picture(path, max_pixels=self.max_pixels, intensity=self.intensity))  # type: ignore[return-value]
        except ValueError as error:
            raise ValueError(_without_paths(str(error), path, name)) from error
        except MemoryError as error:
            raise ValueError(f"{name}: not enough memory here to decode it; downscale it first") from error


def draw(seen: Seen, settings: Settings) -> Drawn:
    """The mask at `settings`, and its objects."""
    probs = seen.kept.probabilities()
    mask, rois = probs > settings.threshold, list[Roi]()
    if (number := _number(mask, settings.post)) <= MOST_ROIS:
        labels, rois = find_rois(probs, settings.threshold, settings.post, spacing=seen.spacing)
        mask, number = labels > 0, len(rois)
    size = shown_size(seen.shape)
    small = cv2.resize(mask.astype(np.uint8) * np.uint8(255), size, interpolation=cv2.INTER_AREA) > 127
    return Drawn(settings, png(small.astype(np.uint8) * np.uint8(255)), rois[:LISTED], number, float(mask.mean()))


def find(seen: Seen, settings: Settings) -> tuple[np.ndarray, list[Roi]]:
    """Labels (H, W), native, and the objects, as `src.rois.find_rois`. ValueError: more than MOST_ROIS."""
    probs = seen.kept.probabilities()
    if (number := _number(probs > settings.threshold, settings.post)) > MOST_ROIS:
        raise ValueError(too_many(number))
    return find_rois(probs, settings.threshold, settings.post, spacing=seen.spacing)


def too_many(number: int) -> str:
    return (
        f"{number:,} regions are too many to measure, at most {MOST_ROIS:,} are: raise the threshold, or drop small "
        "regions (post-processing)."
    )


def shown(seen: Seen, drawn: Drawn, opacity: float) -> np.ndarray:
    """The preview (h, w, 3) uint8 with the mask over it, and the numbers that the table gives the objects."""
    picture = overlay(seen.preview, drawn.mask, opacity)
    scale = picture.shape[1] / seen.shape[1]
    size = max(0.6, max(picture.shape[:2]) / 900)
    for roi in drawn.rois[:NUMBERED]:
        _write_number(picture, str(roi.id), (roi.centroid[0] * scale, roi.centroid[1] * scale), size)
    return picture


def _write_number(picture: np.ndarray, text: str, middle: tuple[float, float], size: float) -> None:
    """White in a black box, to be read on any picture; it stays inside the picture."""
    line, edge = max(1, round(1.6 * size)), round(5 * size)
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, line)
    x = round(np.clip(middle[0] - width / 2, edge, max(edge, picture.shape[1] - width - edge)))
    y = round(np.clip(middle[1] + height / 2, height + edge, max(height + edge, picture.shape[0] - edge)))
    cv2.rectangle(picture, (x - edge, y - height - edge), (x + width + edge, y + edge), (0, 0, 0), cv2.FILLED)
    cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), line, cv2.LINE_AA)


def shown_size(shape: tuple[int, int]) -> tuple[int, int]:
    """Width and height on the screen of a picture of `shape` (H, W)."""
    return at_most(shape, SHOWN_SIDE)


# ---- downloads


def mask_png(seen: Seen, settings: Settings) -> bytes:
    """The mask, native size, 0 and 255."""
    labels, _ = find(seen, settings)
    return png((labels > 0).astype(np.uint8) * np.uint8(255))


def table_csv(seen: Seen, settings: Settings) -> str:
    """A row per object, as `src.predict` writes them."""
    _, rois = find(seen, settings)
    rows = [{"file": plain_cell(seen.name), **roi_row(roi, unit(seen))} for roi in rois]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["file", "roi"])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def crops_zip(looker: Looker, seen: Seen, settings: Settings) -> bytes:
    """A PNG of each object, native pixels. ValueError where the file is no longer here."""
    if not seen.path.is_file():
        raise ValueError(f"{seen.name} is no longer kept here. Send it again.")
    pixels, _ = looker.pixels(seen.path, seen.name)
    _, rois = find(seen, settings)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:  # stored: PNGs do not shrink further
        for roi in rois:
            archive.writestr(f"{seen.stem}/roi{roi.id}.png", png(crop(pixels, roi)))
    return packed.getvalue()


def unit(seen: Seen) -> str | None:
    return "mm" if seen.spacing else None


# ---- parts


def png(pixels: np.ndarray) -> bytes:
    """(H, W) or (H, W, 3) RGB, uint8, as a file."""
    return encoded(pixels, ".png")


def _decoded(file: bytes, how: int) -> np.ndarray:
    """Of a file that was encoded here."""
    pixels = cv2.imdecode(np.frombuffer(file, np.uint8), how)
    assert pixels is not None
    return pixels


def _jpeg(pixels: np.ndarray) -> bytes:
    return encoded(pixels, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 92])


def _number(mask: np.ndarray, post: PostProcess) -> int:
    """Of objects that are not too small, before holes are filled, which may join some: cheap, unlike measuring them."""
    if post.largest_only:
        return 1
    stats = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)[2]
    return int(np.count_nonzero(stats[1:, cv2.CC_STAT_AREA] >= post.min_area))


def _refuse_many_windows(segmenter: Segmenter, shape: tuple[int, ...]) -> None:
    height, width = shape[:2]
    window = (min(segmenter.tile, height), min(segmenter.tile, width))
    number = number_of_windows((height, width), window, segmenter.overlap)
    if number > MAX_WINDOWS:
        raise ValueError(
            f"mode tiled would look at {number:,} windows of {segmenter.tile} px, at most {MAX_WINDOWS:,} are allowed "
            "on this page. Choose another mode, or a smaller picture."
        )


def _without_paths(message: str, path: Path, name: str) -> str:
    """The decoder's message, with the user's name of the file in place of where it lies here, and a page's remedy."""
    message = message.replace(str(path), name)
    message = re.sub(r"set intensity=(\S+) \(.*?\)", r"have this page started with intensity=\1", message)
    return message if str(path.parent) not in message else f"{name} cannot be read as a picture."


def megapixels(shape: tuple[int, int]) -> str:
    return f"{shape[1]} x {shape[0]} px ({math.prod(shape) / 1e6:.2g} Mpx)"
