"""Small forms of experiments/load: many jobs of which some fail, many runs in a report, several users of the page."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.load.load import Watch, app, percentile, report, resident, sweep, write_study
from src.rundir import RunDir
from src.study import directory_runs, study_states


@pytest.mark.slow
def test_of_a_sweep_all_but_the_failing_jobs_finish_and_each_failure_is_told(tmp_path: Path) -> None:
    row = sweep(tmp_path, jobs=2, failing=2)
    said = (tmp_path / "said.txt").read_text()
    counts = [row[name] for name in ("jobs", "finished", "failed", "missing", "exit code", "told as failed")]
    assert counts == [2, 1, 1, 0, 1, 1], said
    assert row["summary"] == "2 runs: 1 finished, 1 failed"
    for state in study_states(tmp_path / "load"):
        status = RunDir(tmp_path / "load" / state.run.name).status()
        assert (state.state == "failed") == ("lr=1e30" in state.run.variant or "1e+30" in state.run.variant)
        assert status["exit_code"] == (state.state == "failed")
        assert state.state == "finished" or "FloatingPointError" in state.reason
    assert abs(row["MB at end"] - row["MB at start"]) < 20  # between its first job and its last


@pytest.mark.slow
def test_a_report_over_copies_has_a_row_for_each(trained_run: Path, tmp_path: Path) -> None:
    row = report(tmp_path, trained_run, 20)
    assert (row["exit code"], row["rows"], row["variants"]) == (0, 20, 4), (tmp_path / "said.txt").read_text()
    assert 0 < row["page MB"] < 7 and row["MB at most"] < 1500


def test_copies_of_a_run_are_runs_of_their_own(trained_run: Path, tmp_path: Path) -> None:
    folder = write_study(tmp_path / "study", trained_run, 7)
    assert [state.state for state in study_states(folder)] == ["finished"] * 7
    assert len(directory_runs([f"{folder}/*"])) == 7  # no two of one config and seed
    assert len({(path / "per_image.csv").read_bytes() for path in folder.glob("variant*")}) == 7


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="the extra `app` is not installed")
def test_several_users_at_once_are_all_answered(trained_run: Path, tmp_path: Path) -> None:
    row = app(tmp_path, 3, 4.0, f"run={trained_run}")
    assert row["failures"] == 0, row["which"]
    assert row["pictures"] >= 3 and row["redraws"] >= 3 and 0 < row["picture s, p50"] <= row["picture s, p100"]
    assert 100 < row["MB at end"] <= row["MB at most"] and row["MB of files left"] == 0


def test_memory_is_that_of_the_process_that_is_watched() -> None:
    code = "import sys; held = bytearray(b'1' * 50_000_000); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdin and process.stdout.readline() == b"held\n"
        watch = Watch(process.pid)
        while len(watch.samples) < 2:
            pass
        process.stdin.close()
        process.wait()
    told = watch.told()
    assert 50 < told["MB at start"] == told["MB at most"] < 80 and resident(process.pid) is None
    assert (
        (resident(os.getpid()) or 0) > 50 and percentile([1.0, 2.0, 3.0, 4.0], 50) == 3.0 and percentile([], 50) is None
    )
