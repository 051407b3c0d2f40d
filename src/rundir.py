"""The run directory: what it holds, how it is named, claimed, read, resumed and marked finished or failed.

A run directory is complete: everything after training takes nothing else.

    config.yaml         the resolved config
    status.json         running, finished, interrupted or failed, with the reason
    split.json          the ids of every part, with name and hash
    checkpoints/        best.ckpt and last.ckpt: plain values and tensors only
    history.csv         one row per epoch
    cost.csv            parameters and multiply-adds per stage and block
    threshold.json      the threshold chosen on val, used by everything after
    metrics.json        scores with their protocol, strata, calibration, cost, seed, commit, versions
    per_image.csv       one row per scored image
    masks.npz           their predicted masks, small, for pictures
    strata.csv          scores by lesion area, border contact, number of objects
    figures/            curves.png, overlays.png, worst.png

A bundle (src.export) is a run to be handed on: the same names, with BUNDLED in place of the checkpoints, which only
training needs, and without what no one else can use.
"""

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from src.files import lock, write_json

BUNDLED = "weights.safetensors"
RESUME = ("auto", "must", "never")
# What a run is does not depend on these: where it lies, how it is watched, where the data are, how fast it is computed.
NOT_DEFINING = {
    "": (
        *("run_dir", "run_name", "runs", "study", "tags", "logger", "resume", "test", "choices", "threads"),
        *("overrides", "reference", "plan", "fail_fast", "allow_same", "modes"),  # of the study around it
    ),
    "data": ("num_workers", "cache", "download", "allow_leaks"),
    "trainer": ("enable_progress_bar", "enable_model_summary"),
}
# Keys that came after the first runs, with the values that change nothing: those runs stay what they are.
LATER = {
    **{"init": None, "teacher": None, "teacher_weight": 0.5, "model.local_kernel_size": 5},
    **{"data.fold": None, "data.n_folds": 5, "data.intensity": None, "data.groups": None, "data.mix": 0.0},
    **{"data.augment.distort": 0.0, "data.augment.distort_limit": 0.3},
    **{"data.augment.blur": 0.0, "data.augment.blur_limit": 1.5},
    "data.split": "generated",  # of the generated images
}
MADE_WITH = ("commit", "versions", "machine", "contents")  # of an attempt, in status.json and metrics.json
DAMAGED = "It was changed or damaged: restore it, or train the run afresh (resume=never keeps this one beside it)."
YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a report reads a thousand: 2 ms each, not 20
SHORT = 8000  # characters: too few to nest dangerously deep
DEEPEST, MOST_NODES = 100, 100_000
LOGGERS_OWN = "wandb"  # its folder in a run: links of its own, and nothing of ours is read or written there
GLANCES = 5  # at a lock: who only looks whether a run is held (src.study) holds it for a moment


def defining(config: Mapping[str, Any]) -> dict[str, Any]:
    """What defines a run: its resolved config without NOT_DEFINING, and without its own path wherever that stands.

    `data.root` counts only where the split is drawn from what lies there (data=folder): a dataset may be moved.
    """
    kept = {key: value for key, value in config.items() if key not in NOT_DEFINING[""]}
    for group, keys in NOT_DEFINING.items():
        if group in kept:
            kept[group] = {key: value for key, value in kept[group].items() if key not in keys}
    if data := kept.get("data"):
        drawn = "split_seed" in data  # from what lies under `root`, which then counts
        dropped = {"split"} if drawn and data.get("fold") is None else set() if drawn else {"root"}
        kept["data"] = {key: value for key, value in data.items() if key not in dropped}
    if kept.get("teacher") is None:
        kept.pop("teacher_weight", None)
    kept = _without_later(kept)
    own_path = json.dumps(str(config.get("run_dir")))[1:-1]
    return json.loads(json.dumps(kept, default=str).replace(own_path, "<run_dir>"))


def _without_later(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            kept[key] = _without_later(value, f"{prefix}{key}.")
        elif f"{prefix}{key}" not in LATER or LATER[f"{prefix}{key}"] != value:
            kept[key] = value
    return kept


def defining_but_seed(config: Mapping[str, Any]) -> dict[str, Any]:
    """`defining` without the run's seed, and without that of the data where it is the same."""
    kept = defining(config)
    seed, data = kept.pop("seed", None), kept.get("data", {})
    if data.get("seed") == seed:
        data.pop("seed", None)
    return kept


def run_hash(config: Mapping[str, Any]) -> str:
    """Eight hex digits of what defines a run, but for its seed, which stands in the name beside them."""
    kept = defining_but_seed(config)
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:8]


def flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A config's values by dotted key."""
    values: dict[str, Any] = {}
    for name, child in node.items():
        values |= flat(child, f"{prefix}{name}.") if isinstance(child, Mapping) else {f"{prefix}{name}": child}
    return values


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """The dotted keys in which two configs define different runs."""
    one, other = flat(defining(a)), flat(defining(b))
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


