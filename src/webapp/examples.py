"""Pictures to try the page with: drawn by code, of no patient."""

from dataclasses import dataclass
from pathlib import Path

import cv2

from src.data.synthetic import KINDS, generate

SIZE = (384, 512)
ICON = 96  # px
TITLES = {"lesion": "Lesion", "polyp": "Polyp", "gland": "Glands"}
NUMBERS = (1, 4)  # of the generated pictures, of each kind


@dataclass(frozen=True)
class Example:
    """A picture at `path`, and a square of its middle at `icon`."""

    title: str
    path: Path
    icon: Path


def write_examples(folder: Path) -> list[Example]:
    """Draws them into `folder`, which it makes."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_write(kind, number, i, folder) for kind in KINDS for i, number in enumerate(NUMBERS, start=1)]


def _write(kind: str, number: int, i: int, folder: Path) -> Example:
    image, _ = generate(kind, number, size=SIZE)
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    left = (SIZE[1] - SIZE[0]) // 2
    icon = cv2.resize(bgr[:, left : left + SIZE[0]], (ICON, ICON), interpolation=cv2.INTER_AREA)
    example = Example(f"{TITLES[kind]} {i}", folder / f"generated_{kind}_{i}.png", folder / f"icon_{kind}_{i}.png")
    for path, pixels in ((example.path, bgr), (example.icon, icon)):
        path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    return example
