"""Where the files of a dataset lie, and which mask belongs to which image.

Image and mask pair by id, made from their names, never by their place in two listings. Each finder reads the plain
layout (images/ beside masks/) and that of the official archive. What stays without a partner is an error: a mask left
out in silence is a changed dataset.
"""

import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
KVASIR_SEG_ARCHIVE = "Kvasir-SEG"
GLAS_ARCHIVE = "Warwick QU Dataset (Released 2016_07_08)"
ISIC2018_PARTS = {"train": "Training", "val": "Validation", "test": "Test"}
NAMES_SHOWN = 200  # who has to mend files needs all their names, if they can be read at all
ENTRIES_SHOWN = 10


@dataclass(frozen=True)
class Pair:
    """One image with its mask; `id` is unique in its dataset and the same in every layout."""

    id: str
    image: Path
    mask: Path


class NoData(ValueError):
    """No known layout of the dataset is there."""


class PairingError(ValueError):
    """Files without exactly one partner.

    Attributes:
        pairs: id -> Pair of the files that have one.
        faults: one text for each kind of fault, with the names of its files.
    """

    def __init__(self, dataset: str, root: Path, pairs: dict[str, Pair], faults: list[str]):
        super().__init__(
            f"{dataset}: every image needs exactly one mask of its name, in {root} there are {'; '.join(faults)}. Add "
            "what is missing, rename, or move these files away"
        )
        self.pairs, self.faults = pairs, faults


@dataclass(frozen=True)
class _Source:
    """Two folders, which may be one, and the endings that names carry behind the id."""

    images: Path
    masks: Path
    mask_suffix: str = ""
    ignored_suffixes: tuple[str, ...] = ()

    def exists(self) -> bool:
        return self.images.is_dir() and self.masks.is_dir()


def kvasir_seg_pairs(root: str | Path) -> dict[str, Pair]:
    """id (file stem) -> Pair. NoData: nothing found at `root`. PairingError: unpaired files, duplicate ids."""
    root = Path(root)
    sources = [_Source(place / "images", place / "masks") for place in (root, root / KVASIR_SEG_ARCHIVE)]
    layouts = ["images/<id>.jpg with masks/<id>.jpg", f"{KVASIR_SEG_ARCHIVE}/images/<id>.jpg with the same in masks/"]
    return _pair("kvasir_seg", root, [_the_one("kvasir_seg", root, sources, layouts)])


def isic2018_pairs(root: str | Path) -> dict[str, Pair]:
    """id (ISIC_0000000) -> Pair, over all parts that are there. Errors as `kvasir_seg_pairs`."""
    root = Path(root)
    plain = _Source(root / "images", root / "masks", "_segmentation", ("_superpixels",))
    official = _isic2018_official(root)
    if plain.exists() and official:
        raise ValueError(
            f"isic2018: {root} holds both the plain images/ and the official archive folders, and which one is meant "
            "cannot be told; move one of them away"
        )
    layouts = [
        "images/ISIC_<n>.jpg with masks/ISIC_<n>_segmentation.png",
        "ISIC2018_Task1-2_<part>_Input/ with ISIC2018_Task1_<part>_GroundTruth/, <part> Training, Validation or Test",
    ]
    return _pair("isic2018", root, list(official.values()) or [_the_one("isic2018", root, [plain], layouts)])


def isic2018_parts(root: str | Path) -> dict[str, list[str]]:
    """part ("train", "val", "test") -> sorted ids, by the archive folder they lie in; {} for the plain layout.

    A part whose folders are absent is no key. Whether each image has its mask is for `isic2018_pairs` to say.
    """
    parts = {}
    for part, source in _isic2018_official(Path(root)).items():
        images = _Files()
        _collect(source, images, _Files())
        parts[part] = sorted(images.by_id)
    return parts


def glas_pairs(root: str | Path) -> dict[str, Pair]:
    """id (train_1, testA_1, ...) -> Pair. Errors as `kvasir_seg_pairs`."""
    root = Path(root)
    archive = _glas_archive(root)
    layouts = [
        "images/train_<n>.bmp with masks/train_<n>_anno.bmp",
        f"{GLAS_ARCHIVE}/train_<n>.bmp with train_<n>_anno.bmp",
    ]
    sources = [_Source(root / "images", root / "masks", "_anno")]
    if archive is not None:
        sources.append(_Source(archive, archive, "_anno"))
    return _pair("glas", root, [_the_one("glas", root, sources, layouts)])


def folder_pairs(
    root: str | Path, *, images: str = "images", masks: str = "masks", mask_suffix: str = ""
) -> dict[str, Pair]:
    """id (path below the image folder, posix, without file suffix) -> Pair, for any tree of image files.

    The mask of images/a/b.jpg is masks/a/b<mask_suffix>.<any image suffix>. Both folders may be one if `mask_suffix` is
    given. Hidden files and links to folders are passed over. Errors as `kvasir_seg_pairs`.
    """
    root = Path(root)
    source = _Source(root / images, root / masks, mask_suffix)
    if source.images == source.masks and not mask_suffix:
        raise ValueError(f"folder: images and masks both lie in {source.images}; set mask_suffix to tell them apart")
    layouts = [f"{images}/**/<name>.<image suffix> with {masks}/**/<name>{mask_suffix}.<image suffix>"]
    return _pair("folder", root, [_the_one("folder", root, [source], layouts)])


# ---- which layout


