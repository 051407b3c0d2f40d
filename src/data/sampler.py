"""The order of training samples: a pure function of (seed, epoch), resumable at any batch."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index) so that the dataset knows the epoch inside any worker.

    `epoch` and `skip` are where a resumed run goes on: the iterator exists before Lightning calls `set_epoch`
    (Lightning issue 21938), so the first epoch must be right from construction. `skip` samples are left out once.
    `__len__` stays the full epoch, as Lightning counts the batches already done itself.
    """

    def __init__(self, length: int, *, seed: int, epoch: int = 0, skip: int = 0):
        self.length, self.seed, self.epoch, self.skip = length, seed, epoch, skip

    def __len__(self) -> int:
        return self.length

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.length, generator=generator).tolist()
        skip, self.skip = self.skip, 0
        return iter([(self.epoch, index) for index in order[skip:]])
