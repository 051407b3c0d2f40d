"""One rank of `tests/test_ddp.py`: validates fixed weights, then trains them, without BN; rank 0 writes what came out.

python -m tests.ddp_worker RANK WORLD PORT FOLDER
"""

import functools
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

from src.data.datasets import Synthetic
from src.data.sampler import Share
from src.losses import BCELoss, TverskyLoss, WeightedSum
from src.ranks import Seat
from src.schedules import schedule
from src.task import SegmentationTask


def work(seat: Seat, folder: Path) -> dict[str, float]:
    """The metrics of fixed weights, and then of trained ones under `trained/`; their weights go to weights.pt."""
    torch.manual_seed(3)
    # 12 images in batches of 8 and 4; 5 to validate, in one batch: cut smaller where there are two processes
    source = Synthetic(counts=(12, 5, 1), native_size=(48, 56), size=32, batch_size=8, num_workers=0)
    source.spread(Share(seat.rank, seat.world))
    task = SegmentationTask(
        net=nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.GELU(), nn.Conv2d(4, 1, 3, padding=1)),
        loss=WeightedSum(losses=[BCELoss(), TverskyLoss()], weights=[1, 1]),
        optimizer=functools.partial(torch.optim.SGD, lr=0.3, momentum=0.9),
        scheduler=functools.partial(schedule, shape="cosine"),
        train_batches=source.train_batches,
        mean=source.mean,
        std=source.std,
    )
    several: dict[str, Any] = {"strategy": seat.strategy()} if seat.world > 1 else {}
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=seat.world,
        use_distributed_sampler=False,
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        inference_mode=False,  # what `validate` has touched goes on into `fit`
        **several,
    )
    metrics = dict(trainer.validate(task, datamodule=source, verbose=False)[0])
    trainer.fit(task, datamodule=source)
    trained = {f"trained/{name}": float(value) for name, value in trainer.callback_metrics.items()}
    if seat.rank == 0:
        torch.save(task.net.state_dict(), folder / "weights.pt")
        (folder / "metrics.json").write_text(json.dumps(metrics | trained | {"steps": trainer.global_step}))
    seat.leave()
    return metrics | trained


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rank, world, port = map(int, sys.argv[1:4])
    work(Seat(rank, world, port), Path(sys.argv[4]))
