"""Killed, interrupted, resumed: a resumed run is bit-identical to one that was never stopped.

These are real processes and real signals. They also hold the three Lightning internals that
`SegmentationDataModule._position` reads: another Lightning that moves them fails here.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from src.files import read_csv
from src.rundir import RunDir

from .conftest import PATIENCE, REPO, TINY, TINY_MODEL, slow_train, wait_for_step, wait_until

ARGUMENTS = (*TINY_MODEL, *TINY, "trainer.max_epochs=4", "data.counts=[24,5,6]", "ema=0.9", "data.num_workers=1")


def start(folder: Path, *more: str, delay: float = 0.15) -> subprocess.Popen:
    # a delay in every step leaves time to hit the middle of an epoch; it does not enter what is computed
    command = [sys.executable, "-c", slow_train(delay), *ARGUMENTS, f"run_dir={folder}", *more]
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    with said(folder).open("w") as errors:
        return subprocess.Popen(command, cwd=REPO, env=environment, stdout=subprocess.DEVNULL, stderr=errors)


def said(folder: Path) -> Path:
    """Where the latest process of a run wrote its stderr."""
    return folder.with_name(f"{folder.name}.stderr")


def wait_for_epoch(number: int, folder: Path, process: subprocess.Popen) -> None:
    wait_until(lambda: epochs_done(folder) >= number, process, said(folder).read_text)


def epochs_done(folder: Path) -> int:
    return len(read_csv(folder / "history.csv")) if (folder / "history.csv").is_file() else 0


def finish(folder: Path, *more: str) -> str:
    code = start(folder, *more, delay=0).wait(timeout=PATIENCE)
    errors = said(folder).read_text()
    assert code == 0, errors
    return errors


def result(folder: Path) -> tuple[dict, list, dict]:
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    # train/* of an interrupted epoch are means over the batches after the interruption
    history = [
        {name: value for name, value in row.items() if name.startswith("val/") or name in ("epoch", "step", "lr")}
        for row in read_csv(folder / "history.csv")
    ]
    return checkpoint, history, RunDir(folder).metrics()["scores"]


def assert_same(one: Path, other: Path) -> None:
    (a, history_a, scores_a), (b, history_b, scores_b) = result(one), result(other)
    for key in ("state_dict", "current_model_state"):
        assert a[key].keys() == b[key].keys()
        assert [name for name in a[key] if not torch.equal(a[key][name], b[key][name])] == []
    assert history_a == history_b
    assert scores_a == scores_b


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    finish(folder)
    return folder


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
    ids=["SIGTERM", "SIGINT"],
)
def test_a_signal_in_mid_epoch_saves_and_the_same_command_resumes_exactly(
    unbroken: Path, tmp_path: Path, number: int, code: int
) -> None:
    folder = tmp_path / "run"
    process = start(folder)
    wait_for_epoch(1, folder, process)
    wait_for_step(8, said(folder), process)  # the second of the next epoch
    process.send_signal(number)
    assert process.wait(timeout=PATIENCE) == code, said(folder).read_text()
    assert RunDir(folder).status()["state"] == "interrupted"
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] % 6 != 0, "the signal was meant to fall inside an epoch"
    assert "resuming from" in finish(folder)
    assert_same(folder, unbroken)


def test_kill_9_loses_no_more_than_the_epoch_and_resumes_exactly(unbroken: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(folder)
    wait_for_epoch(2, folder, process)
    time.sleep(0.3)
    process.kill()
    process.wait()
    assert RunDir(folder).status()["state"] == "running"  # nobody was left to say otherwise; the lock is free though
    finish(folder)
    assert_same(folder, unbroken)


@pytest.mark.slow
def test_a_damaged_last_checkpoint_is_named_and_the_best_one_taken(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(folder)
    wait_for_epoch(2, folder, process)
    process.kill()
    process.wait()
    last = folder / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    errors = finish(folder)
    assert "last.ckpt is not a readable checkpoint" in errors and "resuming from" in errors and "best.ckpt" in errors
    assert RunDir(folder).status()["state"] == "finished"


@pytest.mark.slow
def test_accumulated_gradients_and_a_shortened_epoch_resume_exactly(tmp_path: Path) -> None:
    # 24 images in batches of 4, of which 5 a epoch: windows of 2 batches, the last one short
    more = ("trainer.accumulate_grad_batches=2", "trainer.limit_train_batches=5", "trainer.max_epochs=3")
    finish(tmp_path / "unbroken", *more)
    folder = tmp_path / "run"
    process = start(folder, *more)
    wait_for_epoch(1, folder, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=PATIENCE) == 143, said(folder).read_text()
    process = start(folder, *more)  # once more, killed after an epoch, with the loader's workers already reading on
    wait_for_epoch(2, folder, process)
    process.kill()
    process.wait()
    finish(folder, *more)
    assert_same(folder, tmp_path / "unbroken")


@pytest.mark.slow
def test_a_moved_run_keeps_its_best_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "here" / "run"
    folder.parent.mkdir()
    process = start(folder)
    wait_for_epoch(2, folder, process)
    process.kill()
    process.wait()
    moved = tmp_path / "there" / "run"
    folder.parent.rename(moved.parent)
    finish(moved)
    metrics = RunDir(moved).metrics()
    rows = read_csv(moved / "history.csv")
    assert metrics["best"]["value"] == max(float(row["val/dice"]) for row in rows)
    assert torch.load(moved / "checkpoints" / "best.ckpt", weights_only=True)["epoch"] == metrics["best"]["epoch"]


@pytest.mark.slow
def test_ctrl_c_before_training_is_interrupted_and_trains_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(folder, "data.counts=[24,5,6]")
    wait_until((folder / "status.json").is_file, process, said(folder).read_text)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=PATIENCE) == 130, said(folder).read_text()
    status = RunDir(folder).status()
    assert (status["state"], status["exit_code"]) == ("interrupted", 130)
