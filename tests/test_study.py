"""Studies: what their files say, which runs they plan, where those stand, and what becomes of those that fail.

The processes here are real: kills, signals, memory that runs out.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
import yaml

from src import timing
from src.build import build_net
from src.cli import ConfigError
from src.config import composed
from src.files import lock, read_csv
from src.job import RunFailed, train_apart
from src.models.cost import measure_cost
from src.plan import planned
from src.rundir import RunDir
from src.study import StudyRun, others, state_of, study_runs, study_states, summary, variant_labels, write_plan
from src.train import main

from .conftest import PATIENCE, QUIET, REPO, TINY, TINY_MODEL, Call

STUDIES = sorted((REPO / "conf" / "experiment").glob("*.yaml"))
TINY_STUDY = ("-m", *TINY_MODEL, *TINY, "study=tiny")


@pytest.fixture(autouse=True)
def quickly_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "TIMED_FOR", 0.0)
    monkeypatch.setenv("COLUMNS", "240")  # so that no cell of a table is broken


def plan(*argv: str) -> dict:
    """The plan that a command line stores; nothing is run."""
    with suppress(SystemExit), planned(argv):  # which ends with 1, since its runs are missing then
        pass
    runs = next(line.partition("=")[2] for line in argv if line.startswith("runs="))
    (path,) = Path(runs).glob("*/plan.json")
    return json.loads(path.read_text())


def train_study(folder: Path, *more: str, **how: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "src.train", *TINY_STUDY, f"runs={folder}", *more]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=PATIENCE, **how)


# Budgets


def test_a_budget_of_reference_is_the_cost_of_the_network_with_nothing_taken_out() -> None:
    full, ablated = ("model.channels=[8,16,24,32,40]", "data.size=64"), ("model=emisnet_no_context",)
    target = measure_cost(build_net(composed(*full)["model"], quiet=True), (1, 3, 64, 64))
    for key, cost in (("params", target.params), ("macs", target.macs)):
        config = composed(*ablated, *full, "+reference.context=true", f"model.match_{key}=reference")
        assert not config["model"]["context"]
        found = measure_cost(build_net(config["model"], quiet=True), (1, 3, 64, 64))
        assert abs(getattr(found, key) - cost) <= 0.02 * cost


def test_the_full_network_at_its_own_budget_is_the_same_run() -> None:
    plain, matched = (composed("+reference.context=true", f"model.match_params={m}") for m in ("null", "reference"))
    assert plain["run_dir"] == matched["run_dir"]


def test_a_budget_of_reference_without_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs to know which network"):
        composed("model.match_params=reference")


# The files


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_a_study_file_says_question_command_expectation_time_and_hardware(file: Path) -> None:
    head = file.read_text()
    words = ["# Question:", "# Command:", "# Expected:"]
    if file.stem != "quickstart":  # one run, and its time stands in its expectation
        words += ["# Runs:", "# Time:", "# Hardware:"]
        assert f"experiment={file.stem} " in head.partition("# Command:")[2].partition("\n")[0]
        assert yaml.safe_load(head)["study"] == f"{file.stem}-${{choices.data}}"
    assert all(word in head for word in words)


def test_the_studies_the_project_promises_are_there() -> None:
    promised = {"ablation_modules", "ablation_ratio", "sweep_dilation", "sweep_channels", "sweep_loss", "baselines"}
    assert promised | {"search", "search_network"} <= {file.stem for file in STUDIES}


# The plan

SMALL = ("model.channels=[8,16,24,32,40]", "model.stem_stride=2", *TINY[len(QUIET) :], *QUIET)


def test_the_module_ablation_plans_eleven_variants_for_each_seed(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    stored = plan("experiment=ablation_modules", "seed=0,1", *SMALL, f"runs={tmp_path}")
    labels = [run["variant"] for run in stored["runs"]]
    assert len(labels) == 22 and len(set(labels)) == 11 and labels.count("emisnet") == 2
    assert {run["seed"] for run in stored["runs"]} == {0, 1}
    full = next(run for run in stored["runs"] if run["variant"] == "emisnet")
    for run in stored["runs"]:
        if "match_params=reference" in run["variant"]:
            assert abs(run["params"] - full["params"]) <= 0.02 * full["params"]
    told = capfd.readouterr().err
    assert "attention: CoordAttn -> Identity" in told and "- icm.*: ICM" in told and "+0.0 %" in told
    assert "22 runs: 22 missing; 11 variants, seeds 0, 1" in told
    assert "2 of the 24 combinations are the same run as another" in told
    assert "time: about" in told and "disk: about" in told


def test_the_search_over_networks_holds_the_number_of_parameters(tmp_path: Path) -> None:
    """Of the network it starts from, and of one that it may propose."""
    proposed = ("model.context=false", "model.icm_levels=[]", "model.channels=[32,48,64,96,96]")
    for overrides in ((), proposed):
        config = composed("experiment=search_network", "data=synthetic", "data.size=64", *overrides)
        assert config["model"]["context_kernel_size"] == 3  # so that its rates are some
        net = build_net(config["model"], quiet=True)
        assert sum(parameter.numel() for parameter in net.parameters()) == pytest.approx(430000, rel=0.02)


@pytest.mark.parametrize(
    "only",
    [("model=emisnet_ratio_1131,emisnet_ratio_d3111",), pytest.param((), marks=pytest.mark.slow)],
    ids=["two", "all"],
)
def test_the_ratio_study_is_at_equal_multiply_adds(tmp_path: Path, only: tuple[str, ...]) -> None:
    stored = plan("experiment=ablation_ratio", "seed=0", *SMALL, f"runs={tmp_path}", *only)
    macs = {run["variant"]: run["macs"] for run in stored["runs"]}
    assert len(macs) == (2 if only else 6)
    assert all(abs(found / macs["emisnet_ratio_1131"] - 1) <= 0.02 for found in macs.values())


def test_runs_that_change_nothing_are_refused_unless_asked(tmp_path: Path) -> None:
    argv = ("experiment=sweep_dilation", "seed=0", *SMALL, "data.size=64", f"runs={tmp_path}")
    with pytest.raises(ConfigError) as refused:
        plan(*argv, "allow_same=false")
    told = str(refused.value)
    assert "2 of 6 variants" in told and "allow_same=true" in told
    assert told.count("the same function as context_kernel_size=1, context_dilation=1") == 2
    assert len(plan(*argv)["runs"]) == 6  # the study's file asks for them


def test_settings_of_hydra_do_not_hinder_the_plan(tmp_path: Path) -> None:
    slots = "+hydra.launcher.ray.init.labels={place: here}"
    argv = (*TINY_STUDY, "seed=0,1", "hydra/launcher=ray", "hydra.launcher.ray.remote.num_cpus=2", slots)
    assert len(plan(*argv, f"runs={tmp_path}")["runs"]) == 2


def test_plan_true_prints_and_leaves_nothing(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped, planned([*TINY_STUDY, "seed=0,1", f"runs={tmp_path}", "plan=true"]):
        raise AssertionError("nothing may run")
    assert stopped.value.code == 0 and list(tmp_path.iterdir()) == []
    assert "2 runs: 2 missing" in capfd.readouterr().err


def test_a_single_run_and_a_printed_config_have_no_plan(tmp_path: Path) -> None:
    for argv in ([*TINY_MODEL, *TINY], ["--cfg", "job", *TINY_STUDY], ["--help"]):
        with planned([*argv, f"runs={tmp_path}"]):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_bad_value_anywhere_in_the_sweep_is_told_before_anything_runs(tmp_path: Path) -> None:
    argv = [*TINY_STUDY, "optim.lr=0.1,-1", f"runs={tmp_path}"]
    with pytest.raises(ConfigError, match=r"optim\.lr=-1"), planned(argv):
        raise AssertionError("nothing may run")


def test_two_runs_of_one_directory_are_refused(tmp_path: Path) -> None:
    argv = [*TINY_STUDY, "seed=0,1", f"runs={tmp_path}", f"run_dir={tmp_path / 'one'}"]
    with pytest.raises(ConfigError, match=r"would share .* differ in data\.seed, seed"), planned(argv):
        raise AssertionError("nothing may run")


def test_a_seed_of_the_data_alone_makes_another_run(tmp_path: Path) -> None:
    assert len(plan(*TINY_STUDY, "data.seed=0,1,2", f"runs={tmp_path}")["runs"]) == 3


def test_what_only_a_constructor_refuses_is_told_before_anything_runs(tmp_path: Path, call: Call) -> None:
    for bad in ("model.act=gelu,foo", "data.crop=full,foo"):
        done = call(main, *TINY_STUDY, f"runs={tmp_path}", bad)
        assert done.returncode == 2 and "foo" in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.glob("tiny/*seed*")) == []


def test_labels_hold_what_varies_and_no_more() -> None:
    lines = [
        ["seed=0", "model=a", "+model.match_params=null", "data=glas"],
        ["model=b", "+model.match_params=9", "data=glas"],
    ]
    assert variant_labels(lines) == ["a", "b, match_params=9"]
    assert variant_labels([["seed=0", "x=1"], ["seed=1", "x=1"]]) == ["all", "all"]
    assert variant_labels([["loss=dice", "ema=0"], ["loss=bce", "ema=0.9"]]) == ["dice, ema=0", "bce, ema=0.9"]


def test_two_variants_never_share_a_label() -> None:
    clash = [["a.x=null", "b.x=1"], ["a.x=1", "b.x=null"]]
    assert variant_labels(clash) == ["a.x=null, b.x=1", "a.x=1, b.x=null"]


def test_where_a_run_lies_and_how_it_is_watched_is_no_variant() -> None:
    assert variant_labels([["logger=csv", "data.cache=a"], ["logger=none", "data.cache=b"]]) == ["all", "all"]


# Where runs stand


def run_at(folder: Path, name: str, state: str, **more: object) -> StudyRun:
    RunDir(folder / name).mark(state, **more)
    return StudyRun(name, name, 0, 1, 1)


def test_states_are_read_off_the_directories(tmp_path: Path) -> None:
    runs = [
        run_at(tmp_path, "done", "finished"),
        run_at(tmp_path, "broken", "failed", reason="first\nlast line"),
        run_at(tmp_path, "killed", "running"),
        run_at(tmp_path, "busy", "running"),
        StudyRun("never", "never", 0, 1, 1),
    ]
    held = lock(tmp_path / "busy" / ".lock")
    found = {state.run.name: (state.state, state.reason) for state in (state_of(tmp_path, run) for run in runs)}
    held.close()
    assert found == {
        "done": ("finished", ""),
        "broken": ("failed", "last line"),
        "killed": ("interrupted", "its process is gone (killed?)"),
        "busy": ("running", ""),
        "never": ("missing", ""),
    }


def test_a_directory_of_other_settings_does_not_pass_for_a_planned_one(tmp_path: Path) -> None:
    planned_run = run_at(tmp_path, "emisnet-aaaaaaaa-seed0", "finished")
    run_at(tmp_path, "emisnet-bbbbbbbb-seed0", "finished")
    write_plan(tmp_path, [planned_run], command=[], commit="")
    assert study_runs(tmp_path) == [planned_run]
    assert others(tmp_path, [planned_run]) == ["emisnet-bbbbbbbb-seed0"]
    assert summary(study_states(tmp_path)) == "1 runs: 1 finished"


def test_an_unknown_study_is_answered_with_those_there_are(tmp_path: Path) -> None:
    write_plan(tmp_path / "here", [], command=[], commit="")
    with pytest.raises(ValueError, match="Studies there: here"):
        study_runs(tmp_path / "there")


# What fails


@contextmanager
def once_an_epoch_is_trained(config: dict, act: Callable[[RunDir], None]) -> Iterator[None]:
    """Calls `act` with the run, from another thread, when its first epoch is in history.csv."""
    run, over = RunDir(Path(config["run_dir"])), threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            if (run.path / "history.csv").is_file() and read_csv(run.path / "history.csv"):
                return act(run)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_killed_run_leaves_word_and_goes_on_when_called_again(tmp_path: Path) -> None:
    """SIGKILL is what the kernel sends when memory is out."""
    config = composed(*TINY_MODEL, *TINY, f"runs={tmp_path}", "trainer.max_epochs=12", multirun=True)
    kill = once_an_epoch_is_trained(config, lambda run: os.kill(run.status()["pid"], signal.SIGKILL))
    with pytest.raises(RunFailed, match="killed by SIGKILL"), kill:
        train_apart(config)
    run = RunDir(Path(config["run_dir"]))
    assert run.status()["state"] == "failed" and "out of memory?" in run.status()["reason"]
    assert "SIGKILL" in (run.path / "traceback.txt").read_text()
    trained = len(read_csv(run.path / "history.csv"))
    assert train_apart(config) == run.metrics()["best"]["value"] and run.status()["state"] == "finished"
    assert trained < 12 == len(read_csv(run.path / "history.csv"))


@pytest.mark.slow
def test_a_signal_reaches_the_run_which_saves(tmp_path: Path) -> None:
    config = composed(*TINY_MODEL, *TINY, f"runs={tmp_path}", "trainer.max_epochs=400", multirun=True)
    stop = once_an_epoch_is_trained(config, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped, stop:
        train_apart(config)
    run = RunDir(Path(config["run_dir"]))
    assert stopped.value.code == 143 and run.status()["state"] == "interrupted" and run.last.is_file()
    assert signal.getsignal(signal.SIGTERM) == before


def test_memory_that_runs_out_is_told_in_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch raises then is an ordinary exception; here a real one, of an allocation that no machine has."""
    from src.task import SegmentationTask
    from src.train import train

    monkeypatch.setattr(SegmentationTask, "training_step", lambda *_: torch.empty(1 << 60))
    config = composed(*TINY_MODEL, *TINY, f"runs={tmp_path}")
    with pytest.raises(RuntimeError):
        train(config)
    run = RunDir(Path(config["run_dir"]))
    assert run.status()["state"] == "failed" and "allocate" in run.status()["reason"]
    assert "torch.empty" in (run.path / "traceback.txt").read_text()


