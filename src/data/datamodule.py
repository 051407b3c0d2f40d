"""SegmentationDataModule: from a dataset on disk and a named split to batches of uint8 images and masks.

A batch is a dict: `image` (B, 3, S, S) uint8, `mask` (B, 1, S, S) uint8 of 0 and 1, `id` a list of str. It travels to
the device as bytes and is normalised there.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loops.progress import _ProcessedTracker
from torch.utils.data import DataLoader

from src.data.checks import mixed_kinds
from src.data.digests import Faults, Unreadable
from src.data.leaks import refuse_leaks
from src.data.pairs import PairingError
from src.data.sampler import EpochSampler, Share, WholeBatches, images_per_epoch
from src.data.samples import SampleDataset, collate, init_worker
from src.data.source import DataSource
from src.data.transforms import CROPS, make_augment
from src.progress import available_cores, in_threads

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class SegmentationDataModule(DataSource, pl.LightningDataModule):
    """A data source in batches.

    Args:
        batch_size: images of an optimizer step, over all devices.
        num_workers: of each loader; None takes what is needed, at most 8.
        crop: training crop mode: full, lesion or mixed. Validation and test always see the whole image.
        mix: probability that a box of a training image, with its mask, is taken from another one (CutMix).
        augment: probabilities and limits of `src.data.transforms.make_augment`.
        seed: of the sample order and of the augmentation.
        mean, std: of the normalisation, per channel, of values in 0..1.
        source: the arguments of DataSource.

    Raises:
        ValueError: an unknown crop mode, a `mix` that is no probability; as DataSource; from `setup`, all that is wrong
            with the files, at once.
    """

    def __init__(
        self,
        *,
        batch_size: int = 8,
        num_workers: int | None = None,
        crop: str = "full",
        mix: float = 0.0,
        augment: Mapping[str, float] | None = None,
        seed: int = 0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        **source: Any,
    ):
        DataSource.__init__(self, **source)
        pl.LightningDataModule.__init__(self)
        if crop not in CROPS:
            raise ValueError(f"data.crop={crop!r} is not a crop mode. Possible: {', '.join(CROPS)}.")
        if len(mean) != len(std) or not mean or min(std) <= 0:
            raise ValueError(f"data.mean={list(mean)}, data.std={list(std)}: one of each per channel, std above 0.")
        if isinstance(mix, str | bool | None) or not 0 <= mix <= 1:
            raise ValueError(f"data.mix={mix} must be a probability, from 0 to 1.")
        if batch_size < 1:
            raise ValueError(f"data.batch_size={batch_size} must be at least 1.")
        self.batch_size, self.seed, self.crop, self.share = batch_size, seed, crop, Share()
        self.mix = mix
        self._sound: set[str] = set()  # ids whose files were decoded without a fault
        self.workers_asked = num_workers
        self.num_workers = self._workers_needed() if num_workers is None else num_workers
        self.augment = make_augment(**(augment or {}))
        self.mean, self.std = tuple(mean), tuple(std)

    def _workers_needed(self) -> int:
        """One per core but one, at most 8; none on a CPU that is fed from the cache (0.3 ms an image of 128 px).

        There a worker only takes time from the training step: 58 img/s with one, 60 with none, 62 with nothing to load
        (emisnet with a stride-2 stem, 128 px, batch 16, two threads on two cores).
        """
        if self.cache and not torch.cuda.is_available():
            return 0
        return min(8, max(0, available_cores() - 1))

    def setup(self, stage: str | None = None) -> None:
        """Decodes all files, where there is a cache into that; one ValueError lists all faults. So none is met first
        in the middle of a training."""
        faults: list[str] = []
        drawn_by_area = self.fold is not None and not self.is_committed
        try:
            _ = self.ids_on_disk() if drawn_by_area else (self.split, self.ids_on_disk())
        except PairingError as error:
            self.pairs = error.pairs
            faults += error.faults
        try:
            for kind in {"full", *CROPS[self.crop]}:
                self.views(kind)
        except Unreadable as error:  # before anything was decoded: others may be damaged
            faults += self._file_faults(self.ids_on_disk()) or error.faults
        except Faults as error:
            faults += error.faults
        for part in ("train", "val") if not (faults and drawn_by_area) else ():
            try:
                self.require(part)
            except ValueError as error:
                faults.append(str(error))
        if self.foreground == "auto" and self.on_disk:
            faults += mixed_kinds(self.mask_kinds())
        if self.on_disk and not self.cache:
            there, parts = self.ids_on_disk(), ("train", "val", *self.tests_on_disk())
            faults += self._file_faults(id_ for part in parts for id_ in self.parts[part] if id_ in there)
        if len(faults) == 1:
            raise ValueError(faults[0])
        if faults:
            listed = "\n".join(f"  - {fault}" for fault in faults)
            raise ValueError(f"{self.dataset}: {len(faults)} things are wrong under {self.root}:\n{listed}")
        leaks = self.leaks  # also where they are allowed: `leak_notes` tells of them
        if not self.allow_leaks:
            refuse_leaks(leaks, self.split)

    def _file_faults(self, ids: Iterable[str]) -> list[str]:
        """What is wrong with the files of `ids`; all of them are decoded for it, once."""

        def fault(id_: str) -> str:
            try:
                self.load(id_)
            except ValueError as error:
                return str(error)
            return ""

        left = sorted(set(ids) - self._sound)
        found = dict(zip(left, in_threads(fault, left, f"checking {self.dataset}"), strict=True))
        self._sound.update(id_ for id_ in left if not found[id_])
        return [text for text in found.values() if text]

    def spread(self, share: Share) -> None:
        """Makes this one of several processes, which takes its share of every batch.

        Raises ValueError where a batch has no equal shares of two images or more, or the images do not suffice.
        """
        train, val, least = len(self.parts["train"]), len(self.parts["val"]), 2 * share.world
        if share.world > 1 and (self.batch_size % share.world or self.batch_size < least):
            raise ValueError(
                f"data.batch_size={self.batch_size} counts the images of all {share.world} devices together, each of "
                f"which takes an equal share of two or more. Use a multiple of {share.world}, at least {least}."
            )
        if share.world > 1 and (train < least or val < share.world):
            raise ValueError(f"{train} train and {val} val images are too few for trainer.devices={share.world}.")
        self.share = share
        if self.workers_asked is None:
            self.num_workers = -(-self._workers_needed() // share.world)

    @property
    def train_batches(self) -> int:
        """Batches of one epoch, the same number in every process."""
        return -(-images_per_epoch(len(self.parts["train"]), self.batch_size, self.share.world) // self.batch_size)

    def train_dataloader(self) -> DataLoader:
        dataset = SampleDataset(self, self.parts["train"], training=True)
        sampler = EpochSampler(
            len(dataset), seed=self.seed, position=self._position, batch_size=self.batch_size, share=self.share
        )
        return self._loader(dataset, sampler=sampler, batch_size=self.batch_size // self.share.world)

    def val_dataloader(self) -> DataLoader:
        dataset = SampleDataset(self, self.parts["val"], training=False)
        return self._loader(dataset, batch_sampler=WholeBatches(len(dataset), self.batch_size, self.share))

    def _position(self) -> tuple[int, int]:
        """(epoch, samples already seen in it by all processes), read off the trainer, also right after it resumed.

        These are Lightning's internals; tests/test_resume.py fails when they change.
        """
        if self.trainer is None:
            return 0, 0
        loop = self.trainer.fit_loop
        progress = loop.epoch_loop.batch_progress
        batches, epochs = progress.current, loop.epoch_progress.current
        assert isinstance(batches, _ProcessedTracker) and isinstance(epochs, _ProcessedTracker)
        return epochs.processed, 0 if progress.is_last_batch else batches.processed * self.batch_size

    def _loader(self, dataset: "SampleDataset", **batching: Any) -> DataLoader:
        return DataLoader(
            dataset,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            worker_init_fn=init_worker,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            **batching,
        )
