"""kill -9 at random moments of a run's life, from its start to its scores, and the same command each time after.

EMISNET_KILLS says how many (20 take some five minutes on two idle cores; by default a few).
"""

import os
import random
import time
from pathlib import Path

import pytest

from src.files import read_csv
from src.rundir import RunDir
from src.weights import read_checkpoint
from tests.test_resume import assert_same, finish, said, start

KILLS = int(os.environ.get("EMISNET_KILLS", "4"))
PER_RUN = 4  # one after another in the same directory
LIFE = 9.0  # s: what a process takes on an idle machine, delays of its steps included; later kills find it ended


def look_at(folder: Path) -> None:
    """All that a directory may hold after a kill is whole, or not there."""
    run = RunDir(folder)
    if not folder.exists():
        return
    assert run.status().get("state") in (None, "running", "finished")
    for checkpoint in (run.last, run.best):
        if checkpoint.is_file():
            read_checkpoint(checkpoint)
    for name in ("history.csv", "per_image.csv", "cost.csv"):
        if (folder / name).is_file():
            assert all(None not in row.values() for row in read_csv(folder / name))
    for name in ("config.yaml", "metrics.json", "threshold.json"):
        if (folder / name).is_file():
            assert {"config.yaml": run.config, "metrics.json": run.metrics}.get(name, run.threshold)()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", range(-(-KILLS // PER_RUN)))
def test_killed_at_random_moments_a_run_ends_as_the_unbroken_one(tmp_path: Path, number: int) -> None:
    moments = random.Random(number)
    finish(tmp_path / "unbroken")
    folder = tmp_path / "run"
    for _ in range(min(PER_RUN, KILLS)):
        process = start(folder, delay=0.1)
        end = time.monotonic() + 1.0 + moments.random() * LIFE
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        process.kill()
        process.wait()
        look_at(folder)
    finish(folder)
    assert RunDir(folder).status()["state"] == "finished", said(folder).read_text()
    assert_same(folder, tmp_path / "unbroken")
    assert not [file.name for file in folder.rglob(".*.tmp")], "what a killed process left half written is swept"
