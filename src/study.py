"""A study on disk: the runs that were planned, and what became of each.

    runs/<study>/plan.json               what the latest command planned
    runs/<study>/<model>-<hash>-seed<n>  the runs, named by what defines them

A directory that the plan does not name, because its settings differ, is never taken for one that it names.
"""

import glob
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from src.files import is_locked, write_json
from src.rundir import LATER, NOT_DEFINING, RunDir, defining_but_seed, flat, run_hash

PLAN = "plan.json"
EXPERIMENTS = Path(__file__).resolve().parent.parent / "conf" / "experiment"
STATES = ("finished", "running", "interrupted", "failed", "missing")
FOLD = "data.fold"  # the folds of a cross-validation are runs of one variant, as its seeds are
NOT_VARYING = ("seed", FOLD, "hydra", "experiment")  # in a variant's name: keys, and groups with all their keys
GROUPS = (
    "model",
    "data",
    "loss",
    "optim",
    "schedule",
    "trainer",
    "recipe",
)  # an override of these is the name of a file


def is_defining(key: str) -> bool:
    """Whether an override of `key` makes another run of it."""
    group, _, name = key.partition(".")
    return group not in NOT_DEFINING[""] and name not in NOT_DEFINING.get(group, ())


@dataclass(frozen=True)
class StudyRun:
    """One run of a study: the name of its directory, what it varies (`variant`), its seed, what it costs, and which
    fold of a cross-validation it is."""

    name: str
    variant: str
    seed: int
    params: int
    macs: int
    fold: int | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any], name: str, variant: str, params: int = 0, macs: int = 0) -> "StudyRun":
        """That of a complete config."""
        return cls(name, variant, config["seed"], params, macs, config["data"].get("fold"))

    @property
    def number(self) -> str:
        """Which of a variant's runs."""
        return f"seed {self.seed}" + (f", fold {self.fold}" if self.fold is not None else "")


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

    A `search` has no list of runs: it is {"free": the keys it chooses, "fixed": its other overrides}.
    """
    plan = {"command": list(command), "commit": commit, "search": search, "runs": [asdict(run) for run in runs]}
    write_json(folder / PLAN, plan)


def _read_plan(folder: Path) -> dict[str, Any] | None:
    """None where nothing was planned."""
    path = folder / PLAN
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def study_runs(folder: Path) -> list[StudyRun]:
    """The planned runs of a study's folder; of a search those that it began. ValueError where nothing was planned."""
    plan = _read_plan(folder)
    if plan is None:
        studies = sorted(found.parent.name for found in folder.parent.glob(f"*/{PLAN}"))
        there = f"Studies there: {', '.join(studies)}." if studies else "No study was begun there."
        raise ValueError(f"study={folder.name}: nothing was begun under that name in {folder.parent}. {there}")
    return _begun(folder, plan["search"]) if plan["search"] else [StudyRun(**run) for run in plan["runs"]]


def directory_runs(patterns: Sequence[str | Path]) -> list[StudyRun]:
    """Any run directories, as paths or patterns (`runs/glas/*`), as if they were one study; names are their paths.

    A run that lies in two places (in two studies, say) counts once, the finished one. Raises ValueError for what is no
    run directory.
    """
    paths: list[Path] = []
    for pattern in map(str, patterns):
        found = [Path(pattern)] if Path(pattern).exists() else sorted(Path(path) for path in glob.glob(pattern))
        # what a pattern catches besides runs (plan.json, reports) is not meant; what is named is
        found = [path for path in found if (path / "config.yaml").is_file() or str(path) == pattern]
        if not found:
            raise ValueError(f"run={pattern}: no run directory. Give runs/.../<model>-<hash>-seed<n>, or a pattern.")
        paths += found
    configs: dict[tuple[str, int], tuple[Path, dict[str, Any]]] = {}
    for path in dict.fromkeys(paths):
        if not (path / "config.yaml").is_file():
            raise ValueError(f"run={path} is not a run directory: it has no config.yaml.")
        config = RunDir(path).config()
        key = run_hash(config), config["seed"]
        if key not in configs or _is_finished(path) > _is_finished(configs[key][0]):
            configs[key] = path, config
    labels = config_labels([config for _, config in configs.values()])
    return [
        StudyRun.of(config, str(path), label) for (path, config), label in zip(configs.values(), labels, strict=True)
    ]


def _is_finished(path: Path) -> bool:
    return RunDir(path).status().get("state") == "finished"


