"""Several runs from one command: each its own directory and W&B run; one that fails does not stop the others."""

import subprocess
import sys
from pathlib import Path

from src.rundir import RunDir

from .conftest import REPO, TINY, TINY_MODEL


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
    return subprocess.run([*command, *more], cwd=REPO, capture_output=True, text=True, timeout=240)


def test_jobs_do_not_merge_and_leave_test_alone(tmp_path: Path) -> None:
    done = multirun(tmp_path, "seed=0,1", "study=pair")
    assert done.returncode == 0, done.stderr
    runs = sorted((tmp_path / "pair").glob("*-seed*"))
    assert [run.name[-6:] for run in runs] == ["-seed0", "-seed1"]
    files = [list(run.glob("wandb/offline-run-*/run-*.wandb")) for run in runs]
    assert [len(found) for found in files] == [1, 1] and files[0][0].name != files[1][0].name
    assert all(list(RunDir(run).metrics()["scores"]) == ["val"] for run in runs)


def test_a_failed_job_lets_the_others_run_and_the_exit_code_says_so(tmp_path: Path) -> None:
    done = multirun(tmp_path, "optim.lr=1e30,1e-3", "trainer.gradient_clip_val=null", "logger=csv", "study=mixed")
    assert done.returncode == 1
    states = {
        run.config()["optim"]["lr"]: run.status()["state"] for run in map(RunDir, (tmp_path / "mixed").glob("*-seed*"))
    }
    assert states == {1e30: "failed", 1e-3: "finished"}
