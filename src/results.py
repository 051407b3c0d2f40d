"""What finished runs say: their rows, one per image, and those of the folds of a cross-validation as one."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from src.data.splits import KFOLD, content_hash, read_split
from src.rundir import RunDir
from src.scoring import protocol_id, read_rows
from src.study import StudyRun

CHARGED = "_charged"
NOT_COMPARED = ("id", "threshold_value", "coarse_threshold_value", "device", "root")  # of a protocol
OF_A_FOLD = ("split", "split_hash", "caveat", "weights", "trained_on", "n_named_like_training_images")
FULL = {"precision": "float32"}  # of a protocol that does not say
LEFT_OUT = "{} finished runs are left out: folds that other variants or seeds have are missing beside them."


@dataclass(frozen=True)
class Result:
    """One finished run: its metrics.json, and its rows (one per image) of the part that is compared; they lie in
    `scored_in`, which is the run's directory `path` for mode full.

    Or the runs of several folds, which `folds` holds: `rows` are those of all, and the rest is of the first, but for
    the protocol, whose split is that of all.
    """

    run: StudyRun
    path: Path
    scored_in: Path
    metrics: Mapping[str, Any]
    config: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    folds: "Sequence[Result]" = ()

    @property
    def runs(self) -> "Sequence[Result]":
        """The runs that it is made of."""
        return self.folds or (self,)

    def mean(self, metric: str) -> float:
        return float(np.mean([value_of(row, metric) for row in self.rows]))


def by_variant(results: Sequence[Result]) -> dict[str, list[Result]]:
    return _grouped(results, lambda result: result.run.variant)


def _grouped(results: Sequence[Result], name: Callable[[Result], str]) -> dict[str, list[Result]]:
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(name(result), []).append(result)
    return groups


def _by_seed(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The folds of each variant and seed."""
    return _grouped(results, lambda result: f"{result.run.variant}, seed {result.run.seed}")


def value_of(row: Mapping[str, Any], metric: str) -> float:
    """A column of per_image.csv; `<distance>_charged` is the image's diagonal where the distance is undefined.

    KeyError for what is no column.
    """
    if not metric.endswith(CHARGED):
        return float(row[metric])
    value = float(row[metric.removesuffix(CHARGED)])
    return value if math.isfinite(value) else float(row["diagonal"])


def read_results(
    folder: Path, runs: Sequence[StudyRun], part: str | None = None, mode: str = "full"
) -> tuple[list[Result], str]:
    """The finished runs of a study and the part that is compared: `part`, or test where all were scored on it, or val.

    Raises ValueError when no run is finished, or one was not scored on `part` or in `mode`, and as `refuse_links`.
    """
    for run in runs:
        RunDir(folder / run.name).refuse_links()
    finished = [run for run in runs if RunDir(folder / run.name).status().get("state") == "finished"]
    if not finished:
        raise ValueError(f"no run of {folder} is finished: there is nothing to compare yet (status=true shows where).")
    metrics = {run.name: _metrics(folder / run.name, mode) for run in finished}
    scored = set.intersection(*(set(found["scores"]) for found in metrics.values()))
    part = part or ("test" if "test" in scored else "val")
    if part not in scored:
        without = [name for name, found in metrics.items() if part not in found["scores"]]
        raise ValueError(f"part={part}: {', '.join(without[:3])} was not scored on it. Scored are {sorted(scored)}.")
    results = []
    for run in finished:
        path = folder / run.name
        place = _scored_in(path, mode)
        rows = [row for row in read_rows(place / "per_image.csv") if row["part"] == part]
        results.append(Result(run, path, place, metrics[run.name], RunDir(path).config(), rows))
    return results, part


def _scored_in(run: Path, mode: str) -> Path:
    return run if mode == "full" else run / "evaluations" / mode


def _metrics(run: Path, mode: str) -> dict[str, Any]:
    place = _scored_in(run, mode)
    if not (place / "metrics.json").is_file():
        raise ValueError(
            f"mode={mode}: {run} was not scored in it. That does python -m src.evaluate run={run} mode={mode} "
            f"parts=[val] out={place}"
        )
    return RunDir(run).metrics() | RunDir(place).metrics()


