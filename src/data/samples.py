"""What a loader's worker does: one sample from a view of one image, batches of them, and how a worker meets signals."""

import copy
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from lightning.fabric.utilities.seed import pl_worker_init_function
from torch.utils.data import Dataset

from src.data.transforms import CROPS, augment, draw_kind, lesion_box, mix_box, resize_image, resize_mask, sample_key

if TYPE_CHECKING:
    from src.data.datamodule import SegmentationDataModule


class SampleDataset(Dataset):
    """(epoch, index) -> one sample in training, where crop and augmentation are keyed by it; index -> one otherwise."""

    def __init__(self, source: "SegmentationDataModule", ids: Sequence[str], *, training: bool):
        self.ids, self.training = ids, training
        self.size, self.seed, self.crop, self.compose = source.size, source.seed, source.crop, source.augment
        self.mix = source.mix
        # `load` brings its datamodule along, and that the trainer, which cannot travel into a spawned worker
        alone = copy.copy(source)
        alone.trainer = None
        self.views = {kind: alone.views(kind) for kind in (CROPS[source.crop] if training else ("full",))}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, key: tuple[int, int] | int) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        sample_id = self.ids[index]
        image, mask = self._drawn(sample_id, epoch) if self.training else self.views["full"](sample_id)
        return {"id": sample_id, "image": np.ascontiguousarray(image.transpose(2, 0, 1)), "mask": mask[None]}

    def _drawn(self, sample_id: str, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The sample as this epoch sees it: cropped, augmented, and mixed with another."""
        image, mask = self._alone(sample_id, epoch)
        if self.mix:
            rng = np.random.default_rng(sample_key(self.seed, epoch, f"mix {sample_id}"))
            if rng.random() < self.mix:
                box = mix_box(self.size, rng)
                other, its_mask = self._alone(self.ids[int(rng.integers(len(self.ids)))], epoch)
                image, mask = image.copy(), mask.copy()  # where nothing augmented they are the cache's
                image[box], mask[box] = other[box], its_mask[box]
        return image, mask

    def _alone(self, sample_id: str, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        key = sample_key(self.seed, epoch, sample_id)
        rng = np.random.default_rng(key)
        kind = draw_kind(self.crop, rng)
        image, mask = self.views[kind](sample_id)
        if kind == "lesion":
            box = lesion_box(mask, rng)
            image, mask = resize_image(image[box], self.size), resize_mask(mask[box], self.size)
        return augment(image, mask, self.compose, key)


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    # stacked by NumPy: torch would start its threads for a few bytes, among those of the training step
    return {
        "id": [sample["id"] for sample in samples],
        "image": torch.from_numpy(np.stack([sample["image"] for sample in samples])),
        "mask": torch.from_numpy(np.stack([sample["mask"] for sample in samples])),
    }


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
