"""What a run directory claims, derived again from its weights and images."""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from src.evaluate import main
from src.files import read_csv, write_csv
from src.recheck import recheck

from .conftest import Call


def test_a_run_matches_what_it_holds_and_nothing_is_written(trained_run: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in trained_run.rglob("*") if file.is_file()}
    found = recheck(trained_run)
    assert found.matches and found.lines == [
        "val: 5 images, all masks are the same",
        "test: 6 images, all masks are the same",
    ]
    assert {file: file.stat().st_mtime_ns for file in trained_run.rglob("*") if file.is_file()} == before


def _weights(run: Path) -> None:
    path = run / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"]["net.head.bias"] -= 10  # the network had hardly learned, and found foreground everywhere
    torch.save(checkpoint, path)


def _mean(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["scores"]["test"]["dice"] += 0.05
    (run / "metrics.json").write_text(json.dumps(metrics))


def _row(run: Path) -> None:
    rows = read_csv(run / "per_image.csv")
    rows[0]["dice"] = "0.99"
    write_csv(run / "per_image.csv", rows)


def _dropped(run: Path) -> None:
    write_csv(run / "per_image.csv", read_csv(run / "per_image.csv")[1:])


def _threshold(run: Path) -> None:
    told = json.loads((run / "threshold.json").read_text())
    (run / "threshold.json").write_text(json.dumps(told | {"threshold": 0.95}))


def _protocol(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["protocol"] |= {"id": "0" * 12, "tau": 7.0}
    (run / "metrics.json").write_text(json.dumps(metrics))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_weights, "moved by more than"),
        (_mean, "dice in metrics.json are not the means of per_image.csv"),
        (_row, "val: dice in metrics.json are not the means of per_image.csv"),
        (_dropped, "metrics.json speaks of 5 images, per_image.csv has 4"),
        (_threshold, "moved by more than"),
        (_protocol, "it differs in tau"),
    ],
)
def test_what_was_changed_is_found(
    trained_run: Path, tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    run = shutil.copytree(trained_run, tmp_path / "run")
    change(run)
    found = recheck(run)
    assert not found.matches and any(said in fault for fault in found.faults), found.faults


@pytest.mark.parametrize("name", ["metrics.json", "per_image.csv"])
def test_without_scores_there_is_nothing_to_check(trained_run: Path, tmp_path: Path, name: str) -> None:
    run = shutil.copytree(trained_run, tmp_path / "run")
    (run / name).unlink()
    with pytest.raises(ValueError, match=rf"has no {name}: there are no scores to check"):
        recheck(run)


def test_the_command_tells_by_its_exit_code(trained_run: Path, tmp_path: Path, call: Call) -> None:
    run = shutil.copytree(trained_run, tmp_path / "run")
    check = functools.partial(call, main, f"run={run}", "check=true")
    done = check()
    assert done.returncode == 0 and f"{run}: matches" in done.stdout, done.stderr
    done = check("tta=d4")
    assert done.returncode == 2 and "leave out tta" in done.stderr and "Traceback" not in done.stderr
    _mean(run)
    done = check()
    assert done.returncode == 1 and "DOES NOT MATCH" in done.stdout
