"""A callback for tests: notes every step that is trained, and makes the steps of a job's first attempt last."""

import os
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback


class WatchedSteps(Callback):
    """The steps lie in steps.txt of the run: the attempt (null outside Slurm) and the step, before it is trained."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        attempt = int(os.environ.get("SLURM_RESTART_COUNT", 0)) if "SLURM_JOB_ID" in os.environ else None
        with (Path(trainer.default_root_dir) / "steps.txt").open("a") as file:
            file.write(f"{attempt} {trainer.global_step}\n")
        if attempt == 0:
            time.sleep(self.seconds)