def config_labels(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A variant's name for each of some runs: the model, the other chosen files that differ, and the settings that
    differ among runs of the same choices. Runs that differ in seed and fold alone share one."""
    chosen = [
        {group: name for group, name in config["choices"].items() if group in GROUPS and name != "None"}
        for config in configs
    ]  # "None": an optional group left empty, which earlier runs do not know
    varying = [key for key in GROUPS if key != "model" and len({choices.get(key) for choices in chosen}) > 1]
    heads = [
        ", ".join([choices["model"], *(f"{key}={choices[key]}" for key in varying if key in choices)])
        for choices in chosen
    ]
    settings = [
        {key: value for key, value in flat(defining_but_seed(config)).items() if key != FOLD} for config in configs
    ]
    wholes = [flat(config) for config in configs]
    alike: dict[str, list[dict[str, Any]]] = {}
    for head, values in zip(heads, settings, strict=True):
        alike.setdefault(head, []).append(values)

    differing = {
        head: [key for key in dict.fromkeys(k for v in found for k in v) if len({repr(v.get(key)) for v in found}) > 1]
        for head, found in alike.items()
    }
    return [
        ", ".join(
            [head, *(f"{key.removeprefix('model.')}={whole.get(key, LATER.get(key))}" for key in differing[head])]
        )
        for head, whole in zip(heads, wholes, strict=True)
    ]


def study_question(folder: Path) -> str:
    """What the study's file in conf/experiment says that it asks; empty where the study has no such file."""
    plan = _read_plan(folder)
    command = plan["command"] if plan else []
    names = [word.partition("=")[2] for word in command if word.startswith("experiment=")]
    file = EXPERIMENTS / f"{names[-1]}.yaml" if names else EXPERIMENTS
    if not names or not file.is_file():
        return ""
    lines = [line[1:] for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    text = "\n".join(lines).partition("Question:")[2]
    question = " ".join(re.split(r"\n\s*\w+:", text)[0].split())
    return question[:1].upper() + question[1:]


def planned_variant(run_dir: Path) -> str | None:
    """What the study in whose folder a run lies calls it; None for a run of no study, or of a search."""
    plan = _read_plan(run_dir.parent)
    runs = plan["runs"] if plan else []
    return next((run["variant"] for run in runs if run["name"] == run_dir.name), None)


def _begun(folder: Path, search: Mapping[str, Any]) -> list[StudyRun]:
    """The trials of a search: those whose overrides, but for the keys it chooses, are those of its command."""
    found = [RunDir(path.parent).config() | {"name": path.parent.name} for path in sorted(folder.glob("*/config.yaml"))]
    trials = [config for config in found if fixed_overrides(config["overrides"], search["free"]) == search["fixed"]]
    labels = variant_labels([config["overrides"] for config in trials])
    return [StudyRun.of(config, config["name"], label) for config, label in zip(trials, labels, strict=True)]


def fixed_overrides(overrides: Sequence[str], free: Sequence[str]) -> list[str]:
    """Those that define a run and that a search does not choose."""
    kept = _by_key(overrides)
    return sorted(f"{key}={value}" for key, value in kept.items() if key not in free and is_defining(key))


def _by_key(overrides: Sequence[str]) -> dict[str, str]:
    return dict(line.lstrip("+~").partition("=")[::2] for line in overrides)


def variant_labels(overrides: Sequence[Sequence[str]]) -> list[str]:
    """What each run of a sweep varies, from its overrides: those that are not the same in all; seed and fold left out.

    ["seed=0", "model=emisnet_no_ca", "model.match_params=reference", "data=glas"], ... -> "emisnet_no_ca,
    match_params=reference". Runs that vary in nothing are called "all"; two variants never share a label.
    """
    parts = [
        {key: value for key, value in chosen.items() if value is not None} for chosen in override_values(overrides)
    ]
    short = [
        ", ".join(_short(key, value) for key, value in chosen.items() if value != "null") or "all" for chosen in parts
    ]
    whole = [", ".join(f"{key}={value}" for key, value in chosen.items()) for chosen in parts]
    return short if len(set(zip(short, whole, strict=True))) == len(set(short)) else whole


def override_values(overrides: Sequence[Sequence[str]]) -> list[dict[str, str | None]]:
    """What each run of a sweep varies, but for seed and fold: the same keys for all, None where one was left alone."""
    values = [_by_key(lines) for lines in overrides]
    keys = dict.fromkeys(
        key for found in values for key in found if not {key, key.split(".")[0]}.intersection(NOT_VARYING)
    )
    varying = [key for key in keys if is_defining(key) and len({found.get(key) for found in values}) > 1]
    varying.sort(key=lambda key: "." in key)  # the choice of a file first
    return [{key: found.get(key) for key in varying} for found in values]


def settings_to_compare(config: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """A run's variant, its seed and what else was typed of it: few enough to stand in columns."""
    typed = {key: value for key, value in _by_key(config["overrides"] or []).items() if is_defining(key)}
    return {"variant": variant, **typed, "seed": config["seed"]}


def _short(key: str, value: str) -> str:
    if key in GROUPS:
        return value
    return f"{key.rpartition('.')[2]}={value}"


def others(folder: Path, runs: Sequence[StudyRun]) -> list[str]:
    """Run directories of the study's folder that are not among its runs: of other settings, or of earlier code."""
    names = {run.name for run in runs}
    return sorted(path.parent.name for path in folder.glob("*/status.json") if path.parent.name not in names)


def state_of(folder: Path, run: StudyRun) -> RunState:
    """Reads it off the run's directory; a run that says it is running, though no process holds it, was interrupted."""
    directory = RunDir(folder / run.name)
    try:
        status, done = directory.status(), _epochs(directory)
    except ValueError as error:  # one damaged file does not keep the others from being told about
        return RunState(run, "failed", 0, 0, str(error))
    state, reason = status.get("state", "missing"), _last_line(status.get("reason"))
    if state == "running" and not is_locked(directory.path / ".lock"):
        state, reason = "interrupted", "its process is gone (killed?)"
    return RunState(run, state, *done, reason)


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
