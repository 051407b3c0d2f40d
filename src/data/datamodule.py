"""SegmentationDataModule: from a dataset on disk and a named split to batches of uint8 images and masks.

A batch is a dict: `image` (B, 3, S, S) uint8, `mask` (B, 1, S, S) uint8 of 0 and 1, `id` a list of str. It travels to
the device as bytes and is normalised there.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loops.progress import _ProcessedTracker
from torch.utils.data import DataLoader

from src.data.cache import Faults, PixelStore, open_store
from src.data.decode import image_size, read_image, read_mask
from src.data.folds import available_folds, fold_split, kfold, lesion_areas, load_folds
from src.data.groups import near_duplicates
from src.data.pairs import Pair, PairingError, listed
from src.data.sampler import EpochSampler
from src.data.samples import SampleDataset, collate, init_worker
from src.data.splits import Split, find_absent, load_split
from src.data.transforms import CROPS, make_augment, view
from src.progress import available_cores

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KFOLD, DEFAULT_FOLDS = "kfold", 5


class SegmentationDataModule(pl.LightningDataModule):
    """Base of every dataset; a subclass says where its pairs are (`find_pairs`) and how its masks read (`foreground`).

    Args:
        root: the dataset's folder.
        size: side of the square that images are resized to, in px.
        split: name of a committed manifest of this dataset (`python -m src.data.splits` lists them), or kfold.
        fold, n_folds: with split=kfold, which of how many folds is the test part; the next one is val.
        download: fetch the official archives into `root` if the dataset is not there.
        cache: folder of the decoded pixels (`src.data.cache`); None decodes in every epoch.
        batch_size, num_workers: of the loaders; num_workers=None takes one per core but one, at most 8.
        crop: training crop mode: full, lesion or mixed. Validation and test always see the whole image.
        augment: probabilities and limits of `src.data.transforms.make_augment`.
        seed: of the sample order and of the augmentation.
        mean, std: of the normalisation, per channel, of values in 0..1.

    Raises:
        ValueError: an unknown crop mode or split; from `setup`, images of a needed part that are absent on disk.
    """

    dataset = ""
    foreground: str | Mapping[Any, int] = "auto"
    intensity: Sequence[float] | None = None  # range of deep grey images, see `src.data.decode.read_image`
    on_disk = True  # else `load` makes the images
    caveat: str | None = None  # what a reader of a score on this data must be told

    def __init__(
        self,
        *,
        root: str,
        size: int = 256,
        split: str = "official",
        fold: int | None = None,
        n_folds: int = 5,
        download: bool = False,
        cache: str | None = None,
        batch_size: int = 8,
        num_workers: int | None = None,
        crop: str = "full",
        augment: Mapping[str, float] | None = None,
        seed: int = 0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ):
        super().__init__()
        if crop not in CROPS:
            raise ValueError(f"data.crop={crop!r} is not a crop mode. Possible: {', '.join(CROPS)}.")
        if size < 32 or batch_size < 1:
            raise ValueError(f"data.size={size} must be at least 32 and data.batch_size={batch_size} at least 1.")
        if (split == KFOLD) != (fold is not None):
            raise ValueError(
                f"data.split={split} with data.fold={fold}: data.split=kfold needs a fold (data.fold=0 to "
                f"{n_folds - 1}), any other split takes none."
            )
        self.root, self.split_name = Path(root), split
        self.fold, self.n_folds, self.download = fold, n_folds, download
        self.cache = Path(cache).expanduser() if cache else None
        self.size, self.batch_size, self.seed, self.crop = (size, size), batch_size, seed, crop
        self.num_workers = min(8, max(0, available_cores() - 1)) if num_workers is None else num_workers
        self.augment = make_augment(**(augment or {}))
        self.mean, self.std = tuple(mean), tuple(std)
        self._stores: dict[str, PixelStore] = {}

    # -- what a subclass answers ------------------------------------------------------------------

    def find_pairs(self) -> dict[str, Pair]:
        """id -> image and mask file, of everything that lies under `root`."""
        raise NotImplementedError

    def make_split(self) -> Split:
        """The split called `split`: a committed manifest, or made of folds, unless a dataset makes its own."""
        return self._kfold() if self.fold is not None else load_split(self.dataset, self.split_name)

    def groups(self) -> dict[str, str]:
        """id -> what may not be torn by a split (patient, near-duplicates), of the ids that belong to any."""
        return near_duplicates(self.dataset)

    def ids_to_fold(self) -> Sequence[str]:
        """The ids that folds are drawn from: those of the committed folds, so never an official test image."""
        return [id_ for members in load_folds(self.dataset, DEFAULT_FOLDS) for id_ in members]

    def ids_on_disk(self) -> set[str]:
        return set(self.pairs)

    def load(self, sample_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Native-size image (H, W, 3) uint8 and mask (H, W) uint8 of 0 and 1."""
        pair = self.pairs[sample_id]
        image, mask = read_image(pair.image, self.intensity), read_mask(pair.mask, self.foreground)
        if image.shape[:2] != mask.shape:
            raise ValueError(_differ(pair, image.shape[:2], mask.shape))
        return image, mask

    @property
    def reading(self) -> dict[str, Any]:
        """What `load` depends on besides the files."""
        return {"foreground": self.foreground, "intensity": self.intensity}

    def header_faults(self, ids: Sequence[str]) -> list[str]:
        """What is wrong with the files as far as their headers tell: unreadable, or a mask of another size."""
        faults = []
        for sample_id in ids:
            pair = self.pairs[sample_id]
            try:
                image, mask = image_size(pair.image), image_size(pair.mask)
            except ValueError as error:
                faults.append(str(error))
                continue
            if image != mask:
                faults.append(_differ(pair, image, mask))
        return faults

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
        return self.find_pairs()

    @cached_property
    def split(self) -> Split:
        """Made on first use; may be set to score by another run's split."""
        return self.make_split()

    def _kfold(self) -> Split:
        assert self.fold is not None
        if self.n_folds in available_folds(self.dataset):
            return fold_split(load_folds(self.dataset, self.n_folds), self.fold, self.dataset)
        ids = self.ids_to_fold()
        if absent := sorted(set(ids) - self.ids_on_disk()):
            raise ValueError(
                f"{self.dataset}: {self.n_folds} folds are drawn by the areas of all {len(ids)} masks, and "
                f"{len(absent)} images are not under {self.root}: {listed(absent)}. Put them there, or take the "
                f"committed data.n_folds={DEFAULT_FOLDS}."
            )
        folds = kfold(self._areas(ids), n_folds=self.n_folds, groups=self.groups())
        return fold_split(folds, self.fold, self.dataset)

    def _areas(self, ids: Sequence[str]) -> dict[str, float]:
        """id -> lesion area as a fraction of the native image."""
        if self.cache:
            entries = self._store("full").entries
            return {id_: entries[id_].area for id_ in ids}
        return lesion_areas({id_: self.pairs[id_] for id_ in ids}, self.foreground)

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """part name -> ids: `train`, `val` and those whose names start with `test`."""
        return self.split.parts

    def absent(self, part: str) -> list[str]:
        """The ids of `part` that are not on disk."""
        return find_absent(self.split, part, self.ids_on_disk())

    def tests_on_disk(self) -> list[str]:
        """The test parts whose images are all there."""
        tests = [part for part in self.parts if part.startswith("test")]
        return [part for part in tests if self.parts[part] and not self.absent(part)]

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
                "or choose a split, fractions or counts that give it some."
            )
        if absent:
            raise ValueError(
                f"{self.dataset}, split {self.split.name!r}, part {part!r}: {len(absent)} of {len(ids)} images are not "
                f"under {self.root}: {listed(absent)}. Put them there, or choose a split of what is there "
                "(data.split=holdout)."
            )
        return ids

    # -- Lightning --------------------------------------------------------------------------------

    def setup(self, stage: str | None = None) -> None:
        """Checks every file that training needs, or decodes it into the cache; one ValueError lists all faults."""
        faults: list[str] = []
        try:
            self.split, self.ids_on_disk()
        except PairingError as error:
            self.pairs = error.pairs
            faults += error.faults
        for part in ("train", "val"):
            try:
                self.require(part)
            except ValueError as error:
                faults.append(str(error))
        try:
            for kind in {"full", *CROPS[self.crop]}:
                self.views(kind)
        except Faults as error:
            faults += error.faults
        if self.on_disk and not self.cache:
            parts = ["train", "val", *self.tests_on_disk()]
            there = self.ids_on_disk()
            faults += self.header_faults([id_ for part in parts for id_ in self.parts[part] if id_ in there])
        if len(faults) == 1:
            raise ValueError(faults[0])
        if faults:
            listed = "\n".join(f"  - {fault}" for fault in faults)
            raise ValueError(f"{self.dataset}: {len(faults)} things are wrong under {self.root}:\n{listed}")

    @property
    def train_batches(self) -> int:
        """Batches of one epoch; a last batch of one image is left out: BN cannot normalise a 1x1 map of one image."""
        whole, rest = divmod(len(self.parts["train"]), self.batch_size)
        return whole + (rest > 1 or not whole)

    def train_dataloader(self) -> DataLoader:
        dataset = SampleDataset(self, self.parts["train"], training=True)
        return self._loader(dataset, EpochSampler(len(dataset), seed=self.seed, position=self._position))

    def val_dataloader(self) -> DataLoader:
        return self._loader(SampleDataset(self, self.parts["val"], training=False), None)

    def _position(self) -> tuple[int, int]:
        """(epoch, samples already seen in it), read off the trainer, also right after it resumed.

        These are Lightning's internals; tests/test_resume.py fails when they change.
        """
        if self.trainer is None:
            return 0, 0
        loop = self.trainer.fit_loop
        progress = loop.epoch_loop.batch_progress
        batches, epochs = progress.current, loop.epoch_progress.current
        assert isinstance(batches, _ProcessedTracker) and isinstance(epochs, _ProcessedTracker)
        return epochs.processed, 0 if progress.is_last_batch else batches.processed * self.batch_size

    def _loader(self, dataset: "SampleDataset", sampler: EpochSampler | None) -> DataLoader:
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=sampler is not None and self.train_batches * self.batch_size < len(dataset.ids),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            worker_init_fn=init_worker,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
        )


def _view_of(
    load: Callable[[str], tuple[np.ndarray, np.ndarray]], kind: str, size: tuple[int, int], sample_id: str
) -> tuple[np.ndarray, np.ndarray]:
    return view(*load(sample_id), kind, size)


def _differ(pair: Pair, image: Sequence[int], mask: Sequence[int]) -> str:
    return (
        f"{pair.id}: the image is {image[0]}x{image[1]}, its mask {mask[0]}x{mask[1]} ({pair.image}, {pair.mask}). "
        "Give both the same size."
    )
