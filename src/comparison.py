"""Runs side by side: one row per variant over its seeds, and its paired difference to a reference.

Made from per_image.csv alone, one protocol and one set of images per table.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.rundir import RunDir
from src.scoring import read_rows
from src.statistics import OverSeeds, PairedDifference, Scores, holm, over_seeds, paired_difference
from src.study import StudyRun

CHARGED = "_charged"
NOT_COMPARED = ("id", "threshold_value", "coarse_threshold_value", "device", "precision", "root")  # of a protocol


@dataclass(frozen=True)
class Result:
    """One finished run: its metrics.json, and its rows (one per image) of the part that is compared."""

    run: StudyRun
    metrics: Mapping[str, Any]
    config: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]

    def mean(self, metric: str) -> float:
        return float(np.mean([value_of(row, metric) for row in self.rows]))


@dataclass(frozen=True)
class Row:
    """One variant: `scores` by metric over its seeds, cost, and its difference to the reference in the first metric
    (None for the reference itself) with Holm's p over the table."""

    variant: str
    params: int
    macs: int
    scores: Mapping[str, OverSeeds]
    difference: PairedDifference | None
    p_holm: float


@dataclass(frozen=True)
class Table:
    """`rows` in the order of the study; `reference` is the variant they are compared with."""

    rows: Sequence[Row]
    reference: str
    metrics: Sequence[str]
    part: str
    n_images: int
    results: Sequence[Result]


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

    Raises ValueError when no run is finished, or one was not scored on `part` or in `mode`.
    """
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
        rows = [row for row in read_rows(_scored_in(folder / run.name, mode) / "per_image.csv") if row["part"] == part]
        results.append(Result(run, metrics[run.name], RunDir(folder / run.name).config(), rows))
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

    Raises ValueError for runs of different protocols or images, an unknown metric or reference, and metrics that are
    undefined on some image.
    """
    _require_one_protocol(results)
    for metric in metrics:
        _require_defined(results, metric)
    variants: dict[str, list[Result]] = {}
    for result in results:
        variants.setdefault(result.run.variant, []).append(result)
    reference = reference or next(iter(variants))
    if reference not in variants:
        raise ValueError(f"reference={reference!r} is not a variant of this study. Possible: {'; '.join(variants)}.")
    scores = {name: _scores(found, metrics[0]) for name, found in variants.items()}
    differences = {
        name: None if name == reference else paired_difference(found, scores[reference])
        for name, found in scores.items()
    }
    adjusted = holm([found.p if found else float("nan") for found in differences.values()])
    rows = [
        Row(
            name,
            found[0].metrics["cost"]["params"],
            found[0].metrics["cost"]["macs"],
            {metric: over_seeds([result.mean(metric) for result in found]) for metric in metrics},
            differences[name],
            float(p),
        )
        for (name, found), p in zip(variants.items(), adjusted, strict=True)
    ]
    return Table(rows, reference, tuple(metrics), part, len(results[0].rows), results)


def _scores(results: Sequence[Result], metric: str) -> Scores:
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
    first = results[0]
    ids = {row["id"] for row in first.rows}
    for other in results[1:]:
        mine, theirs = first.metrics["protocol"], other.metrics["protocol"]
        if mine["id"] != theirs["id"]:
            keys = [key for key in mine if key not in NOT_COMPARED and mine[key] != theirs.get(key)]
            raise ValueError(
                f"{first.run.name} and {other.run.name} were scored under different protocols; they differ in "
                f"{', '.join(keys) or 'keys that only one has'}. Compare runs of one protocol only."
            )
        if {row["id"] for row in other.rows} != ids:
            raise ValueError(
                f"{first.run.name} was scored on {len(ids)} images, {other.run.name} on {len(other.rows)} others. "
                "Score both on the same images (python -m src.evaluate run=...)."
            )


def run_rows(table: Table) -> list[dict[str, Any]]:
    """One row per run, for results.csv: what it was, what it cost, what it scored, where it came from."""
    return [
        {
            "variant": result.run.variant,
            "seed": result.run.seed,
            "run": result.run.name,
            "params": result.metrics["cost"]["params"],
            "macs": result.metrics["cost"]["macs"],
            "part": table.part,
            "n_images": len(result.rows),
            **{metric: result.mean(metric) for metric in table.metrics},
            "monitor": result.metrics["best"]["monitor"],
            "best": result.metrics["best"]["value"],
            "best_epoch": result.metrics["best"]["epoch"] + 1,
            "epochs": result.config["trainer"]["max_epochs"],
            "size": result.config["data"]["size"],
            "seconds_of_last_attempt": result.metrics["seconds_of_last_attempt"],
            "threads": result.metrics["threads"],
            "split": result.metrics["protocol"]["split"],
            "split_hash": result.metrics["protocol"]["split_hash"][:12],
            "protocol": result.metrics["protocol"]["id"],
            "commit": _short(result.metrics["commit"]),
        }
        for result in table.results
    ]


def markdown(table: Table) -> str:
    """The table as Markdown, with what it was measured on below it."""
    first = table.metrics[0]
    heads = ["variant", "seeds", "params (M)", "MACs (G)", *table.metrics]
    heads += [f"{first} - {table.reference}", "95 % CI", "p"]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for row in table.rows:
        cells = [row.variant, str(row.scores[first].n), f"{row.params / 1e6:.3f}", f"{row.macs / 1e9:.3f}"]
        cells += [_plus_minus(row.scores[metric]) for metric in table.metrics]
        if found := row.difference:
            cells += [f"{found.mean:+.3f}", f"{found.low:+.3f} to {found.high:+.3f}", f"{row.p_holm:.3f}"]
        else:
            cells += [""] * 3
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", caption(table)])


def caption(table: Table) -> str:
    """What the numbers are: part, images, protocol, budget, and how differences were tested."""
    protocol = table.results[0].metrics["protocol"]

    def of(group: str, key: str) -> str:
        """A setting of the runs; all its values where they differ."""
        return " / ".join(dict.fromkeys(str(found.config[group][key]) for found in table.results))

    seeds = ", ".join(str(seed) for seed in sorted({found.run.seed for found in table.results}))
    leaks = f" (LEAKS: {protocol['leaks']})" if "leaks" in protocol else ""
    codes = ", ".join(sorted({_short(found.metrics["commit"]) for found in table.results}))
    return (
        f"{protocol['dataset']}, split {protocol['split']} ({protocol['split_hash'][:12]}), {table.n_images} "
        f"{table.part} images, per-image means at native size, mode {protocol['mode']}{leaks}, "
        f"protocol {protocol['id']}; mean ± std over seeds {seeds}. "
        f"Trained at {of('data', 'size')} px, {of('trainer', 'max_epochs')} epochs, batch {of('data', 'batch_size')}; "
        f"code {codes}. Differences are paired over images (seeds averaged "
        "first): 95 % bootstrap interval, Wilcoxon's p with Holm's correction over the table. They know nothing of "
        "other seeds: a difference within the spread of the seeds is no finding, whatever its p."
    )


def _short(commit: str) -> str:
    """A commit as git shortens it; what was not committed stays visible."""
    return commit[:7] + ("+dirty" if commit.endswith("+dirty") else "")


def _plus_minus(score: OverSeeds) -> str:
    return f"{score.mean:.3f}" if score.n == 1 else f"{score.mean:.3f} ± {score.std:.3f}"
