"""Files of a run directory that were cut, emptied or replaced: named in one message, wherever they are read."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from src.cli import ConfigError
from src.evaluate import evaluate_run
from src.rundir import RunDir
from src.study import StudyRun, state_of
from src.train import train
from src.trained import open_trained

DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_text(""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "bytes": lambda path: path.write_bytes(bytes(range(128, 256))),
    "a list": lambda path: path.write_text("[1, 2]"),
    "deep": lambda path: path.write_text("[" * 100_000),
    "deep lists": lambda path: path.write_text("- " * 100_000),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}
READ = {"config.yaml": "config", "status.json": "status", "metrics.json": "metrics", "threshold.json": "threshold"}


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained_run, tmp_path / "run")


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", READ)
def test_a_damaged_file_is_named(run: Path, name: str, how: str) -> None:
    DAMAGE[how](run / name)
    if how == "a folder" and name in ("status.json", "threshold.json"):
        assert getattr(RunDir(run), READ[name])() == {}  # as if there were none
        return
    if name == "config.yaml" and how == "cut":
        (run / name).write_text("model: {a: [1,")  # half of a YAML file may be one
    with pytest.raises(ValueError, match=rf"{name} (cannot be read|holds a \w+ and no mapping).*resume=never"):
        getattr(RunDir(run), READ[name])()


@pytest.mark.parametrize("name", ["config.yaml", "metrics.json", "threshold.json"])
def test_who_opens_the_run_is_told(run: Path, name: str) -> None:
    DAMAGE["bytes"](run / name)
    with pytest.raises(ValueError, match=rf"{name} cannot be read"):
        open_trained(run)
    with pytest.raises(ValueError, match=rf"{name} cannot be read"):
        evaluate_run(run)


def test_the_same_command_is_told_too(tiny) -> None:
    config = tiny()
    train(config)
    DAMAGE["bytes"](Path(config["run_dir"]) / "status.json")
    with pytest.raises(ConfigError, match=r"status.json cannot be read .*resume=never"):
        train(config)


def test_one_damaged_run_does_not_hide_the_others(run: Path) -> None:
    DAMAGE["bytes"](run / "status.json")
    state = state_of(run.parent, StudyRun(run.name, "x", 0, 1, 1))
    assert state.state == "failed" and "status.json cannot be read" in state.reason
