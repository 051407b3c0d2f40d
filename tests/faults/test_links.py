"""A stranger's run directory whose files are links: nothing is written or read through them."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.cli import ConfigError
from src.evaluate import evaluate_run
from src.export import export_run
from src.results import read_results
from src.rundir import RunDir
from src.study import StudyRun
from src.train import train

PLACES = [
    *("train.log", ".lock", "config.yaml", "status.json", "split.json", "threshold.json", "metrics.json"),
    *("per_image.csv", "history.csv", "masks.npz", "checkpoints/best.ckpt", "checkpoints/last.ckpt"),
    *("figures/curves.png", "figures/overlays.png", "evaluations", "export", "figures", "checkpoints"),
]


def link_out(run: Path, place: str, outside: Path) -> None:
    """What lies at `place` lies outside now, and a link in its stead."""
    inside = run / place
    target = outside / Path(place).name
    if inside.exists():
        shutil.move(inside, target)
    elif "." in place:
        target.write_text("nobody's business")
    else:
        target.mkdir()
    inside.parent.mkdir(exist_ok=True)
    inside.symlink_to(target)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("place", PLACES)
def test_a_link_out_of_a_run_is_refused_and_followed_by_nobody(trained_run: Path, tmp_path: Path, place: str) -> None:
    run, outside = shutil.copytree(trained_run, tmp_path / "run"), tmp_path / "outside"
    outside.mkdir()
    link_out(run, place, outside)
    before = contents(outside)
    config = RunDir(trained_run).config() | {"run_dir": str(run)}
    commands: list[Callable[[], Any]] = [
        lambda: evaluate_run(run),
        lambda: read_results(run.parent, [StudyRun(run.name, "a", 0, 0, 0)]),
        lambda: export_run(run, formats=["bundle"], out=tmp_path / "handed_on", overwrite=True),
        lambda: train(config),
        lambda: train(config | {"resume": "never"}),
    ]
    for command in commands:
        with pytest.raises((ValueError, ConfigError), match=rf"{place} is a link that leads out .*Put there what it"):
            command()
    assert contents(outside) == before and not (tmp_path / "handed_on").exists()


def test_links_within_a_run_and_to_a_run_are_nobody_s_trouble(trained_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained_run, tmp_path / "run")
    os.symlink("best.ckpt", run / "checkpoints" / "chosen.ckpt")
    (run / "wandb").mkdir()
    os.symlink(tmp_path, run / "wandb" / "latest-run")  # W&B links to its logs elsewhere
    os.symlink(run, tmp_path / "the_run")
    assert RunDir.open(tmp_path / "the_run").config() == RunDir(run).config()