@dataclass(frozen=True)
class RunDir:
    """Paths of one run and the few operations on them."""

    path: Path

    @property
    def best(self) -> Path:
        return self.path / "checkpoints" / "best.ckpt"

    @property
    def weights(self) -> Path:
        """The best weights: the checkpoint, or what a bundle has instead."""
        bundled = self.path / BUNDLED
        return bundled if bundled.is_file() and not self.best.is_file() else self.best

    @property
    def is_bundle(self) -> bool:
        """Handed on: whoever made it, what it may build is ours."""
        return (self.path / BUNDLED).is_file()

    @property
    def last(self) -> Path:
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @classmethod
    def open(cls, path: str | Path) -> "RunDir":
        """An existing run; ValueError that says what is missing for it to be one."""
        run = cls(Path(path))
        run.refuse_links()
        for part in (run.path / "config.yaml", run.weights):
            if not part.is_file():
                raise ValueError(
                    f"run={path} is not a complete run directory: {part} is missing. Give the directory that training "
                    "printed at its end (runs/.../<model>-<hash>-seed<n>)."
                )
        return run

    def config(self) -> dict[str, Any]:
        return _read(self.path / "config.yaml", _parse_yaml)

    def status(self) -> dict[str, Any]:
        """The content of status.json; {} before a run has begun."""
        path = self.path / "status.json"
        return _read(path, json.loads) if path.is_file() else {}

    def metrics(self) -> dict[str, Any]:
        return _read(self.path / "metrics.json", json.loads)

    @property
    def threshold_file(self) -> Path:
        return self.path / "threshold.json"

    def threshold(self) -> dict[str, Any]:
        """How the threshold was chosen; {} for a run that has none, whose masks are cut at 0.5."""
        return _read(self.threshold_file, json.loads) if self.threshold_file.is_file() else {}

    def mark(self, state: str, *, reason: str | None = None, **more: Any) -> None:
        """Writes status.json; `started` of the first attempt is kept, and MADE_WITH of the last that had begun."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        earlier = self.status()
        made_with = {key: earlier[key] for key in MADE_WITH if key in earlier}
        if "contents" in more:  # of parts that are not at hand this time the earlier digests stay
            more["contents"] = earlier.get("contents", {}) | more["contents"]
        started = earlier.get("started", now)
        status = {"state": state, "reason": reason, "started": started, "updated": now, "pid": os.getpid()}
        status |= made_with | more
        write_json(self.path / "status.json", status)

    def claim(self, *, wait: bool = False) -> IO[str]:
        """Locks the directory for this process; the kernel lets go when the process ends, however it ends.

        Keep the returned file. When another process is training in it: ValueError, or with `wait` its end is awaited.
        ValueError also as `refuse_links`.
        """
        self.refuse_links()
        for _ in range(GLANCES):
            try:
                return lock(self.path / ".lock", wait=False)
            except BlockingIOError:
                time.sleep(0.1)
        if wait:
            print(f"{self.path}: process {self.status().get('pid')} is training it; waiting.", file=sys.stderr)
            return lock(self.path / ".lock")
        else:
            raise ValueError(
                f"{self.path} is in use: process {self.status().get('pid')} is training in it. Wait for it, or choose "
                "another run_dir=..."
            )

    def refuse_links(self) -> None:
        """ValueError where a link in the directory leads out of it: a stranger's run could have a log, a picture or a
        table written over any file, or a file that is nobody's business copied into what is handed on."""
        root = os.path.realpath(self.path)
        for folder, folders, files in os.walk(self.path):
            for name in (*folders, *files):
                place = os.path.join(folder, name)
                if os.path.islink(place) and os.path.commonpath([root, os.path.realpath(place)]) != root:
                    raise ValueError(
                        f"{place} is a link that leads out of the run directory, to {os.path.realpath(place)}; nothing "
                        "is read or written through it. Put there what it leads to, or remove it."
                    )
            folders[:] = [name for name in folders if name != LOGGERS_OWN]

    def discard_if_empty(self) -> None:
        """Removes a directory in which nothing was begun."""
        if {file.name for file in self.path.iterdir()} <= {".lock", "train.log"}:
            shutil.rmtree(self.path)

    def set_aside(self) -> Path:
        """Renames the directory to <name>.old-<n>, so that nothing is lost when a run starts afresh."""
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.old-{number}")).exists():
            number += 1
        self.path.rename(aside)
        return aside


def _parse_yaml(text: str) -> Any:
    """ValueError for what is nested deeper than DEEPEST: libyaml's loader would overflow the stack, and end Python;
    and for more than MOST_NODES, those that an alias repeats counted each time: 1 kB of them may stand for millions."""
    if len(text) > SHORT or "*" in text:
        _check_size(text)
    return yaml.load(text, YAML_LOADER)


def _check_size(text: str) -> None:
    nodes = 0
    open_at: list[tuple[str | None, int]] = []  # collections that have not ended: their anchor, nodes before them
    nodes_of: dict[str | None, int] = {}
    for event in yaml.parse(text, YAML_LOADER):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in (anchor for anchor, _ in open_at):
                raise ValueError(f"the alias *{event.anchor} stands inside of what it repeats")
            nodes += nodes_of.get(event.anchor, 1)
        elif isinstance(event, yaml.NodeEvent):
            nodes += 1
            if isinstance(event, yaml.CollectionStartEvent):
                open_at.append((event.anchor, nodes))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, begun = open_at.pop()
            nodes_of[anchor] = nodes - begun + 1
        if len(open_at) > DEEPEST:
            raise ValueError(f"nested more than {DEEPEST} deep")
        if nodes > MOST_NODES:
            raise ValueError(f"more than {MOST_NODES} values, with what aliases repeat")


def _read(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    """ValueError that names a file that is absent, or cannot be parsed, or holds no mapping."""
    try:
        held = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        said = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {str(error).splitlines()[0]}"
        raise ValueError(f"{path} cannot be read ({said}). {DAMAGED}") from error
    if not isinstance(held, dict):
        raise ValueError(f"{path} holds a {type(held).__name__} and no mapping. {DAMAGED}")
    return held
