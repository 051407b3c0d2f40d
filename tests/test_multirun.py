"""Several runs from one command: each its own directory and W&B run. (Of one that fails: faults/test_load.py.)"""

import subprocess
import sys
from pathlib import Path

import pytest

from src.rundir import RunDir

from .conftest import PATIENCE, REPO, TINY, TINY_MODEL


def multirun(folder: Path, *more: str) -> subprocess.CompletedProcess:
    arguments = [o for o in TINY if not o.startswith(("logger", "trainer.max"))]
    command = [
        sys.executable,
        "-m",
        "src.train",
        "-m",
        *TINY_MODEL,
        *arguments,
        "trainer.max_epochs=1",
        f"runs={folder}",
    ]
    return subprocess.run([*command, *more], cwd=REPO, capture_output=True, text=True, timeout=PATIENCE)


@pytest.mark.slow
def test_jobs_do_not_merge_and_leave_test_alone(tmp_path: Path) -> None:
    done = multirun(tmp_path, "seed=0,1", "study=pair")
    assert done.returncode == 0, done.stderr
    runs = sorted((tmp_path / "pair").glob("*-seed*"))
    assert [run.name[-6:] for run in runs] == ["-seed0", "-seed1"]
    files = [list(run.glob("wandb/offline-run-*/run-*.wandb")) for run in runs]
    assert [len(found) for found in files] == [1, 1] and files[0][0].name != files[1][0].name
    assert all(list(RunDir(run).metrics()["scores"]) == ["val"] for run in runs)
