"""SIGTERM and SIGINT outside of a training step: before a run has begun, while an epoch is validated, while the best
weights are scored. Each leaves with its code and says so, and the same command goes on to the same result.

Those in a step, and those between the run's begin and its first step, are in tests/test_resume.py.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from src.config import composed
from src.rundir import RunDir
from src.train import train
from src.weights import read_checkpoint
from tests.conftest import PATIENCE, REPO, wait_until
from tests.test_resume import ARGUMENTS, assert_same, finish, said

# Stays in a function when it is called for the n-th time, and says by a file that it is there.
STAYS = """
import importlib, pathlib, sys, time
place, name, number, seconds, marker = sys.argv[1:6]
owner = importlib.import_module(place.partition(":")[0])
for part in filter(None, place.partition(":")[2].split(".")):
    owner = getattr(owner, part)
real, calls = getattr(owner, name), 0
def stays(*args, **kwargs):
    global calls
    calls += 1
    if calls == int(number):
        pathlib.Path(marker).touch()
        time.sleep(float(seconds))
    return real(*args, **kwargs)
setattr(owner, name, stays)
sys.argv[1:] = sys.argv[6:]
from src.train import main
main()
"""
FOR_EVER = 2 * PATIENCE  # s, for a process that has to leave at once
STEPS = 6  # of an epoch


def interrupted(folder: Path, number: int, place: str, name: str, *, call: int = 1, seconds: float = FOR_EVER) -> str:
    """Sends a signal to a run that is in that call of that function; what it said. It has to end with its code."""
    marker = folder.with_name("reached")
    marker.unlink(missing_ok=True)
    command = [sys.executable, "-c", STAYS, place, name, str(call), str(seconds), str(marker)]
    with said(folder).open("w") as errors:
        process = subprocess.Popen(
            [*command, *ARGUMENTS, f"run_dir={folder}"],
            cwd=REPO,
            env=os.environ | {"PYTHONPATH": str(REPO)},
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
    try:
        wait_until(marker.is_file, process, said(folder).read_text)
        process.send_signal(number)
        process.send_signal(number)  # an echo, as Slurm and `uv run` make it
        assert process.wait(timeout=PATIENCE) == 128 + number, said(folder).read_text()
    finally:
        process.kill()
    text = said(folder).read_text()
    assert "Traceback" not in text and "the same command goes on" in text
    return text


def assert_told(folder: Path, number: int) -> None:
    status = RunDir(folder).status()
    told = (status["state"], status["exit_code"], status["reason"])
    assert told == ("interrupted", 128 + number, f"signal {number}")


@pytest.mark.slow
def test_a_signal_at_any_stage_leaves_word_and_the_same_command_ends_as_if_there_had_been_none(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    text = interrupted(folder, signal.SIGTERM, "src.resume", "check_same_run")
    assert "nothing trained yet" in text and not folder.exists()  # nothing was begun

    where = "src.task:SegmentationTask"
    interrupted(folder, signal.SIGTERM, where, "validation_step", call=4, seconds=1.5)  # two batches an epoch
    assert_told(folder, signal.SIGTERM)
    saved = read_checkpoint(RunDir(folder).last)["global_step"]
    assert 2 * STEPS <= saved <= 2 * STEPS + 1  # after the validation, within one step

    text = interrupted(folder, signal.SIGINT, "src.evaluate", "evaluate_run")
    assert_told(folder, signal.SIGINT)
    assert "(saved)" in text and not (folder / "metrics.json").exists()

    finish(folder)
    train(composed(*ARGUMENTS, f"run_dir={tmp_path / 'unbroken'}"))
    assert_same(folder, tmp_path / "unbroken")
    assert RunDir(folder).status()["state"] == "finished"
