"""The order of training samples: a pure function of (seed, epoch), resumable at any batch."""

from collections.abc import Callable, Iterator

import torch
from torch.utils.data import Sampler


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index), so that the dataset knows the epoch inside any worker.

    `position` gives (epoch, samples already seen in it) and is asked when iteration begins: Lightning calls `set_epoch`
    only after the first iterator of a resumed run exists (Lightning issue 21938).
    `__len__` stays the full epoch, as Lightning itself counts the batches that are done.
    """

    def __init__(self, length: int, *, seed: int, position: Callable[[], tuple[int, int]]):
        self.length, self.seed, self.position = length, seed, position

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, seen = self.position()
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(self.length, generator=generator).tolist()
        return iter([(epoch, index) for index in order[seen:]])
