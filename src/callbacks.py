"""What watches a training: resumable randomness, history, progress lines, graceful stop, checkpoints written whole."""

import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from src.files import read_csv, replacing, write_csv
from src.rundir import RunDir

REQUEUE_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, *REQUEUE_SIGNALS)
ECHO = 1.0  # s: Slurm's SIGTERM comes twice, from slurmd and by way of srun; `uv run` doubles Ctrl-C


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, syncs, then renames: the file at the final name is always whole.

    Lightning's own goes through $TMPDIR, which is a copy where that is another filesystem: killed there, 5 of 25
    checkpoints were unreadable.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        target = Path(path)
        with replacing(target) as file:
            torch.save(checkpoint, file)


def save_alone(trainer: pl.Trainer, path: Path) -> None:
    """`trainer.save_checkpoint` without its barrier: only rank 0 gets signals, and the others know nothing of it.

    They hold nothing that rank 0 lacks: weights and optimizer are the same, running statistics are broadcast from it.
    """
    checkpoint = trainer._checkpoint_connector.dump_checkpoint(False)
    trainer.strategy.save_checkpoint(checkpoint, path)


class StepSeed(Callback):
    """Every step draws from (seed, epoch, batch, rank), so that dropout too is the same in a resumed run."""

    def __init__(self, seed: int):
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        state = np.random.SeedSequence([self.seed, trainer.current_epoch, batch_idx, trainer.global_rank])
        value = int(state.generate_state(1)[0])
        torch.manual_seed(value)
        np.random.seed(value)
        random.seed(value)


class GracefulStop(Callback):
    """Stop signals, as a context around a whole attempt: leave with 128 + signal, so that status.json says so.

    While steps are trained, the handler only notes the signal; the step in progress ends, is saved, and the same
    command resumes exactly there. (Saving inside the handler would catch a step half done: 6 of 8 such runs diverged.)
    A signal during validation waits for its end. Before and after training there is nothing to save: it stops at once,
    and so it does when the same signal comes again, more than ECHO seconds later. What comes sooner is an echo, which
    must not break off what is written down about the first.

    USR1 and USR2 are a scheduler's word that the time is up. Submitit has set a handler of its own for one of them,
    which has the job requeued: `pass_on` calls it, when everything is on disk. Elsewhere they stop a run like SIGTERM.
    """

    def __init__(self, run: RunDir):
        self.run = run
        self.received: int | None = None  # the first one
        self._came: dict[int, float] = {}
        self._training = False
        self._process = os.getpid()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "GracefulStop":
        if threading.current_thread() is threading.main_thread():  # others may not set handlers
            ours = [number for number in STOP_SIGNALS if signal.getsignal(number) is not None]  # None: set by C code
            self._previous = {number: signal.signal(number, self._note) for number in ours}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a loader's worker that was forked just now: Slurm signals every process
            return
        now = time.monotonic()
        first = self.received is None
        at_once = now - self._came.setdefault(number, now) > ECHO or (first and not self._training)
        self.received = self.received or number
        if at_once:
            raise SystemExit(128 + self.received)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._training = True
        # again: Lightning has put its own SIGTERM handler before ours (it exits with 0 and saves nothing)
        for number in self._previous:
            signal.signal(number, self._note)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # not inside a window of accumulated gradients, which no checkpoint holds; and after an epoch's last batch,
        # validation and the regular checkpoint still follow: the next batch stops then
        inside = trainer.fit_loop.epoch_loop._should_accumulate()
        if self.received is not None and not inside and not trainer.is_last_batch:
            save_alone(trainer, self.run.last)
            raise SystemExit(128 + self.received)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._training = False
        if self.received is not None:  # it came after the last step: all that is trained is saved
            raise SystemExit(128 + self.received)

    def pass_on(self, *, requeue: bool) -> None:
        """Calls the handler that a scheduler had set before ours, which does not return, if its signal came.

        With `requeue` also if it did not: SIGTERM may mean the same (`src.slurm.in_grace`).
        """
        for number in REQUEUE_SIGNALS:
            if (requeue or number in self._came) and callable(handler := self._previous.get(number)):
                handler(number, None)


class RunCheckpoint(ModelCheckpoint):
    """ModelCheckpoint that knows its files again when the run directory was moved or mounted elsewhere.

    Lightning compares absolute paths, and forgets the best score where they differ: the next epoch, however bad, would
    replace best.ckpt.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        here = Path(str(self.dirpath))

        def moved(path: str) -> str:
            return str(here / Path(path).name) if path else path

        state = dict(state_dict, dirpath=self.dirpath)
        for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
            state[key] = moved(state.get(key, ""))
        state["best_k_models"] = {moved(path): score for path, score in state.get("best_k_models", {}).items()}
        super().load_state_dict(state)


class History(Callback):
    """One row per epoch in history.csv; a resumed run keeps the rows before the epoch it goes on with.

    Every rank has one, and rank 0's alone writes: reading the metrics averages those of training over the ranks, which
    all of them must do.
    """

    def __init__(self, run: RunDir):
        self.path = run.path / "history.csv"
        self.rows: list[dict[str, Any]] = []
        self._begun, self._trained, self._images = 0.0, 0.0, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begun = time.perf_counter()  # a run resumed inside an epoch gets no on_train_epoch_start
        if trainer.is_global_zero and self.path.is_file():
            self.rows = [dict(row) for row in read_csv(self.path) if int(row["epoch"]) < trainer.current_epoch]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begun, self._images = time.perf_counter(), 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._images += len(batch["id"]) * trainer.world_size

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._trained = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        metrics = {
            name: float(value) for name, value in sorted(trainer.callback_metrics.items()) if "_step" not in name
        }
        metrics["train/loss"] = metrics.pop("train/loss_epoch", metrics.get("train/loss", float("nan")))
        now = time.perf_counter()
        self.rows.append(
            {
                "epoch": trainer.current_epoch,
                "step": trainer.global_step,
                "lr": trainer.optimizers[0].param_groups[0]["lr"],
                **metrics,
                "seconds": round(now - self._begun, 3),
                "train_images_per_second": round(self._images / (self._trained - self._begun), 2),
            }
        )
        if trainer.is_global_zero:
            write_csv(self.path, self.rows)


class EpochLines(Callback):
    """One plain line per epoch, for logs and pipes, where a progress bar would only smear."""

    def __init__(self, monitor: str, history: History):
        self.monitor, self.history = monitor, history
        self._start = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start, self._first = time.perf_counter(), trainer.current_epoch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        row, epochs = self.history.rows[-1], trainer.max_epochs or 0
        done = trainer.current_epoch + 1
        left = (time.perf_counter() - self._start) / (done - self._first) * (epochs - done)
        shown = dict.fromkeys(("train/loss", "val/loss", "val/dice", self.monitor))
        values = "  ".join(f"{name} {row[name]:.4f}" for name in shown if name in row)
        speed = f"{row['train_images_per_second']:.1f} img/s  {left / 60:.1f} min left"
        print(f"epoch {done}/{epochs}  {values}  {speed}", file=sys.stderr, flush=True)
