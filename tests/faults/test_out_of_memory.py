"""Memory that runs out, and a loss that is no number, in mid-training: it is told, and what was trained stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from src.job import OutOfMemory, is_out_of_memory, memory_errors
from src.rundir import RunDir
from src.task import SegmentationTask
from src.train import train
from src.weights import read_checkpoint
from tests.conftest import PATIENCE, QUIET, REPO, TINY_MODEL

# In its second epoch this process may have no more memory than it has then, and a little.
LIMITED = """
import resource, sys
from pathlib import Path
from src.task import SegmentationTask
step = SegmentationTask.training_step
def limited(self, *batch):
    if self.current_epoch == 1:
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + 8_000_000, resource.RLIM_INFINITY))
    try:
        return step(self, *batch)
    except Exception:  # room for the words: which of the last kilobytes are left is chance
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        raise
SegmentationTask.training_step = limited
from src.train import main
main()
"""
LARGE = (
    *(*TINY_MODEL, *QUIET, "data=synthetic", "data.counts=[2,2,2]", "data.native_size=[48,56]", "data.size=256"),
    *("data.batch_size=2", "trainer.max_epochs=2"),
)


@pytest.mark.slow
def test_memory_that_runs_out_is_told_and_the_same_command_goes_on_where_there_is_more(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    # what is freed goes back at once, or the second epoch would live on what the first one had
    settings = {"cwd": REPO, "capture_output": True, "text": True, "timeout": PATIENCE}
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": str(REPO)}
    command = [sys.executable, "-c", LIMITED, *LARGE, f"run_dir={run.path}"]
    done = subprocess.run(command, env=environment, **settings)  # type: ignore[call-overload]
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    said = next(line for line in done.stderr.splitlines() if line.startswith("out of memory ("))
    assert "allocate" in said and "Lower data.batch_size, data.size" in said and "goes on where there is more" in said
    status = run.status()
    assert status["state"] == "failed" and status["exit_code"] == 1 and status["reason"] == f"OutOfMemory: {said}"
    assert "training_step" in (run.path / "traceback.txt").read_text()
    assert read_checkpoint(run.last)["epoch"] == 0
    done = subprocess.run([sys.executable, "-m", "src.train", *command[3:]], **settings)  # type: ignore[call-overload]
    assert done.returncode == 0 and "resuming from" in done.stderr, done.stderr
    assert run.status()["state"] == "finished"


def _allocation_that_no_machine_has() -> BaseException:
    with pytest.raises((RuntimeError, MemoryError)) as error:
        torch.empty(1 << 60)
    return error.value


def test_every_library_that_runs_out_of_memory_is_understood(tmp_path: Path) -> None:
    with pytest.raises(MemoryError) as numpys:
        np.empty(1 << 60, np.uint8)
    errors = [
        *(_allocation_that_no_machine_has(), numpys.value, MemoryError(), OSError(12, "Cannot allocate memory")),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ..."),
        RuntimeError("could not create a memory object"),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
    ]
    killed = RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")
    killed.__cause__ = errors[-1]  # as torch tells it when it notices between two batches
    errors.append(killed)
    for error in errors:
        assert isinstance(error, Exception) and is_out_of_memory(error), error
        with pytest.raises(OutOfMemory) as told, memory_errors(RunDir(tmp_path)):
            raise error
        assert re.fullmatch(r"out of memory \([^\n]+\)\. Lower data\.batch_size[^\n]+", str(told.value))
        assert told.value.__cause__ is error
    other = RuntimeError("no memory of this")
    other.__cause__ = KeyError("x")
    assert not is_out_of_memory(other)
    for other in (RuntimeError("shapes do not match"), ValueError("more than there is memory"), OSError(13, "no")):
        with pytest.raises(type(other)) as raised, memory_errors(RunDir(tmp_path)):
            raise other
        assert raised.value is other


def test_a_loss_that_becomes_nan_leaves_the_last_good_checkpoint(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second step of the second epoch on, the loss of a real batch through a real network is no number."""
    config = tiny("trainer.max_epochs=3")
    run, seen = RunDir(Path(config["run_dir"])), list[str]()
    real = SegmentationTask.forward

    def broken(self: SegmentationTask, image: torch.Tensor):
        logits = real(self, image)
        return logits * float("nan") if self.training and self.global_step == 4 else logits

    def noting(self: SegmentationTask, batch, split):
        if split == "train" and self.global_step == 4:
            seen[:] = batch["id"]
        return stepping(self, batch, split)

    stepping = SegmentationTask._step
    monkeypatch.setattr(SegmentationTask, "forward", broken)
    monkeypatch.setattr(SegmentationTask, "_step", noting)
    with pytest.raises(FloatingPointError, match="the train loss is nan in epoch 1"):
        train(config)
    status = run.status()
    assert (status["state"], status["exit_code"]) == ("failed", 1) and len(seen) == 4
    assert f"images {', '.join(seen)}. The last checkpoint is from before it. Lower optim.lr" in status["reason"]
    for checkpoint in (run.last, run.best):
        held = read_checkpoint(checkpoint)
        assert held["epoch"] == 0 and all(torch.isfinite(value).all() for value in held["state_dict"].values())
    monkeypatch.undo()
    train(config)  # which goes on from there
    assert run.status()["state"] == "finished" and len(run.metrics()["scores"]) == 2
