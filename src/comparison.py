"""Runs side by side: one row per variant over its seeds, and its paired difference to a reference.

Made from per_image.csv alone, one protocol and one set of images per table.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from src.results import CHARGED, Result, by_variant, finished_folds, pool_folds, require_one_protocol, value_of
from src.statistics import OverSeeds, PairedDifference, Scores, holm, over_seeds, paired_difference, seeds_p

LOWER_IS_BETTER = ("hd", "hd95", "assd", "object_hausdorff", "fp", "fn")


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
    """`rows` in the order of the study; `reference` is the variant they are compared with. A cross-validation has one
    of `results` for all folds of a variant and seed; `left_out` are finished runs whose other folds are missing."""

    rows: Sequence[Row]
    reference: str
    metrics: Sequence[str]
    part: str
    n_images: int
    results: Sequence[Result]
    left_out: Sequence[Result] = ()

    @property
    def runs(self) -> list[Result]:
        """Those that the results are made of: more than these of a cross-validation."""
        return [run for result in self.results for run in result.runs]

    @property
    def notes(self) -> list[str]:
        """What the protocols warn of, each once; with the variants that it is about where it is not about all."""
        about: dict[str, list[str]] = {}
        for result in self.results:
            if note := result.metrics["protocol"].get("caveat"):
                about.setdefault(note, []).append(result.run.variant)
        every = set(self.variants)
        return [
            note if set(names) == every else f"{', '.join(dict.fromkeys(names))}: {note}"
            for note, names in about.items()
        ]

    @property
    def n_folds(self) -> int:
        """Of a cross-validation, else 1."""
        return len(self.results[0].runs)

    @cached_property
    def variants(self) -> dict[str, list[Result]]:
        """The results of each variant, in the order of the rows."""
        return by_variant(self.results)


def higher_is_better(metric: str) -> bool:
    return metric.removesuffix(CHARGED) not in LOWER_IS_BETTER


def compare(results: Sequence[Result], *, part: str, metrics: Sequence[str], reference: str | None = None) -> Table:
    """The table of some runs; `reference` is a variant's name, the first one by default. Folds of a cross-validation
    count as one run over all their images.

    Raises ValueError for runs of different protocols or images, two runs of one variant and seed, no metric, an unknown
    metric or reference, metrics that are undefined on some image, and as `pool_folds`.
    """
    if not metrics:
        raise ValueError("metrics=[]: a comparison needs one column at least, such as metrics=[dice].")
    results, left_out = pool_folds(results)
    require_one_protocol(results)
    _require_same_images(results)
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
        if reference in by_variant(left_out):
            raise ValueError(
                f"reference={reference!r} lacks folds that others have; finished are\n{finished_folds(left_out)}"
            )
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
    return Table(rows, reference, tuple(metrics), part, len(results[0].rows), results, left_out)


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


def _require_same_images(results: Sequence[Result]) -> None:
    first = results[0]
    ids = {row["id"] for row in first.rows}
    for other in results[1:]:
        if {row["id"] for row in other.rows} != ids:
            raise ValueError(
                f"{first.run.name} was scored on {len(ids)} images, {other.run.name} on {len(other.rows)} others. "
                "Score both on the same images (python -m src.evaluate run=...)."
            )
