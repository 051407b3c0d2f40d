"""A disk that is full, by a limit of the size of files: what was whole stays whole, and the error says what to do."""

import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from src.files import replacing, write_text
from src.rundir import RunDir
from tests.conftest import PATIENCE, REPO, TINY, TINY_MODEL

TOO_LARGE = """
import resource, signal, sys, torch
from pathlib import Path
from src.files import replacing, write_text
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    if sys.argv[1] == "checkpoint":
        with replacing(Path("kept")) as file:
            torch.save({"a": torch.randn(100_000)}, file)
    else:
        write_text(Path("kept"), "x" * 100_000)
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize("what", ["checkpoint", "text"])
def test_what_stood_there_still_stands(tmp_path: Path, what: str) -> None:
    with replacing(tmp_path / "kept") as file:
        torch.save({"epoch": 1}, file)
    done = subprocess.run(
        [sys.executable, "-c", TOO_LARGE, what],
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPO), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert "kept was not written (" in done.stdout and "MB are free" in done.stdout, done.stdout + done.stderr
    assert torch.load(tmp_path / "kept", weights_only=True) == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["kept"]


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="mine"), replacing(tmp_path / "file"):
        raise RuntimeError("mine")
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        (tmp_path / "file").touch()
        write_text(tmp_path / "file" / "below", "x")


def _limited() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))  # logs and tables fit, checkpoints do not


@pytest.mark.slow
def test_a_run_on_a_full_disk_fails_by_name_and_goes_on_once_there_is_room(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "src.train", *TINY_MODEL, *TINY, f"run_dir={folder}"]
    settings = {"cwd": REPO, "capture_output": True, "text": True, "timeout": PATIENCE}
    done = subprocess.run(command, preexec_fn=_limited, **settings)  # type: ignore[call-overload]
    assert done.returncode == 1 and ".ckpt was not written (" in done.stderr, done.stderr
    run = RunDir(folder)
    assert run.status()["state"] == "failed" and "was not written" in run.status()["reason"]
    done = subprocess.run(command, **settings)  # type: ignore[call-overload]
    assert done.returncode == 0 and run.status()["state"] == "finished", done.stderr