def _isic2018_official(root: Path) -> dict[str, _Source]:
    sources = {
        part: _Source(
            root / f"ISIC2018_Task1-2_{name}_Input",
            root / f"ISIC2018_Task1_{name}_GroundTruth",
            "_segmentation",
            ("_superpixels",),
        )
        for part, name in ISIC2018_PARTS.items()
    }
    if root.name in {folder.name for source in sources.values() for folder in (source.images, source.masks)}:
        return _isic2018_official(root.parent)  # the archives lie side by side: one of them stands for all
    half = [source for source in sources.values() if source.images.is_dir() != source.masks.is_dir()]
    if half:
        folders = [folder.name for source in half for folder in (source.images, source.masks) if not folder.is_dir()]
        raise ValueError(
            f"isic2018: {root} lacks {', '.join(folders)}; unpack it beside its other half, or move that away"
        )
    return {part: source for part, source in sources.items() if source.exists()}


def _glas_archive(root: Path) -> Path | None:
    for place in (root, root / GLAS_ARCHIVE):
        if place.is_dir() and next(place.glob("*_anno.bmp"), None):
            return place
    return None


def _the_one(dataset: str, root: Path, sources: Sequence[_Source], layouts: Sequence[str]) -> _Source:
    found = [source for source in sources if source.exists()]
    if len(found) == 1:
        return found[0]
    if found:
        places = " and ".join(str(source.images) for source in found)
        raise ValueError(f"{dataset}: found twice, in {places}, and which is meant cannot be told; move one away")
    raise NoData(
        f"{dataset}: no such data in {root} ({_contents(root)}). Looked for {', or '.join(layouts)}. Set the place "
        "with the environment variable EMISNET_DATA (the folder that holds the datasets' folders) or with data.root=..."
    )


def _contents(root: Path) -> str:
    if not root.is_dir():
        return "not a folder" if root.exists() else "it does not exist"
    names = sorted(entry.name for entry in root.iterdir())
    return "it holds " + listed(names, ENTRIES_SHOWN) if names else "it is empty"


# ---- which mask


@dataclass
class _Files:
    """Files by id, and those whose name gives none; `nameless`: it is no text, which tables could not hold."""

    by_id: dict[str, list[Path]] = field(default_factory=dict)
    strays: list[Path] = field(default_factory=list)
    nameless: list[Path] = field(default_factory=list)

    def add(self, id_: str, file: Path) -> None:
        if id_.encode("utf-8", "replace").decode() == id_:
            self.by_id.setdefault(one_spelling(id_), []).append(file)
        else:
            self.nameless.append(file)

    def without(self, others: "_Files") -> list[Path]:
        return [file for id_, files in self.by_id.items() if id_ not in others.by_id for file in files]

    def duplicates(self) -> list[Path]:
        return [file for files in self.by_id.values() if len(files) > 1 for file in files]

    def only(self) -> dict[str, Path]:
        return {id_: files[0] for id_, files in self.by_id.items() if len(files) == 1}


def _pair(dataset: str, root: Path, sources: Iterable[_Source]) -> dict[str, Pair]:
    images, masks = _Files(), _Files()
    for source in sources:
        _collect(source, images, masks)
    faults = [
        *_fault("images without a mask", root, images.without(masks)),
        *_fault("masks without an image", root, masks.without(images) + masks.strays),
        *_fault("images that share an id", root, images.duplicates()),
        *_fault("masks that share an id", root, masks.duplicates()),
        *_fault("files whose names are not UTF-8", root, {*images.nameless, *masks.nameless}),
    ]
    image_of, mask_of = images.only(), masks.only()
    pairs = {id_: Pair(id_, image_of[id_], mask_of[id_]) for id_ in sorted(image_of.keys() & mask_of.keys())}
    if faults:
        raise PairingError(dataset, root, pairs, faults)
    if not pairs:
        raise ValueError(f"{dataset}: the folders in {root} hold no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return pairs


def _collect(source: _Source, images: _Files, masks: _Files) -> None:
    one_folder = source.images == source.masks
    for stem, file in _image_files(source.images, without=source.masks):
        if stem.endswith(source.ignored_suffixes) or (one_folder and stem.endswith(source.mask_suffix)):
            continue
        images.add(stem, file)
    for stem, file in _image_files(source.masks, without=source.images):
        if stem.endswith(source.mask_suffix):
            masks.add(stem.removesuffix(source.mask_suffix), file)
        elif not one_folder:
            masks.strays.append(file)


def _image_files(folder: Path, *, without: Path) -> Iterator[tuple[str, Path]]:
    """Image files below `folder`, but not those of the other folder where it lies inside this one; each with its path
    below `folder`, without suffix.

    By the names that the system gives, not by `Path.rglob`: a Path takes 10 us to be compared or related to another.
    """
    inner = without.relative_to(folder).parts if folder in without.parents else None
    found = []
    for place, folders, names in os.walk(folder):
        above = Path(place).relative_to(folder).parts
        folders[:] = [name for name in folders if _is_seen(name) and (*above, name) != inner]
        for name in filter(_is_seen, names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in IMAGE_SUFFIXES:  # also a broken link: left out, it would change the dataset in silence
                found.append((*above, name, stem))
    for *parts, name, stem in sorted(found):
        yield "/".join([*parts, stem]), folder.joinpath(*parts, name)


def _is_seen(name: str) -> bool:
    return not name.startswith((".", "__MACOSX"))


def one_spelling(id_: str) -> str:
    """macOS writes accents as two characters, archives as one."""
    return unicodedata.normalize("NFC", id_)


def _fault(what: str, root: Path, files: Iterable[Path]) -> list[str]:
    paths = (str(file.relative_to(root)) if file.is_relative_to(root) else str(file) for file in files)
    names = sorted(path.encode("utf-8", "backslashreplace").decode() for path in paths)
    return [f"{len(names)} {what}: {listed(names)}"] if names else []


def listed(names: Sequence[str], shown: int = NAMES_SHOWN) -> str:
    """The names, those behind the first `shown` as a number."""
    return ", ".join(names[:shown]) + (f", ... and {len(names) - shown} more" if len(names) > shown else "")