def require_one_protocol(results: Sequence[Result], *, over_folds: bool = False) -> None:
    """ValueError that says what differs, where runs cannot stand in one table; `over_folds`, but for their folds."""
    protocols: dict[str, list[Result]] = {}
    shown: list[dict[str, Any]] = []  # of the first run of each
    for result in results:
        told = _but_for_the_fold(result) if over_folds else {**FULL, **result.metrics["protocol"]}
        key = protocol_id(told) if over_folds else told["id"]
        if key not in protocols:
            shown.append(told)
        protocols.setdefault(key, []).append(result)
    if len(protocols) < 2:
        return
    keys = [
        key
        for key in dict.fromkeys(key for protocol in shown for key in protocol)
        if key not in NOT_COMPARED and any(protocol.get(key) != shown[0].get(key) for protocol in shown)
    ]
    lines = [
        f"  - {len(found)} run{'s' if len(found) > 1 else ''}, such as {found[0].run.name}: "
        + (", ".join(f"{key}={_brief(protocol.get(key))}" for key in keys) or "of other image folders")
        for found, protocol in zip(protocols.values(), shown, strict=True)
    ]
    earlier = any(result.run.fold is None and result.config["data"].get("fold") is not None for result in results)
    raise ValueError(
        f"these runs were scored under {len(protocols)} different protocols; they differ in "
        f"{', '.join(keys) or 'where the images lie'}:\n"
        + "\n".join(lines)
        + "\nCompare runs of one protocol only."
        + (" (Folds that were planned by an earlier version: give their directories, run=[...].)" if earlier else "")
    )


def _but_for_the_fold(result: Result) -> dict[str, Any]:
    """What must be the same in all folds of a cross-validation, and of all that are compared."""
    told = {key: value for key, value in result.metrics["protocol"].items() if key not in (*OF_A_FOLD, *NOT_COMPARED)}
    file = result.path / "split.json"
    try:
        images = read_split(file).parts.values()
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror}). It says which images the folds are of.") from error
    return {
        **FULL,
        **told,
        "data.n_folds": result.config["data"]["n_folds"],
        "all images of the folds": content_hash(sorted(id_ for part in images for id_ in part)),
    }


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."  # hashes, sentences


def pool_folds(results: Sequence[Result]) -> tuple[list[Result], list[Result]]:
    """Of a cross-validation: the runs of a variant and seed as one result over the images of all folds, and the runs
    left out because a fold that others have is missing beside them. Runs of one fold, or of none, stay as they are.

    Raises ValueError for folds of different cross-validations or protocols, where no variant and seed has all folds
    that any has, and for a fold or an image that stands twice.
    """
    if len({result.run.fold for result in results}) < 2 or any(result.run.fold is None for result in results):
        return list(results), []  # runs with a fold beside runs without one differ in their split, which is told of
    require_one_protocol(results, over_folds=True)
    wanted = {result.run.fold for result in results}
    whole: list[list[Result]] = []
    left: list[Result] = []
    for found in _by_seed(results).values():
        if {result.run.fold for result in found} == wanted:
            whole.append(found)
        else:
            left += found
    if not whole:
        raise ValueError(
            f"no variant and seed is finished in all of the folds {_numbers(results)} that were begun:\n"
            f"{finished_folds(left)}"
        )
    return [_pooled(sorted(found, key=_fold)) for found in whole], left


def finished_folds(results: Sequence[Result]) -> str:
    """A line for each variant and seed, with its folds."""
    return "\n".join(f"  - {name}: folds {_numbers(found)}" for name, found in _by_seed(results).items())


def _fold(result: Result) -> int:
    return -1 if result.run.fold is None else result.run.fold


def _numbers(results: Sequence[Result]) -> str:
    return ", ".join(str(fold) for fold in sorted({_fold(result) for result in results}))


def _pooled(found: Sequence[Result]) -> Result:
    first, rows = found[0], [row for result in found for row in result.rows]
    for one, other in pairwise(found):
        if one.run.fold == other.run.fold:
            raise ValueError(
                f"{one.run.name} and {other.run.name} are both fold {one.run.fold} of {one.run.variant}, seed "
                f"{one.run.seed}, and would count as two. Leave one of them out."
            )
    if len({row["id"] for row in rows}) < len(rows):
        raise ValueError(
            f"{first.run.variant}, seed {first.run.seed}: an image was scored in two folds, so they were drawn anew "
            "between its runs. Train all folds on the same images."
        )
    n_folds, protocols = first.config["data"]["n_folds"], [result.metrics["protocol"] for result in found]
    protocol = {
        **first.metrics["protocol"],
        "split": f"{KFOLD}{n_folds}" + ("" if len(found) == n_folds else f", folds {_numbers(found)} alone"),
        "split_hash": content_hash([told["split_hash"] for told in protocols]),
        "id": protocol_id({"folds": [told["id"] for told in protocols]}),
        "caveat": "; ".join(dict.fromkeys(told["caveat"] for told in protocols if told.get("caveat"))) or None,
    }
    return replace(
        first,
        run=replace(first.run, name=f"{first.run.name} and its other folds", fold=None),
        metrics={**first.metrics, "protocol": protocol},
        rows=rows,
        folds=tuple(found),
    )
