"""Checkpoints and small files are whole or not there."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from src.callbacks import AtomicCheckpointIO
from src.files import lock, read_csv, sweep, write_csv, write_json
from src.rundir import RunDir, differences, run_hash

from .conftest import REPO


def _save_for_ever(path: Path) -> None:
    io, number = AtomicCheckpointIO(), 0
    while True:
        number += 1
        io.save_checkpoint({"number": number, "weights": torch.full((2_000_000,), float(number))}, path)


def test_a_kill_in_mid_write_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    for attempt in range(6):
        process = multiprocessing.get_context("fork").Process(target=_save_for_ever, args=(path,))
        process.start()
        time.sleep(0.25 + 0.013 * attempt)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        saved = torch.load(path, weights_only=True)
        assert (saved["weights"] == saved["number"]).all()
    for kept in (
        f".last.ckpt.{os.getpid()}-0123abcd.tmp",
        ".mine.tmp",
        ".last.ckpt.1-0123abcd.tmp",
    ):  # of the living, of others
        (tmp_path / kept).touch()
    dead = multiprocessing.get_context("fork").Process(target=int)
    dead.start()
    dead.join()
    foreign = f".mine.{dead.pid}.tmp"  # no draft of ours: there are no eight digits
    (tmp_path / foreign).touch()
    (tmp_path / f".a.{dead.pid}-0123abcd.tmp").mkdir()  # of a bundle
    (tmp_path / f".b.{dead.pid}-0123abcd.tmp").touch()
    sweep(tmp_path)
    (tmp_path / f".a.{dead.pid}-0123abcd.tmp").rmdir()
    (tmp_path / foreign).unlink()
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(
        ["last.ckpt", f".last.ckpt.{os.getpid()}-0123abcd.tmp", ".mine.tmp", ".last.ckpt.1-0123abcd.tmp"]
    )


def test_a_failed_write_leaves_the_earlier_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    assert (tmp_path / "a.json").read_text() == '{\n  "x": 1\n}\n'
    assert len(list(tmp_path.iterdir())) == 1


def test_csv_gives_back_the_same_floats(tmp_path: Path) -> None:
    rows = [{"id": 'a,"b"\n', "dice": 0.1 + 0.2}, {"id": "c", "dice": 1 / 3}]
    write_csv(tmp_path / "rows.csv", rows)
    back = read_csv(tmp_path / "rows.csv")
    assert [(row["id"], float(row["dice"])) for row in back] == [(row["id"], row["dice"]) for row in rows]


def test_what_defines_a_run() -> None:
    config = {"seed": 0, "runs": "a", "data": {"split": "s", "size": 32, "root": "x"}, "optim": {"lr": 1}}
    moved = {"seed": 0, "runs": "b", "data": {"split": "s", "size": 32, "root": "y"}, "optim": {"lr": 1}}
    changed = {"seed": 0, "runs": "a", "data": {"split": "s", "size": 64, "root": "x"}, "optim": {"lr": 2}}
    assert run_hash(config) == run_hash(moved) != run_hash(changed)
    assert differences(config, moved) == [] and differences(config, changed) == ["data.size", "optim.lr"]


def test_keys_that_came_later_leave_earlier_runs_what_they_are() -> None:
    later = {"fold": None, "n_folds": 5, "intensity": None, "groups": None, "cache": "x", "download": True}
    for data in ({"split": "official", "root": "x"}, {"split_seed": 0, "root": "x"}):
        now = {"data": {**data, **later} | ({"split": "holdout"} if "split_seed" in data else {})}
        assert differences({"data": data}, now) == [] and run_hash({"data": data}) == run_hash(now)
        folded = {"data": now["data"] | {"split": "kfold", "fold": 0}}
        assert {"data.fold", "data.split"} <= set(differences({"data": data}, folded))
    assert differences({"data": {"split_seed": 0, "root": "x"}}, {"data": {"split_seed": 0, "root": "y"}}) == [
        "data.root"
    ]


def test_a_lock_ends_with_its_owner(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    with run.claim(), pytest.raises(ValueError, match="in use"):
        run.claim()
    run.claim().close()


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    # as the loader's workers do, which outlive a killed training by seconds
    code = (
        "import os, pathlib, sys, time; from src.files import lock\n"
        "kept = lock(pathlib.Path(sys.argv[1]))\n"
        "if os.fork() == 0: time.sleep(60)\n"
        "print('locked', flush=True); os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True, start_new_session=True) as parent:
        assert parent.stdout and parent.stdout.readline() == "locked\n"
        try:
            parent.wait(timeout=10)
            end = time.monotonic() + 5  # the child may need a moment to let go
            while True:
                try:
                    lock(tmp_path / "lock", wait=False).close()
                    break
                except BlockingIOError:
                    assert time.monotonic() < end, "the child keeps the lock"
                    time.sleep(0.01)
        finally:
            os.killpg(parent.pid, signal.SIGKILL)
