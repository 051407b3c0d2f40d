"""What a W&B run leaves on disk, and an environment in which it can leave nothing anywhere else."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from src import loggers


@pytest.fixture(autouse=True)
def private_wandb(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No key, no user settings, no folder outside the test; the open run of a test never reaches the next one."""
    home = tmp_path_factory.mktemp("home")
    for variable in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(variable)
    for variable in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "HOME"):
        monkeypatch.setenv(variable, str(home))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    yield
    loggers.finish(None, exit_code=0)
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()  # W&B reads the environment once: the next test needs it read again


def run_files(run_dir: Path) -> list[Path]:
    return sorted((run_dir / "wandb").glob("offline-run-*/run-*.wandb"))


def read(path: Path, *options: str) -> str:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *options, str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout


def summary(path: Path) -> dict[str, Any]:
    return json.loads(read(path, "--summary"))
