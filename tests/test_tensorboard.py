"""Runs watched without an account: TensorBoard over a study's folder, in a real browser."""

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from src.study import StudyRun, write_plan
from src.train import train

from .browser import needs_chromium, visit
from .conftest import REPO

VARIANTS = {"0.001": "lr=1e-3", "0.02": "lr=2e-2"}


@pytest.fixture
def study(tiny: Callable[..., dict[str, Any]]) -> Path:
    """Two runs with the TensorBoard logger, that differ in their learning rate."""
    configs = [tiny("logger=tensorboard", "study=lrs", f"optim.lr={lr}", "test=true") for lr in VARIANTS]
    for config, lr in zip(configs, VARIANTS, strict=True):
        config["overrides"] = [f"optim.lr={lr}", "study=lrs"]
    paths = [Path(config["run_dir"]) for config in configs]
    runs = [StudyRun(path.name, label, 0, 1, 1) for path, label in zip(paths, VARIANTS.values(), strict=True)]
    write_plan(paths[0].parent, runs, command=[], commit="")
    for config in configs:
        train(config)
    return paths[0].parent


@pytest.fixture
def board(study: Path) -> Iterator[str]:
    """The address of a TensorBoard over the study."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(study), "--host", "127.0.0.1"]
    with subprocess.Popen([*command, "--port", str(port)], cwd=REPO, stderr=subprocess.PIPE, text=True) as server:
        try:
            for _ in range(120):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/data/runs", timeout=5).close()
                    break
                except OSError:
                    assert server.poll() is None, server.stderr.read() if server.stderr else ""
                    time.sleep(0.5)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()


@pytest.mark.slow
@needs_chromium
def test_curves_pictures_and_hyperparameters_of_a_study_are_shown(board: str, study: Path) -> None:
    with visit(f"{board}/#timeseries") as found:
        page = found.page
        page.fill("input[placeholder='Filter tags (regex)']", "val/dice")
        page.wait_for_selector("card-view >> text=val/dice", timeout=60_000)
        for path in study.glob("*-seed0"):
            page.wait_for_selector(f"card-view >> text={path.name}", timeout=60_000)
        page.goto(f"{board}/#images")
        page.reload()
        page.wait_for_selector("tf-image-loader img", timeout=60_000)
        assert page.locator("tf-image-loader").count() == 2 * 6  # the same six images of both runs
        page.goto(f"{board}/#hparams")
        page.reload()
        for text in ("test_native/dice", "cost/params", "optim.lr", *VARIANTS.values()):
            page.wait_for_selector(f"text={text}", timeout=60_000)
        assert not found.strangers, found.strangers
