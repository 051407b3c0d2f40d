"""A study on disk: the runs that were planned, and what became of each.

    runs/<study>/plan.json               what the latest command planned
    runs/<study>/<model>-<hash>-seed<n>  the runs, named by what defines them

A directory that the plan does not name, because its settings differ, is never taken for one that it names.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from src.files import is_locked, write_json
from src.rundir import RunDir, differences

PLAN = "plan.json"
STATES = ("finished", "running", "interrupted", "failed", "missing")
NOT_VARYING = ("seed", "hydra")  # in a variant's name


@dataclass(frozen=True)
class StudyRun:
    """One run of a study: the name of its directory, what it varies (`variant`), its seed, and what it costs."""

    name: str
    variant: str
    seed: int
    params: int
    macs: int


@dataclass(frozen=True)
class RunState:
    """Where a run stands: one of STATES, epochs done of all, the reason if it did not finish."""

    run: StudyRun
    state: str
    epochs: int
    of: int
    reason: str


def write_plan(
    folder: Path,
    runs: Sequence[StudyRun],
    *,
    command: Sequence[str],
    commit: str,
    search: Mapping[str, Any] | None = None,
) -> None:
    """Replaces the plan of a study's folder; earlier runs stay where they are.

    A `search` has no list of runs: it is {"config": what all share, "free": the keys it chooses}.
    """
    plan = {"command": list(command), "commit": commit, "search": search, "runs": [asdict(run) for run in runs]}
    write_json(folder / PLAN, plan)


def study_runs(folder: Path) -> list[StudyRun]:
    """The planned runs of a study's folder; of a search those that it began. ValueError where nothing was planned."""
    path = folder / PLAN
    if not path.is_file():
        studies = sorted(found.parent.name for found in folder.parent.glob(f"*/{PLAN}"))
        there = f"Studies there: {', '.join(studies)}." if studies else "No study was begun there."
        raise ValueError(f"study={folder.name}: nothing was begun under that name in {folder.parent}. {there}")
    plan = json.loads(path.read_text(encoding="utf-8"))
    return _begun(folder, plan["search"]) if plan["search"] else [StudyRun(**run) for run in plan["runs"]]


def _begun(folder: Path, search: Mapping[str, Any]) -> list[StudyRun]:
    runs = []
    for path in sorted(folder.glob("*/config.yaml")):
        config = RunDir(path.parent).config()
        if all(key.startswith(tuple(search["free"])) for key in differences(search["config"], config)):
            runs.append(config)
    labels = variant_labels([config["overrides"] for config in runs])
    return [
        StudyRun(Path(config["run_dir"]).name, label, config["seed"], 0, 0)
        for config, label in zip(runs, labels, strict=True)
    ]


def variant_labels(overrides: Sequence[Sequence[str]]) -> list[str]:
    """What each run of a sweep varies, from its overrides: those that are not the same in all, its seed left out.

    ["seed=0", "model=emisnet_no_ca", "model.match_params=reference", "data=glas"], ... -> "emisnet_no_ca,
    match_params=reference". Runs that vary in nothing are called "all".
    """
    values = [{key.lstrip("+"): value for key, value in (line.split("=", 1) for line in lines)} for lines in overrides]
    keys = dict.fromkeys(key for found in values for key in found if key.split(".")[0] not in NOT_VARYING)
    varying = [key for key in keys if len({found.get(key) for found in values}) > 1]
    varying.sort(key=lambda key: "." in key)  # the choice of a file first
    return [
        ", ".join(_part(key, found[key]) for key in varying if found.get(key, "null") != "null") or "all"
        for found in values
    ]


def _part(key: str, value: str) -> str:
    return f"{key.rpartition('.')[2]}={value}" if "." in key else value


def others(folder: Path, runs: Sequence[StudyRun]) -> list[str]:
    """Run directories of the study's folder that are not among its runs: of other settings, or of earlier code."""
    names = {run.name for run in runs}
    return sorted(path.parent.name for path in folder.glob("*/status.json") if path.parent.name not in names)


def state_of(folder: Path, run: StudyRun) -> RunState:
    """Reads it off the run's directory; a run that says it is running, though no process holds it, was interrupted."""
    directory = RunDir(folder / run.name)
    status = directory.status()
    state, reason = status.get("state", "missing"), _last_line(status.get("reason"))
    if state == "running" and not is_locked(directory.path / ".lock"):
        state, reason = "interrupted", "its process is gone (killed?)"
    return RunState(run, state, *_epochs(directory), reason)


def _epochs(run: RunDir) -> tuple[int, int]:
    if not (run.path / "config.yaml").is_file():
        return 0, 0
    history = run.path / "history.csv"
    done = max(0, len(history.read_text(encoding="utf-8").splitlines()) - 1) if history.is_file() else 0
    return done, int(run.config()["trainer"]["max_epochs"])


def _last_line(text: str | None) -> str:
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    return lines[-1] if lines else ""


def study_states(folder: Path) -> list[RunState]:
    """Where every run of a study stands."""
    return [state_of(folder, run) for run in study_runs(folder)]


def summary(states: Sequence[RunState]) -> str:
    """`33 runs: 30 finished, 1 failed, 2 missing`."""
    counts = {state: sum(found.state == state for found in states) for state in STATES}
    told = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
    return f"{len(states)} runs: {told}"
