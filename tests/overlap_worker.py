"""One process of a group that scores one set of images together; a module of its own, for each process imports it."""

from pathlib import Path

import torch
import torch.distributed as dist

from src.metrics.overlap import Overlap


def accumulate(rank: int, world: int, folder: Path) -> None:
    """Takes every `world`-th image of each set in sets.pt; leaves (scores, number of images) of each in rank<n>.pt."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'group'}", rank=rank, world_size=world)
    results = []
    for pred, target in torch.load(folder / "sets.pt"):
        overlap = Overlap()
        for i in range(rank, len(pred), world):
            overlap.update(pred[i : i + 1], target[i : i + 1])
        values = overlap.compute()
        with overlap.sync_context():
            results.append((values, overlap.images.item()))
    torch.save(results, folder / f"rank{rank}.pt")
    dist.destroy_process_group()