def test_bad_data_is_told_in_the_run_too(tmp_path: Path) -> None:
    config = composed(
        *TINY_MODEL, *QUIET, "data=folder", f"data.root={tmp_path / 'no'}", f"runs={tmp_path}", multirun=True
    )
    with pytest.raises(RunFailed, match=r"images.*no folder|no folder.*images|does not exist"):
        train_apart(config)
    run = RunDir(Path(config["run_dir"]))
    assert (run.status()["state"], run.status()["exit_code"]) == ("failed", 2)
    assert "ConfigError" in (run.path / "traceback.txt").read_text() and run.config() == config


def test_a_run_apart_has_the_threads_of_its_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("EMISNET_TRUST", "tests")
    config = composed(*TINY_MODEL, *TINY, f"runs={tmp_path}", "trainer.max_epochs=1", multirun=True)
    tell = "+trainer.callbacks.tell={_target_: tests.tell_threads.TellThreads}"
    config = composed(*TINY_MODEL, *TINY, f"runs={tmp_path}", "trainer.max_epochs=1", tell, multirun=True)
    train_apart(config)
    assert config["threads"] == 1
    assert (Path(config["run_dir"]) / "threads.txt").read_text() == "1"


@pytest.mark.slow
def test_fail_fast_stops_at_the_first(tmp_path: Path) -> None:
    done = train_study(tmp_path, "fail_fast=true", "optim.lr=1e30,1e-3", "trainer.gradient_clip_val=null")
    assert done.returncode == 1
    assert [state.state for state in study_states(tmp_path / "tiny")] == ["failed", "missing"]


