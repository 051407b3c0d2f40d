"""One look at every image and mask of a dataset: sizes, file types, what the masks hold; a bad file ends nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from src.data.decode import LOSSY_FORMATS, file_type, read_labels, read_mask
from src.data.duplicates import SIDE, Thumbs, pixel_digest, thumbnail
from src.data.foreground import kind_of, stored_values
from src.data.pairs import Pair
from src.data.source import DataSource
from src.progress import in_threads


@dataclass
class Look:
    """What one pair of files holds; empty from where a file could not be read, and then `fault` says why.

    `area` is the foreground's fraction of the image. `objects` are its 8-connected components, the smallest of
    `smallest_object` px; `holes` are 4-connected components of the background that it encloses.
    """

    id: str
    height: int = 0
    width: int = 0
    format: str = ""
    mode: str = ""
    mask_format: str = ""
    mask_mode: str = ""
    mask_values: int = 0
    mask_kind: str = ""
    area: float | None = None
    objects: int = 0
    smallest_object: int = 0
    holes: int = 0
    touches_border: bool = False
    digest: str = ""
    fault: str = ""


@dataclass
class Survey:
    """`looks` at all pairs; of the images that could be read, `digest_of` (id -> digest) and `thumbs` in its order."""

    looks: list[Look]
    digest_of: dict[str, str]
    thumbs: Thumbs


def survey(source: DataSource, prefix: str = "") -> Survey:
    """Reads every image and mask once; `prefix` goes before all ids."""

    def look_at(pair: Pair) -> tuple[Look, Thumbs]:
        return _look(source, pair, prefix)

    seen = list(in_threads(look_at, list(source.pairs.values()), f"reading {source.dataset}"))
    looks, thumbs = [look for look, _ in seen], [thumb for look, thumb in seen if look.digest]
    digest_of = {look.id: look.digest for look in looks if look.digest}
    return Survey(looks, digest_of, np.array(thumbs, np.uint8).reshape(-1, SIDE, SIDE, 3))


def _look(source: DataSource, pair: Pair, prefix: str) -> tuple[Look, Thumbs]:
    look, thumb = Look(prefix + pair.id), np.zeros((SIDE, SIDE, 3), np.uint8)
    try:
        look.format, look.mode = file_type(pair.image)
        image = source.load_image(pair.id)
        look.height, look.width = image.shape[:2]
        look.digest, thumb = pixel_digest(image), thumbnail(image)
        _look_at_mask(look, pair, source.foreground)
    except ValueError as error:
        look.fault = str(error)
    return look, thumb


def _look_at_mask(look: Look, pair: Pair, foreground: str | Mapping[Any, int]) -> None:
    """ValueError: a mask that cannot be read as `foreground` says, or of another size than its image."""
    look.mask_format, look.mask_mode = file_type(pair.mask)
    values = stored_values(read_labels(pair.mask))
    look.mask_values, look.mask_kind = len(values), kind_of(values, is_lossy=look.mask_format in LOSSY_FORMATS)
    mask = read_mask(pair.mask, foreground)
    if mask.shape != (look.height, look.width):
        raise ValueError(
            f"{pair.mask}: the mask is {mask.shape[0]}x{mask.shape[1]}, its image {look.height}x{look.width} (height x "
            "width); give both the same size"
        )
    look.area = float(mask.mean())
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    look.objects = count - 1
    look.smallest_object = int(stats[1:, cv2.CC_STAT_AREA].min(initial=mask.size)) if look.objects else 0
    surrounded = np.pad(1 - mask, 1, constant_values=1)  # so that all background at the border is one component
    look.holes = cv2.connectedComponents(surrounded, connectivity=4)[0] - 2
    look.touches_border = bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())
