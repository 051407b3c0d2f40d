"""Pictures as users have them: wherever they lie, what `src.data.decode` reads, and DICOM with its spacing."""

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from src.data.decode import MAX_PIXELS, read_image
from src.data.dicom import SUFFIXES as DICOM
from src.data.dicom import Picture, is_dicom, read_dicom

RESULTS = ("masks", "overlays", "crops")  # folders below an output
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", *DICOM)


def read_picture(
    path: str | Path, *, max_pixels: int = MAX_PIXELS, intensity: Sequence[float] | None = None
) -> Picture:
    """The pixels of a JPEG, PNG, BMP, TIFF, WebP or DICOM file, whatever its name says.

    `intensity` (low, high): the grey values of deep images that become 0 and 255. ValueError: as
    `src.data.decode.read_image` and `src.data.dicom.read_dicom`, naming the file and what to do.
    """
    if is_dicom(path):
        return read_dicom(path, intensity, max_pixels)
    return Picture(read_image(path, intensity, max_pixels=max_pixels))


def find_files(given: str | Sequence[str], output: Path) -> list[tuple[Path, str]]:
    """The images that files, folders (with all below them) and glob patterns name, each with the name of its results:
    its path below the folder or the pattern's fixed part, without suffix unless two images differ by it alone.

    Results below `output` are left out, as is what a folder holds of other kinds, which is told.

    Raises ValueError where nothing is found, or the results of two images would have one name.
    """
    found: dict[Path, Path] = {}  # image -> relative name
    results = [output.resolve() / name for name in RESULTS]
    for one in [given] if isinstance(given, str) else given:
        path = Path(one).expanduser()
        if path.is_file():
            found.setdefault(path, Path(path.name))
            continue
        root, inside = (path, path.rglob("*")) if path.is_dir() else _glob(path)
        files = sorted(file for file in inside if file.is_file() or file.is_symlink())
        # by os.path: Path.resolve ends at a link to itself
        files = [file for file in files if not any(Path(os.path.realpath(file)).is_relative_to(r) for r in results)]
        images = [file for file in files if file.suffix.lower() in SUFFIXES or is_dicom(file)]
        if not images:
            what = f"no image among {len(files)} files" if files else "nothing is there"
            raise ValueError(
                f"input={one}: {what}. Give an image, a folder or a pattern of {', '.join(SUFFIXES)} files."
            )
        if others := len(files) - len(images):
            print(f"note: {others} files of {root} are no images by their names; left out.", file=sys.stderr)
        for file in images:
            name = Path(os.path.relpath(file, root))  # without the .. of a pattern
            if ".." in name.parts:
                raise ValueError(f"input={one}: {file} lies outside {root}, so its results would outside the output.")
            found.setdefault(file, name)
    return list(zip(found, _names(found), strict=True))


def _names(found: dict[Path, Path]) -> list[str]:
    stems = Counter(name.with_suffix("") for name in found.values())
    whole = [stems[name.with_suffix("")] > 1 or name.stem == ".." for name in found.values()]  # of "...png"
    names = [str(name if keep else name.with_suffix("")) for name, keep in zip(found.values(), whole, strict=True)]
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        both = [str(path) for path, name in zip(found, names, strict=True) if name == twice[0]]
        raise ValueError(
            f"the results of {' and '.join(both[:2])} would have one name; segment them one after another."
        )
    return names


def _glob(pattern: Path) -> tuple[Path, Iterator[Path]]:
    """The folder before the first part with a wildcard, and what the pattern finds."""
    parts = pattern.parts
    first = next((i for i, part in enumerate(parts) if any(sign in part for sign in "*?[")), len(parts) - 1)
    root = Path(*parts[:first])
    return root, root.glob(str(Path(*parts[first:])))
