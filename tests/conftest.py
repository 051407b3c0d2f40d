"""What every test shares: no network, no leftover settings, small configs, one trained run."""

import csv
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", CUDA_VISIBLE_DEVICES="")
os.environ["EMISNET_CACHE"] = ""  # no test leaves pixels in the home of whoever runs it

import numpy as np
import pytest
import torch

from src.config import composed
from src.files import read_csv
from src.study import StudyRun, write_plan
from src.train import train

REPO = Path(__file__).resolve().parent.parent
# Small enough for seconds, with every stage of a real run; `plus` has no published 1x1 dilation to warn of.
TINY_MODEL = ("model=emisnet_plus", "model.channels=[4,4,8,8,8]")
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

torch.set_num_threads(1)  # results are bit-identical for one number of threads, and tests share the machine


def slow_train(delay: float) -> str:
    """Code that is `src.train` with a delay (s) in every training step, for `python -c`."""
    return (
        "import time, src.task as t; step = t.SegmentationTask.training_step\n"
        f"def slow(self, *a): time.sleep({delay}); return step(self, *a)\n"
        "t.SegmentationTask.training_step = slow\n"
        "from src.train import main; main()"
    )


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Makes the config of a tiny run under the test's own folder."""

    def make(*overrides: str, multirun: bool = False) -> dict[str, Any]:
        model = () if any(override.startswith("model=") for override in overrides) else TINY_MODEL
        return composed(*model, *TINY, f"runs={tmp_path / 'runs'}", *overrides, multirun=multirun)

    return make


@pytest.fixture
def tiny_on(tmp_path: Path) -> Callable[..., dict[str, Any]]:
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
