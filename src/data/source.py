"""DataSource: a dataset on disk with its split, and the pixels that training reads of it."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from src.data.cache import PixelStore, open_store
from src.data.checks import differ, mask_kinds
from src.data.decode import image_size, read_image, read_labels, read_mask
from src.data.digests import file_digests
from src.data.duplicates import NOT_ALL, compares_all
from src.data.folds import DEFAULT_FOLDS, available_folds, fold_split, kfold, lesion_areas, load_folds
from src.data.groups import near_duplicates
from src.data.leaks import Leak, cached_image_leaks, leak_note, shared_groups
from src.data.official import ensure, how_to_get
from src.data.pairs import NoData, Pair, listed
from src.data.splits import KFOLD, Split, available_splits, find_absent, is_test, load_split
from src.data.transforms import view


class DataSource:
    """Base of every dataset; a subclass says where its pairs are (`find_pairs`) and how its masks read (`foreground`).

    Args:
        root: the dataset's folder.
        size: side of the square that images are resized to, in px.
        split: name of a committed manifest of this dataset (`python -m src.data.splits` lists them), or kfold.
        fold, n_folds: with split=kfold, which of how many folds is the test part; the next one is val.
        download: fetch the official archives into `root` if the dataset is not there.
        cache: folder of the decoded pixels (`src.data.cache`); None decodes in every epoch.
        allow_leaks: train although the split has the same image, near-duplicates or a group on two sides.

    Raises:
        ValueError: a size below 32; a fold without split=kfold, or that without a fold. From the properties: no data
            under `root`, no such split, files that cannot be paired or loaded.
    """

    dataset = ""
    foreground: str | Mapping[Any, int] = "auto"
    intensity: Sequence[float] | None = None  # range of deep grey images, see `src.data.decode.read_image`
    fold_seed = 0  # of folds that are not committed
    on_disk = True  # else `load` makes the images
    metrics: tuple[str, ...] = ("overlap", "boundary")  # what it is scored by, of `src.scoring.GROUPS`
    spacing: tuple[float, float] | None = None  # distance of neighbouring rows and columns, where it is known, in
    unit = "px"
    caveat: str | None = None  # what a reader of a score on this data must be told

    def __init__(
        self,
        *,
        root: str,
        size: int = 256,
        split: str = "official",
        fold: int | None = None,
        n_folds: int = DEFAULT_FOLDS,
        download: bool = False,
        cache: str | None = None,
        allow_leaks: bool = False,
    ):
        if size < 32:
            raise ValueError(f"data.size={size} must be at least 32.")
        if split == KFOLD and fold is None:
            raise ValueError(f"data.split={KFOLD} needs a fold: data.fold=0 to {n_folds - 1}.")
        if split != KFOLD and (fold is not None or n_folds != DEFAULT_FOLDS):
            raise ValueError(
                f"data.fold and data.n_folds belong to data.split={KFOLD}, and this is data.split={split}."
            )
        for name, value in (("download", download), ("allow_leaks", allow_leaks)):
            if not isinstance(value, bool):
                raise ValueError(f"data.{name}={value} is neither true nor false.")
        self.root, self.size, self.split_name = Path(root), (size, size), split
        self.fold, self.n_folds, self.download = fold, n_folds, download
        self.allow_leaks = allow_leaks
        self.cache = Path(os.path.expanduser(cache)) if cache else None
        self._stores: dict[str, PixelStore] = {}

    # -- what a subclass answers ------------------------------------------------------------------

    def find_pairs(self) -> dict[str, Pair]:
        """id -> image and mask file, of everything that lies under `root`."""
        raise NotImplementedError

    def make_split(self) -> Split:
        """The split called `split` where it is not kfold: a committed manifest unless a dataset makes its own."""
        return load_split(self.dataset, self.split_name)

    def groups(self) -> dict[str, str]:
        """id -> what may not be torn by a split (patient, near-duplicates), of the ids that belong to any."""
        return near_duplicates(self.dataset)

    def ids_to_fold(self) -> Sequence[str]:
        """The ids that folds are drawn from: those of the committed folds, so no official test image; else all."""
        if DEFAULT_FOLDS not in available_folds(self.dataset):
            return list(self.pairs)
        return [id_ for members in load_folds(self.dataset, DEFAULT_FOLDS) for id_ in members]

    def ids_on_disk(self) -> set[str]:
        return set(self.pairs)

    def load_image(self, sample_id: str) -> np.ndarray:
        """Native-size image (H, W, 3) uint8. ValueError: as `read_image`."""
        return read_image(self.pairs[sample_id].image, self.intensity)

    def load(self, sample_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Native-size image (H, W, 3) uint8 and mask (H, W) uint8 of 0 and 1."""
        pair = self.pairs[sample_id]
        image = self.load_image(sample_id)
        if image.shape[:2] != (size := image_size(pair.mask)):  # before the values: they may be off for that reason
            raise ValueError(differ(pair, image.shape[:2], size))
        return image, read_mask(pair.mask, self.foreground)

    def load_labels(self, sample_id: str) -> tuple[np.ndarray, np.ndarray]:
        """As `load`, but with the true objects: (H, W) int, 0 the background; in masks that are no label maps these are
        the 4-connected components."""
        image, mask = self.load(sample_id)
        if self.foreground == "instances":
            return image, read_labels(self.pairs[sample_id].mask)
        return image, ndimage.label(mask)[0]

    @property
    def reading(self) -> dict[str, Any]:
        """What `load` depends on besides the files."""
        return {"foreground": self.foreground, "intensity": self.intensity}

    def mask_kinds(self) -> dict[str, str]:
        """As `src.data.checks.mask_kinds`; once the pixels are cached no mask is decoded for it a second time."""
        look = partial(mask_kinds, self.pairs)
        store = self._stores.get("full")
        return store.remembered("mask-kinds", look) if store else look()

    def contents(self, parts: Sequence[str]) -> dict[str, str]:
        """part -> 16 hex digits of the SHA-256 of its ids with the bytes of their images and masks: other pixels under
        the same names have another. Without the parts that are not all on disk; {} for images that are made."""
        if not self.on_disk:
            return {}
        digests = {}
        for part in parts:
            ids = sorted(self.parts[part])
            if not ids or self.absent(part):
                continue
            files = [file for id_ in ids for file in (self.pairs[id_].image, self.pairs[id_].mask)]
            try:
                found = file_digests(files, self.root, self.cache / self.dataset if self.cache else None)
            except OSError:  # a cache that others made, and that cannot be written
                found = file_digests(files, self.root, None)
            digests[part] = hashlib.sha256(json.dumps([ids, found]).encode()).hexdigest()[:16]
        return digests

    # -- pixels -----------------------------------------------------------------------------------

    def views(self, kind: str) -> Callable[[str], tuple[np.ndarray, np.ndarray]]:
        """id -> image and mask as training reads them: `src.data.transforms.view`, cached or made anew each time."""
        if self.cache and self.on_disk:
            return self._store(kind).__getitem__
        return partial(_view_of, self.load, kind, self.size)  # a worker that is spawned cannot be sent a lambda

    def _store(self, kind: str) -> PixelStore:
        if kind not in self._stores:
            assert self.cache
            self._stores[kind] = open_store(
                self.cache,
                self.dataset,
                kind,
                self.size,
                pairs=self.pairs,
                root=self.root,
                reading=self.reading,
                load=self.load,
            )
        return self._stores[kind]

    # -- the split --------------------------------------------------------------------------------

    @cached_property
    def pairs(self) -> dict[str, Pair]:
        self._fetch()
        try:
            return self.find_pairs()
        except NoData as error:
            raise NoData(f"{error}\n{self._how_to_get()}".strip()) from error

    @cached_property
    def split(self) -> Split:
        """Made on first use, from `pairs` unless committed; may be set to score by another run's split."""
        split = self._kfold() if self.fold is not None else self.make_split()
        if self.fold is None and split.name != self.split_name:
            raise ValueError(
                f"data.split={self.split_name}: {self.dataset} has no such split. Possible: {split.name}, {KFOLD}."
            )
        return split

    def _fetch(self) -> None:
        if self.download:
            try:
                ensure(self.dataset, self.root, self.split_name)
            except OSError as error:
                raise ValueError(str(error)) from error

    def _how_to_get(self) -> str:
        return how_to_get(self.dataset, self.root, self.split_name)

    def _kfold(self) -> Split:
        assert self.fold is not None
        if self.is_committed:
            return fold_split(load_folds(self.dataset, self.n_folds), self.fold, self.dataset)
        ids = self.ids_to_fold()
        if absent := sorted(set(ids) - self.ids_on_disk()):
            raise ValueError(
                f"{self.dataset}: {self.n_folds} folds are drawn by the areas of all {len(ids)} masks, and "
                f"{len(absent)} images are not under {self.root}: {listed(absent)}. Put them there, or take the "
                f"committed data.n_folds={DEFAULT_FOLDS}."
            )
        folds = kfold(self.areas(ids), n_folds=self.n_folds, seed=self.fold_seed, groups=self.groups())
        return fold_split(folds, self.fold, self.dataset)

    def areas(self, ids: Sequence[str]) -> dict[str, float]:
        """id -> lesion area as a fraction of the native image."""
        if self.cache:
            entries = self._store("full").entries
            return {id_: entries[id_].area for id_ in ids}
        return lesion_areas({id_: self.pairs[id_] for id_ in ids}, self.foreground)

    @property
    def is_committed(self) -> bool:
        """Whether the split is one of src/data/manifests, not drawn from what is on disk."""
        if self.fold is not None:
            return self.n_folds in available_folds(self.dataset)
        return self.split_name in available_splits(self.dataset)

    @cached_property
    def leaks(self) -> list[Leak]:
        """What stands on two sides of the split: groups, and where there is a cache, copies and near-duplicates."""
        if not self.on_disk:
            return []
        closely = None if self.is_committed else self.load_image  # a committed split was searched before
        found = cached_image_leaks(self._store("full"), self.split, closely) if self.cache else []
        try:
            return [*found, *shared_groups(self.parts, self.groups())]
        except ValueError:  # such as GlaS without Grade.csv
            if not self.is_committed:
                raise
            return found  # a committed split was drawn by its groups

    def leak_notes(self) -> list[str]:
        """What training goes on with although there are leaks, or may be."""
        notes = []
        if self.on_disk and not self.cache:
            notes.append("copies and near-duplicates in two parts were not looked for (data.cache=null)")
        elif self.on_disk and not self.is_committed and not compares_all(len(self.pairs), len(self.pairs)):
            notes.append(NOT_ALL)
        return notes + ([leak_note(self.leaks, self.split)] if self.leaks else [])

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """part name -> ids: `train`, `val` and those whose names start with `test`."""
        return self.split.parts

    def absent(self, part: str) -> list[str]:
        """The ids of `part` that are not on disk."""
        return find_absent(self.split, part, self.ids_on_disk())

    def tests_on_disk(self) -> list[str]:
        """The test parts whose images are all there."""
        return [part for part in filter(is_test, self.parts) if self.parts[part] and not self.absent(part)]

    def unlisted(self) -> list[str]:
        """Ids on disk that no part of the split names."""
        return sorted(self.ids_on_disk().difference(*self.parts.values()))

    def notes(self, *, test: bool) -> list[str]:
        """What a reader would otherwise not notice; `test` says whether test parts are to be scored."""
        notes = []
        for part in sorted(set(self.parts) - {"train", "val", *self.tests_on_disk()}) if test else ():
            there, absent = self.parts[part], len(self.absent(part))
            notes.append(f"{absent or 'all'} of {len(there) or 'the'} images of {part} are not on disk; not scored")
        if unlisted := self.unlisted():
            notes.append(f"{len(unlisted)} images on disk are in no part of this split, such as {unlisted[0]}")
        return notes + ([self.caveat] if self.caveat else [])

    def require(self, part: str) -> tuple[str, ...]:
        """The ids of `part`; ValueError that names the absent ones, or the possible parts."""
        if part not in self.parts:
            raise ValueError(
                f"split {self.split.name!r} of {self.dataset} has no part {part!r}. Possible: {', '.join(self.parts)}."
            )
        ids, absent = self.parts[part], self.absent(part)
        if not ids:  # a fraction or count of 0, or an official part whose folder is not there
            raise ValueError(
                f"{self.dataset}, split {self.split.name!r}, part {part!r} is empty. Put its images under {self.root}, "
                f"or choose a split, fractions or counts that give it some.\n{self._how_to_get()}".strip()
            )
        if absent:
            raise ValueError(
                f"{self.dataset}, split {self.split.name!r}, part {part!r}: {len(absent)} of {len(ids)} images are not "
                f"under {self.root}: {listed(absent)}. Put them there, or choose a split of what is there "
                f"(data.split=holdout).\n{self._how_to_get()}".strip()
            )
        return ids


def _view_of(
    load: Callable[[str], tuple[np.ndarray, np.ndarray]], kind: str, size: tuple[int, int], sample_id: str
) -> tuple[np.ndarray, np.ndarray]:
    return view(*load(sample_id), kind, size)