# A search


def test_the_plan_of_a_search_is_of_its_own_settings(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    argv = ("experiment=search", "seed=3", *SMALL[1:], f"runs={tmp_path}", "hydra.sweeper.n_trials=5")
    stored = plan(*argv)
    assert [path.name for path in tmp_path.iterdir()] == ["search-synthetic"]
    assert set(stored["search"]["free"]) == {"optim.lr", "loss", "model.context_kernel_size", "model.channels"}
    assert "seed=3" in stored["search"]["fixed"] and "trainer.max_epochs=2" in stored["search"]["fixed"]
    assert "5 trials" in capfd.readouterr().err
    with pytest.raises(ConfigError, match=r"hydra\.sweeper\.direction=minimize"):
        plan(*argv, "monitor=val/loss")


@pytest.mark.slow
def test_a_search_replays_and_goes_on_after_a_failed_trial(tmp_path: Path) -> None:
    more = ("hydra/sweeper=optuna", "hydra.sweeper.sampler.seed=3", "hydra.sweeper.direction=maximize")
    more += ("hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1", "hydra.sweeper.max_failure_rate=1.0")
    more += ("optim.lr=choice(1e-3,1e30,1e-2)", "trainer.gradient_clip_val=null")
    first = train_study(tmp_path, *more)
    assert "3 trials, chosen by the sweeper as it goes, over optim.lr" in first.stderr
    states = {state.run.name: state.state for state in study_states(tmp_path / "tiny")}
    assert set(states.values()) == {"finished", "failed"} and first.returncode == 1, first.stderr
    done = {name: RunDir(tmp_path / "tiny" / name).status()["updated"] for name in states if states[name] == "finished"}
    again = train_study(tmp_path, *more)
    assert {state.run.name: state.state for state in study_states(tmp_path / "tiny")} == states
    assert again.returncode == 1
    assert done == {name: RunDir(tmp_path / "tiny" / name).status()["updated"] for name in done}  # not trained again
