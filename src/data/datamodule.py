"""SegmentationDataModule: from a dataset on disk and a named split to batches of uint8 images and masks.

A batch is a dict: `image` (B, 3, S, S) uint8, `mask` (B, 1, S, S) uint8 of 0 and 1, `id` a list of str. It travels to
the device as bytes and is normalised there.
"""

import copy
import multiprocessing
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.utilities.seed import pl_worker_init_function
from lightning.pytorch.loops.progress import _ProcessedTracker
from torch.utils.data import DataLoader, Dataset

from src.data.decode import image_size, read_image, read_mask
from src.data.pairs import Pair
from src.data.sampler import EpochSampler
from src.data.splits import Split, find_absent, load_split
from src.data.transforms import CROPS, augment, crop, make_augment, resize_image, resize_mask, sample_key

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHOWN = 5  # ids named in an error before it only counts


class SegmentationDataModule(pl.LightningDataModule):
    """Base of every dataset; a subclass says where its pairs are (`find_pairs`) and how its masks read (`foreground`).

    Args:
        root: the dataset's folder.
        size: side of the square that images are resized to, in px.
        split: name of a committed manifest of this dataset (`python -m src.data.splits` lists them).
        batch_size, num_workers: of the loaders; num_workers=None takes one per core but one, at most 8.
        crop: training crop mode: full, lesion or mixed. Validation and test always see the whole image.
        augment: probabilities and limits of `src.data.transforms.make_augment`.
        seed: of the sample order and of the augmentation.
        mean, std: of the normalisation, per channel, of values in 0..1.

    Raises:
        ValueError: an unknown crop mode or split; from `setup`, images of a needed part that are absent on disk.
    """

    dataset = ""
    foreground = "auto"
    caveat: str | None = None  # what a reader of a score on this data must be told

    def __init__(
        self,
        *,
        root: str,
        size: int = 256,
        split: str = "official",
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
        self.root, self.split_name = Path(root), split
        self.size, self.batch_size, self.seed, self.crop = (size, size), batch_size, seed, crop
        self.num_workers = min(8, max(0, available_cores() - 1)) if num_workers is None else num_workers
        self.augment = make_augment(**(augment or {}))
        self.mean, self.std = tuple(mean), tuple(std)

    # -- what a subclass answers ------------------------------------------------------------------

    def find_pairs(self) -> dict[str, Pair]:
        """id -> image and mask file, of everything that lies under `root`."""
        raise NotImplementedError

    def make_split(self) -> Split:
        """The split called `split`; a committed manifest unless a dataset makes its own."""
        return load_split(self.dataset, self.split_name)

    def ids_on_disk(self) -> set[str]:
        return set(self.pairs)

    def load(self, sample_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Native-size image (H, W, 3) uint8 and mask (H, W) uint8 of 0 and 1."""
        pair = self.pairs[sample_id]
        image, mask = read_image(pair.image), read_mask(pair.mask, self.foreground)
        if image.shape[:2] != mask.shape:
            raise ValueError(
                f"{sample_id}: the image is {image.shape[0]}x{image.shape[1]}, "
                f"its mask {mask.shape[0]}x{mask.shape[1]} ({pair.image}, {pair.mask}). Give both the same size."
            )
        return image, mask

    def check_sizes(self, ids: Sequence[str]) -> None:
        """ValueError that lists the images whose mask has another size, read off the files' headers."""
        faults = []
        for sample_id in ids:
            image, mask = image_size(self.pairs[sample_id].image), image_size(self.pairs[sample_id].mask)
            if image != mask:
                faults.append(f"{sample_id} {image[0]}x{image[1]}, its mask {mask[0]}x{mask[1]}")
        if faults:
            raise ValueError(
                f"{self.dataset}: {_some(faults)}: image and mask differ in size (height x width) under {self.root}. "
                "Give both the same size."
            )

    # -- the split --------------------------------------------------------------------------------

    @cached_property
    def pairs(self) -> dict[str, Pair]:
        return self.find_pairs()

    @cached_property
    def split(self) -> Split:
        """Made on first use; may be set to score by another run's split."""
        return self.make_split()

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
                f"under {self.root}: {_some(absent)}. Put them there, or choose a split of what is there "
                "(data.split=holdout)."
            )
        return ids

    # -- Lightning --------------------------------------------------------------------------------

    def setup(self, stage: str | None = None) -> None:
        ids = [*self.require("train"), *self.require("val")]
        self.check_sizes([*ids, *(sample_id for part in self.tests_on_disk() for sample_id in self.parts[part])])

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


class SampleDataset(Dataset):
    """(epoch, index) -> one sample in training, where crop and augmentation are keyed by it; index -> one otherwise."""

    def __init__(self, source: SegmentationDataModule, ids: Sequence[str], *, training: bool):
        self.ids, self.training = ids, training
        self.size, self.seed, self.crop, self.compose = source.size, source.seed, source.crop, source.augment
        # `load` brings its datamodule along, and that the trainer, which cannot travel into a spawned worker
        alone = copy.copy(source)
        alone.trainer = None
        self.load = alone.load

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, key: tuple[int, int] | int) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        sample_id = self.ids[index]
        image, mask = self.load(sample_id)
        if self.training:
            random = sample_key(self.seed, epoch, sample_id)
            image, mask = crop(image, mask, self.crop, np.random.default_rng(random))
        image, mask = resize_image(image, self.size), resize_mask(mask, self.size)
        if self.training:
            image, mask = augment(image, mask, self.compose, random)
        return {
            "id": sample_id,
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "mask": torch.from_numpy(np.ascontiguousarray(mask[None])),
        }


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": [sample["id"] for sample in samples],
        "image": torch.stack([sample["image"] for sample in samples]),
        "mask": torch.stack([sample["mask"] for sample in samples]),
    }


def _some(names: Sequence[str]) -> str:
    """The first few of many names, and how many more."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def init_worker(worker_id: int) -> None:
    """Workers leave signals to the main process, though a scheduler or Ctrl-C sends them to all; one thread each."""
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_terminate_for_parent, daemon=True).start()
    cv2.setNumThreads(0)
    pl_worker_init_function(worker_id)


def _terminate_for_parent() -> None:
    """Ends this worker at a SIGTERM of its main process, which would wait for ever at its own end were all ignored."""
    parent = process.pid if (process := multiprocessing.parent_process()) else os.getppid()
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
