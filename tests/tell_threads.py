"""A callback for a run in a process of its own. Not in a test's file: conftest, imported there, sets the threads."""

from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback


class TellThreads(Callback):
    """Writes down how many threads a training has."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        (Path(trainer.default_root_dir) / "threads.txt").write_text(str(torch.get_num_threads()))
