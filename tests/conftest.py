"""What every test shares: no network, no leftover settings, small configs, one trained run."""

import csv
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", CUDA_VISIBLE_DEVICES="")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each of the processes started here compiles all of src again
os.environ["EMISNET_CACHE"] = ""  # no test leaves pixels in the home of whoever runs it

import numpy as np
import pytest
import torch

from src import figures, tables
from src.config import composed
from src.files import read_csv, replacing
from src.study import StudyRun, write_plan
from src.train import train

REPO = Path(__file__).resolve().parent.parent
PATIENCE = 1000.0  # s, that a test waits for what takes seconds: on some machines it takes minutes
Call = Callable[..., subprocess.CompletedProcess[str]]  # an entry point and its arguments; see the fixture `call`
# Small enough for seconds, with every stage of a real run; it has no published 1x1 dilation to warn of.
TINY_MODEL = ("model=emisnet_intended", "model.channels=[4,4,8,8,8]")
QUIET = ("data.num_workers=0", "logger=none", "trainer.enable_progress_bar=false", "threads=1")
TINY = (
    *QUIET,
    "data=synthetic",
    "data.counts=[12,5,6]",
    "data.native_size=[48,56]",
    "data.size=32",
    "data.batch_size=4",
    "trainer.max_epochs=2",
)

STEP = "a step begins"  # what a training of `slow_train` says at each
UNTIL = float(os.environ.get("EMISNET_TESTS_UNTIL") or "inf")  # seconds since 1970

torch.set_num_threads(1)  # results are bit-identical for one number of threads, and tests share the machine


LONGEST_FIRST = (
    "test_study",
    "test_train",
    "test_notebooks",
    "test_corpus",
    "test_kills",
    "test_resume",
    "test_export",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take minutes begin, so that no worker is left alone with one of them at the end; where the time is
    limited they come last, so that as few tests as can be are left out."""
    rank = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)), reverse=math.isfinite(UNTIL))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """EMISNET_TESTS_UNTIL is when the last test may begin; those that come after are skipped. Without it all run."""
    if time.time() > UNTIL:
        pytest.skip("the time for tests, EMISNET_TESTS_UNTIL, was over")


def quick(values: Collection[Any], quick: Collection[Any]) -> list[Any]:
    """For `parametrize`: all values, those that are not among `quick` marked slow."""
    assert all(value in values for value in quick), quick
    return [value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values]


def slow_train(delay: float) -> str:
    """Code that is `src.train` with a delay (s) in every training step, which it tells, for `python -c`."""
    return (
        "import sys, time, src.task as t; step = t.SegmentationTask.training_step\n"
        f"tell = lambda: print({STEP!r}, file=sys.stderr, flush=True)\n"
        f"def slow(self, *a): tell(); time.sleep({delay}); return step(self, *a)\n"
        "t.SegmentationTask.training_step = slow\n"
        "from src.train import main; main()"
    )


def wait_until(reached: Callable[[], bool], process: subprocess.Popen, said: Callable[[], str]) -> None:
    """Until a process has come that far; fails with what it said where it ends before, or after PATIENCE."""
    end = time.monotonic() + PATIENCE
    while not reached():
        assert process.poll() is None and time.monotonic() < end, said()
        time.sleep(0.01)


def wait_for_step(number: int, said: Path, process: subprocess.Popen) -> None:
    """Until a training of `slow_train`, which says so in that file, has begun that many steps."""
    wait_until(lambda: said.read_text().count(STEP) >= number, process, said.read_text)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Call:
    """Runs an entry point as its command does, but in this process, which has imported everything: exit code and what
    it says. (`--help` of each, in a process of its own, is in test_readme.py.)"""
    at_first, root = signal.getsignal(signal.SIGTERM), logging.getLogger()

    def run(main: Callable[[], None], *arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", [main.__module__, *arguments])
        capsys.readouterr()
        code, handlers, level = 0, root.handlers[:], root.level
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            torch.set_num_threads(1)
            signal.signal(signal.SIGTERM, at_first)
            root.handlers[:] = handlers  # Hydra puts its own, which write into what pytest closes
            root.setLevel(level)
        said = capsys.readouterr()
        return subprocess.CompletedProcess(list(arguments), code, said.out, said.err)

    return run


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's own pictures are empty files: drawing them is two fifths of a tiny training. (`trained_run` is drawn:
    fixtures of the session are made first.)"""

    def plot(shown: object, path: Path, *about: object) -> None:
        with replacing(path):
            pass

    monkeypatch.setattr(tables, "plot_overlays", plot)
    monkeypatch.setattr(figures, "plot_curves", plot)


@pytest.fixture
def tiny(tmp_path: Path, undrawn: None) -> Callable[..., dict[str, Any]]:
    """Makes the config of a tiny run under the test's own folder."""

    def make(*overrides: str, multirun: bool = False) -> dict[str, Any]:
        model = () if any(override.startswith("model=") for override in overrides) else TINY_MODEL
        return composed(*model, *TINY, f"runs={tmp_path / 'runs'}", *overrides, multirun=multirun)

    return make


@pytest.fixture
def tiny_on(tmp_path: Path, undrawn: None) -> Callable[..., dict[str, Any]]:
    """Makes the config of a tiny network on other data than the generated."""

    def make(dataset: str, *overrides: str) -> dict[str, Any]:
        return composed(*TINY_MODEL, *QUIET, f"data={dataset}", f"runs={tmp_path / 'runs'}", *overrides)

    return make


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished tiny run, to be read and never written."""
    config = composed(*TINY_MODEL, *TINY, f"runs={tmp_path_factory.mktemp('trained')}")
    train(config)
    return Path(config["run_dir"])


@pytest.fixture
def study(tmp_path: Path, trained_run: Path) -> tuple[Path, list[StudyRun]]:
    """Two variants with three seeds each: copies of one run whose Dice was set, by image and seed, to known values."""
    generator, runs = np.random.default_rng(0), []
    for variant, better in (("plain", 0.0), ("bold", 0.1)):
        for seed in range(3):
            name = f"{variant}-seed{seed}"
            shutil.copytree(trained_run, tmp_path / name)
            path = tmp_path / name / "per_image.csv"
            rows = read_csv(path)
            for i, row in enumerate(rows):
                row["dice"] = str(0.3 + 0.05 * i + better + 0.01 * generator.standard_normal())
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, rows[0])
                writer.writeheader()
                writer.writerows(rows)
            runs.append(StudyRun(name, variant, seed, 1, 1))
    write_plan(tmp_path, runs, command=[], commit="")
    return tmp_path, runs
