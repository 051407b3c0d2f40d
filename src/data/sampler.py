"""Which samples a process sees, and in which order: pure functions of (seed, epoch), the same for every process.

Over several devices a batch stays what it is on one: `batch_size` images of one order, of which every process takes its
equal part. Lightning's DistributedSampler would repeat images until the parts are equal, also those of validation.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import Sampler


@dataclass(frozen=True)
class Share:
    """The part of every batch that one process takes: number `rank` of `world`."""

    rank: int = 0
    world: int = 1

    def of(self, batch: Sequence[int]) -> Sequence[int]:
        """Equal parts, for the gradients' mean over processes to be the batch's; what is over is left out."""
        size = len(batch) // self.world
        return batch[self.rank * size : (self.rank + 1) * size]


def images_per_epoch(length: int, batch_size: int, world: int = 1) -> int:
    """How many of `length` images an epoch trains on: all but a last batch of one per process, or what is over in it.

    BN cannot normalise a 1x1 map of one image. As the order is new in every epoch, others are left out in the next.
    """
    whole, rest = divmod(length, batch_size)
    share = rest // world
    return whole * batch_size + (share * world if share > 1 or not whole else 0)


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index), so that the dataset knows the epoch inside any worker.

    `position` gives (epoch, samples already seen in it, by all processes) and is asked when iteration begins: Lightning
    calls `set_epoch` only after the first iterator of a resumed run exists (Lightning issue 21938).
    `__len__` stays the full epoch, as Lightning itself counts the batches that are done.
    """

    def __init__(
        self,
        length: int,
        *,
        seed: int,
        position: Callable[[], tuple[int, int]],
        batch_size: int = 1,
        share: Share | None = None,
    ):
        self.length, self.seed, self.position = length, seed, position
        self.batch_size, self.share = batch_size, share or Share()
        self.images = images_per_epoch(length, batch_size, self.share.world)

    def __len__(self) -> int:
        return self.images // self.share.world

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, seen = self.position()
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(self.length, generator=generator).tolist()[: self.images]
        batches = (order[start : start + self.batch_size] for start in range(seen, self.images, self.batch_size))
        return iter([(epoch, index) for batch in batches for index in self.share.of(batch)])


class WholeBatches(Sampler[list[int]]):
    """Batches of validation, in turn to each process: every image once, none repeated to make the parts equal.

    Where there are fewer batches than processes they are cut smaller, so that each has one: Lightning skips the whole
    validation of a process that has none, and the others would wait for it.
    """

    def __init__(self, length: int, batch_size: int, share: Share):
        assert length >= share.world, "SegmentationDataModule.spread refuses fewer images than processes"
        size = min(batch_size, length // share.world)
        starts = range(share.rank * size, length, share.world * size)
        self.batches = [list(range(start, min(start + size, length))) for start in starts]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)
