"""Two processes at once in a run directory, a cache, a report: nothing is corrupt; the second one waits or says so."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.config import composed
from src.evaluate import evaluate_run
from src.files import read_csv, write_csv, write_json
from src.report import PAGE, Request, print_status, write_report
from src.rundir import RunDir
from src.study import StudyRun, state_of
from src.task import SegmentationTask
from src.thresholds import store_threshold, stored_threshold
from src.train import train
from tests.conftest import PATIENCE, QUIET, REPO, TINY_MODEL
from tests.layouts import example_pairs, write_folder
from tests.test_resume import ARGUMENTS, assert_same, said, start

FORK = multiprocessing.get_context("fork")


def begun(work: Callable[..., object], *arguments: Any) -> BaseProcess:
    process = FORK.Process(target=work, args=arguments)
    process.start()
    return process


def ended(processes: Sequence[BaseProcess]) -> list[int | None]:
    for process in processes:
        process.join(PATIENCE)
        process.kill()
    return [process.exitcode for process in processes]


def wait_until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.01)


# ---- one run directory


@pytest.mark.slow
def test_a_second_command_in_one_run_directory_says_so_and_leaves_the_first_alone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "src.train", *ARGUMENTS, f"run_dir={folder}"]
    first = start(folder, delay=0.02)
    try:
        wait_until(lambda: (folder / "history.csv").is_file() or first.poll() is not None)
        first.send_signal(signal.SIGSTOP)  # or it might end before the second one, on a busy machine, has begun
        second = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=PATIENCE)
        first.send_signal(signal.SIGCONT)
        assert second.returncode == 2 and "Traceback" not in second.stderr
        assert f"in use: process {first.pid} is training in it. Wait for it, or choose another run_dir" in second.stderr
        assert first.wait(PATIENCE) == 0, said(folder).read_text()
    finally:
        first.kill()
        first.wait()
    train(composed(*ARGUMENTS, f"run_dir={tmp_path / 'alone'}"))
    assert_same(folder, tmp_path / "alone")


@pytest.mark.slow
def test_a_job_of_a_study_waits_for_one_that_trains_the_same_run(tiny, tmp_path: Path) -> None:
    config = tiny()
    run, told = RunDir(Path(config["run_dir"])), tmp_path / "told"

    def slow() -> None:
        real = SegmentationTask.training_step
        SegmentationTask.training_step = lambda *a: time.sleep(0.3) or real(*a)  # type: ignore[assignment,func-returns-value,method-assign]
        train(config)

    def second() -> None:
        with told.open("w") as errors, redirect_stderr(errors):
            train(config, wait=True)

    first = begun(slow)
    wait_until(lambda: run.status().get("state") == "running")
    assert ended([first, begun(second)]) == [0, 0]
    assert f"process {first.pid} is training it; waiting" in told.read_text()
    assert "is finished: val/dice" in told.read_text()  # it trained nothing itself
    assert run.status()["state"] == "finished" and run.status()["pid"] == first.pid


# ---- one cache


def test_two_trainings_build_one_cache(tmp_path: Path) -> None:
    ids = [f"img_{number:02d}" for number in range(16)]
    write_folder(tmp_path / "images", example_pairs(ids, (48, 56)), image_type=".png")
    settings = ("data=folder", f"data.root={tmp_path / 'images'}", f"data.cache={tmp_path / 'cache'}", "data.size=32")
    small = (*TINY_MODEL, *QUIET, *settings, "data.batch_size=4", "trainer.max_epochs=1", "data.allow_leaks=true")
    configs = [composed(*small, f"runs={tmp_path / 'runs'}", f"seed={seed}", "data.seed=0") for seed in (0, 1)]
    assert ended([begun(train, config) for config in configs]) == [0, 0]
    assert [RunDir(Path(config["run_dir"])).status()["state"] for config in configs] == ["finished"] * 2
    stores = [path.name for path in (tmp_path / "cache" / "folder").iterdir() if path.is_dir()]
    assert len(stores) == 1 and stores[0].startswith("full-32x32-")


# ---- one threshold.json


def test_thresholds_stored_at_once_are_all_there(trained_run: Path, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    store_threshold(run, "full", {"threshold": 0.5})

    def store(name: str) -> None:
        for number in range(40):
            store_threshold(run, f"{name}{number}", {"threshold": number / 40})

    assert ended([begun(store, name) for name in ("a", "b", "c")]) == [0, 0, 0]
    assert len(run.threshold()["modes"]) == 3 * 40 and run.threshold()["threshold"] == 0.5


@pytest.mark.slow
def test_two_evaluations_at_once_store_what_each_alone_would(trained_run: Path, tmp_path: Path) -> None:
    together, alone = (RunDir(shutil.copytree(trained_run, tmp_path / name)) for name in ("together", "alone"))
    how: list[dict[str, Any]] = [{"mode": "coarse_to_fine"}, {"tta": "d4"}]
    assert ended([begun(lambda of=of: evaluate_run(together.path, **of)) for of in how]) == [0, 0]
    for of in how:
        way = evaluate_run(alone.path, **of).segmenter.way
        assert way != "full" and stored_threshold(together, way) == stored_threshold(alone, way) != {}
    assert together.threshold() == alone.threshold()


# ---- a report while a sweep runs


def keep_writing(folder: Path, runs: Sequence[StudyRun]) -> None:
    """As trainings do that begin, train, score and end, again and again."""
    generator = np.random.default_rng(0)
    while True:
        for name in (run.name for run in runs):
            run = RunDir(folder / name)
            rows, history, metrics = (
                read_csv(run.path / "per_image.csv"),
                read_csv(run.path / "history.csv"),
                run.metrics(),
            )
            run.mark("running")
            write_csv(run.path / "history.csv", history * 20)  # long: a reader may come in between
            write_csv(run.path / "history.csv", history)
            for row in rows:
                row["dice"] = str(generator.random())
            write_json(run.path / "metrics.json", metrics)
            write_csv(run.path / "per_image.csv", rows)
            run.mark("finished", exit_code=0)


@pytest.mark.slow
def test_reports_are_whole_while_runs_are_written(
    study: tuple[Path, list[StudyRun]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder, runs = study
    writer = begun(keep_writing, folder, runs[1:])
    try:
        for number in range(3):
            out = tmp_path / f"report{number}"
            table = write_report(Request(folder, runs, out, "mine", metrics=["dice"]))
            assert (out / PAGE).read_text().rstrip().endswith("</html>")
            rows = read_csv(out / "results.csv")
            assert 1 <= len(rows) == len(table.results) <= len(runs)
            for _ in range(30):
                states = [state_of(folder, run) for run in runs]
                # nobody holds their locks here: one that is being written reads as interrupted, and none as damaged
                assert {state.state for state in states} <= {"finished", "interrupted"}, states
            print_status(folder, states)
        assert writer.is_alive(), "the writer was meant to be at work all the time"
    finally:
        writer.kill()
        writer.join()
    assert "6 runs: " in capsys.readouterr().out and not [*folder.rglob("figures/.*.tmp")]
    assert os.path.exists(tmp_path / "report2" / "figures" / "pareto.png")
