"""kill -9 at random moments of a run's life, from its start to its scores, and the same command each time after; and
at every place where a report or a threshold is put in place of an earlier one.

EMISNET_KILLS says how many of the former (20 take some five minutes on two idle cores; by default a few).
"""

import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from src.files import read_csv
from src.report import Request, write_report
from src.rundir import RunDir
from src.study import StudyRun
from src.thresholds import store_threshold
from src.train import train
from src.weights import read_checkpoint
from tests.test_resume import assert_same, finish, said, start

KILLS = int(os.environ.get("EMISNET_KILLS", "4"))
PER_RUN = 4  # one after another in the same directory
DELAY = 0.1  # s, of every step, so that more of the kills fall into the training
STEPS = 24


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


@pytest.mark.slow
@pytest.mark.parametrize("number", range(-(-KILLS // PER_RUN)))
def test_killed_at_random_moments_a_run_ends_as_the_unbroken_one(tmp_path: Path, number: int) -> None:
    moments = random.Random(number)
    begun = time.monotonic()
    finish(tmp_path / "unbroken")
    life = time.monotonic() - begun + STEPS * DELAY  # on this machine, as busy as it is now
    folder = tmp_path / "run"
    for _ in range(min(PER_RUN, KILLS)):
        process = start(folder, delay=DELAY)
        end = time.monotonic() + 1.0 + moments.random() * life
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        process.kill()
        process.wait()
        look_at(folder)
    finish(folder)
    assert RunDir(folder).status()["state"] == "finished", said(folder).read_text()
    assert_same(folder, tmp_path / "unbroken")
    assert not [file.name for file in folder.rglob(".*.tmp")], "what a killed process left half written is swept"


# ---- at every place where a file is put in place of another


def killed_at(number: int, work: Callable[[], object]) -> bool:
    """Does `work` in a process that is killed where it would, for the n-th time, put a whole file in its place."""

    def until_then() -> None:
        real, calls = os.replace, iter(range(1, number + 1))

        def replace(*paths: Any) -> None:
            if next(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            real(*paths)

        os.replace = replace
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            work()

    process = multiprocessing.get_context("fork").Process(target=until_then)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.mark.slow
def test_a_run_killed_at_file_after_file_ends_as_the_unbroken_one(tiny, tmp_path: Path) -> None:
    config = tiny("ema=0.9")
    train(tiny("ema=0.9", f"run_dir={tmp_path / 'unbroken'}"))
    folder, number = Path(config["run_dir"]), 1
    while killed_at(number, lambda: train(config)):
        look_at(folder)
        assert not (folder / "metrics.json").is_file() or RunDir(folder).status()["state"] == "running"
        number += 3
    assert number > 10, "the first attempts are killed before there is a checkpoint, the last ones while they score"
    assert_same(folder, tmp_path / "unbroken")
    assert RunDir(folder).status()["state"] == "finished" and not [*folder.rglob(".*.tmp")]


def files_of(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".tmp")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.mark.slow
def test_a_report_killed_at_a_file_leaves_of_each_the_earlier_or_the_new_one(
    study: tuple[Path, list[StudyRun]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "strftime", lambda *_: "2026-01-01 00:00")  # a page says in which minute it was made
    folder, runs = study
    out = tmp_path / "out"
    for title, seen in (("earlier", runs[:4]), ("new", runs)):
        write_report(Request(folder, seen, tmp_path / title, title, metrics=["dice"]))
    shutil.copytree(tmp_path / "earlier", out)
    earlier, new = files_of(out), files_of(tmp_path / "new")
    assert earlier.keys() == new.keys() and all(earlier[name] != new[name] for name in ("report.html", "table.md"))
    for number in (1, 5, 8, len(new)):
        assert killed_at(number, lambda: write_report(Request(folder, runs, out, "new", metrics=["dice"])))
        found = files_of(out)
        assert found.keys() == new.keys()
        for name, content in found.items():
            assert content in (earlier[name], new[name]), name
    write_report(Request(folder, runs, out, "new", metrics=["dice"]))
    assert files_of(out) == new and not [*out.rglob(".*.tmp")]


def test_an_evaluation_killed_while_it_stores_its_threshold_leaves_the_earlier_one(
    trained_run: Path, tmp_path: Path
) -> None:
    run = RunDir(shutil.copytree(trained_run, tmp_path / "run"))
    before = run.threshold()
    assert killed_at(1, lambda: store_threshold(run, "tta", {"threshold": 0.3}))
    assert run.threshold() == before
    store_threshold(run, "tta", {"threshold": 0.3})  # the killed one holds no lock
    assert run.threshold() == before | {"modes": {"tta": {"threshold": 0.3}}}
