"""Runs side by side: one row per variant over its seeds, and its paired difference to a reference.

Made from per_image.csv alone, one protocol and one set of images per table.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from src.rundir import RunDir
from src.scoring import read_rows
from src.statistics import OverSeeds, PairedDifference, Scores, holm, over_seeds, paired_difference, seeds_p
from src.study import StudyRun

CHARGED = "_charged"
LOWER_IS_BETTER = ("hd", "hd95", "assd", "object_hausdorff", "fp", "fn")
NOT_COMPARED = ("id", "threshold_value", "coarse_threshold_value", "device", "precision", "root")  # of a protocol


@dataclass(frozen=True)
class Result:
    """One finished run: its metrics.json, and its rows (one per image) of the part that is compared; they lie in
    `scored_in`, which is the run's directory `path` for mode full."""

    run: StudyRun
    path: Path
    scored_in: Path
    metrics: Mapping[str, Any]
    config: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]

    def mean(self, metric: str) -> float:
        return float(np.mean([value_of(row, metric) for row in self.rows]))


@dataclass(frozen=True)
class Row:
    """One variant: `scores` by metric over its seeds, cost, and its difference to the reference in the first metric
    (None for the reference itself) with Holm's p over the table: that over images, and that over seeds (NaN where it
    cannot be told)."""

    variant: str
    params: int
    macs: int
    scores: Mapping[str, OverSeeds]
    difference: PairedDifference | None
    p_holm: float
    p_seeds: float


@dataclass(frozen=True)
class Table:
    """`rows` in the order of the study; `reference` is the variant they are compared with."""

    rows: Sequence[Row]
    reference: str
    metrics: Sequence[str]
    part: str
    n_images: int
    results: Sequence[Result]

    @cached_property
    def variants(self) -> dict[str, list[Result]]:
        """The results of each variant, in the order of the rows."""
        return by_variant(self.results)


def by_variant(results: Sequence[Result]) -> dict[str, list[Result]]:
    variants: dict[str, list[Result]] = {}
    for result in results:
        variants.setdefault(result.run.variant, []).append(result)
    return variants


def value_of(row: Mapping[str, Any], metric: str) -> float:
    """A column of per_image.csv; `<distance>_charged` is the image's diagonal where the distance is undefined.

    KeyError for what is no column.
    """
    if not metric.endswith(CHARGED):
        return float(row[metric])
    value = float(row[metric.removesuffix(CHARGED)])
    return value if math.isfinite(value) else float(row["diagonal"])


def higher_is_better(metric: str) -> bool:
    return metric.removesuffix(CHARGED) not in LOWER_IS_BETTER


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


def compare(results: Sequence[Result], *, part: str, metrics: Sequence[str], reference: str | None = None) -> Table:
    """The table of some runs; `reference` is a variant's name, the first one by default.

    Raises ValueError for runs of different protocols or images, two runs of one variant and seed, no metric, an unknown
    metric or reference, and metrics that are undefined on some image.
    """
    if not metrics:
        raise ValueError("metrics=[]: a comparison needs one column at least, such as metrics=[dice].")
    _require_one_protocol(results)
    for metric in metrics:
        _require_defined(results, metric)
    variants = by_variant(results)
    for name, found in variants.items():
        seeds = [result.run.seed for result in found]
        if twice := [result.run.name for result in found if seeds.count(result.run.seed) > 1]:
            raise ValueError(
                f"{name}: {' and '.join(twice[:2])} have the same seed and would count as two. Leave one of them out."
            )
    reference = reference or next(iter(variants))
    if reference not in variants:
        raise ValueError(f"reference={reference!r} is not a variant of this study. Possible: {'; '.join(variants)}.")
    scores = {name: scores_of(found, metrics[0]) for name, found in variants.items()}
    differences = {
        name: None if name == reference else paired_difference(found, scores[reference])
        for name, found in scores.items()
    }
    nothing = float("nan")
    adjusted = holm([found.p if found else nothing for found in differences.values()])
    over = holm([nothing if name == reference else seeds_p(scores[name], scores[reference]) for name in variants])
    rows = [
        Row(
            name,
            found[0].metrics["cost"]["params"],
            found[0].metrics["cost"]["macs"],
            {metric: over_seeds([result.mean(metric) for result in found]) for metric in metrics},
            differences[name],
            float(p),
            float(p_seeds),
        )
        for (name, found), p, p_seeds in zip(variants.items(), adjusted, over, strict=True)
    ]
    return Table(rows, reference, tuple(metrics), part, len(results[0].rows), results)


def scores_of(results: Sequence[Result], metric: str) -> Scores:
    """Of one variant: (seeds, images), images sorted by id."""
    by_id = [{row["id"]: value_of(row, metric) for row in result.rows} for result in results]
    ids = sorted(by_id[0])
    return Scores(ids, np.array([[found[id_] for id_ in ids] for found in by_id], dtype=float))


def _require_defined(results: Sequence[Result], metric: str) -> None:
    """ValueError for a metric that is no column, or undefined on an image."""
    first = results[0].rows[0]
    column = first.get(metric.removesuffix(CHARGED))
    if not isinstance(column, int | float) or (metric.endswith(CHARGED) and "diagonal" not in first):
        possible = [name for name, value in first.items() if isinstance(value, int | float)]
        raise ValueError(f"metrics={metric}: not among the columns of per_image.csv: {', '.join(possible)}.")
    for result in results:
        undefined = [row["id"] for row in result.rows if not math.isfinite(value_of(row, metric))]
        if undefined:
            raise ValueError(
                f"metrics={metric} is undefined on {len(undefined)} images of {result.run.name}, such as "
                f"{undefined[0]}. metrics={metric}{CHARGED} charges the image's diagonal there."
            )


def _require_one_protocol(results: Sequence[Result]) -> None:
    """ValueError that says what differs, where runs cannot stand in one table."""
    protocols: dict[str, list[Result]] = {}
    for result in results:
        protocols.setdefault(result.metrics["protocol"]["id"], []).append(result)
    if len(protocols) > 1:
        told = [found[0].metrics["protocol"] for found in protocols.values()]
        keys = [
            key
            for key in dict.fromkeys(key for protocol in told for key in protocol)
            if key not in NOT_COMPARED and any(protocol.get(key) != told[0].get(key) for protocol in told)
        ]
        lines = [
            f"  - {len(found)} run{'s' if len(found) > 1 else ''}, such as {found[0].run.name}: "
            + (", ".join(f"{key}={_brief(protocol.get(key))}" for key in keys) or "of other image folders")
            for found, protocol in zip(protocols.values(), told, strict=True)
        ]
        raise ValueError(
            f"these runs were scored under {len(protocols)} different protocols; they differ in "
            f"{', '.join(keys) or 'where the images lie'}:\n"
            + "\n".join(lines)
            + "\nCompare runs of one protocol only."
        )
    first = results[0]
    ids = {row["id"] for row in first.rows}
    for other in results[1:]:
        if {row["id"] for row in other.rows} != ids:
            raise ValueError(
                f"{first.run.name} was scored on {len(ids)} images, {other.run.name} on {len(other.rows)} others. "
                "Score both on the same images (python -m src.evaluate run=...)."
            )


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."  # hashes, sentences
