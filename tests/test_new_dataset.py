"""The section on a new dataset in the README of src/data, followed to the letter in a copy of the tree."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from src.rundir import RunDir

from .conftest import QUIET, REPO, TINY_MODEL
from .layouts import scene

SECTION = (REPO / "src" / "data" / "README.md").read_text().split("## A new dataset")[1]
SHORT = ("data.size=32", "data.batch_size=4", "trainer.max_epochs=1", *TINY_MODEL, *QUIET)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of src and conf with every file that the section tells to write."""
    root = tmp_path_factory.mktemp("followed")
    for folder in ("src", "conf"):
        shutil.copytree(REPO / folder, root / folder)
    written = re.findall(r"`((?:src|conf)/\S+)`\W.*?```\w+\n(.*?)```", SECTION, re.DOTALL)
    assert [name for name, _ in written] == [
        "conf/data/my_polyps.yaml",
        "src/data/my_glands.py",
        "conf/data/my_glands.yaml",
    ]
    for name, text in written:
        (root / name).write_text(text)
    return root


def run(tree: Path, entry: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", f"src.{entry}", *arguments]
    environment = os.environ | {"EMISNET_DATA": str(tree / "data"), "PYTHONPATH": str(tree)}
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)


def blob(number: int) -> np.ndarray:
    mask = np.zeros((60, 80), np.uint8)
    mask[10 + number : 40, 20 : 40 + number] = 1
    return mask


def finished(tree: Path, dataset: str) -> dict:
    (folder,) = (tree / "runs" / dataset).iterdir()
    assert RunDir(folder).status()["state"] == "finished"
    return RunDir(folder).metrics()


@pytest.mark.slow
def test_images_and_masks_with_equal_stems(tree: Path) -> None:
    for number in range(12):
        save(tree / "data" / "my_polyps" / "images" / f"p{number}.jpg", scene(number, (60, 80)))
        save(tree / "data" / "my_polyps" / "annotations" / f"p{number}_seg.png", blob(number))
    done = run(tree, "train", "data=my_polyps", *SHORT)
    assert done.returncode == 0, done.stderr
    assert finished(tree, "my_polyps")["scores"]["test"]["n"] == 1


@pytest.mark.slow
def test_ten_lines_of_python(tree: Path) -> None:
    for number in range(12):
        folder = tree / "data" / "my_glands" / f"slide{number % 6}"
        save(folder / f"g{number}.png", scene(number, (60, 80)))
        save(folder / f"g{number}.tif", blob(number) * (1 + number % 3))
    audit = run(tree, "audit", "data=my_glands")
    assert audit.returncode == 0, audit.stdout + audit.stderr
    assert (tree / "audits" / "my_glands-holdout" / "audit.html").is_file()
    done = run(tree, "train", "data=my_glands", *SHORT)
    assert done.returncode == 0, done.stderr
    assert finished(tree, "my_glands")["scores"]["val"]["n"] == 2  # one slide of six
