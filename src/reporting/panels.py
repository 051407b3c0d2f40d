"""What a report's plots show, as plain data: made once, drawn by `plots` for papers and by page.js for the page.

Scores are those of the table's first metric. Everything is JSON: no NaN, None where a number is undefined.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import yaml

from src.comparison import Table, higher_is_better, scores_of
from src.files import read_csv
from src.reporting.latency import Latencies
from src.results import Result, value_of
from src.rundir import flat
from src.scoring import area_thirds
from src.statistics import front
from src.study import override_values

SHOWN = 24  # variants in plots with one line or box each; more cannot be told apart. Tables and scatter plots hold all
CURVES = ("val/dice", "val/loss", "train/dice", "train/loss")


def make_panels(table: Table, latencies: Latencies | None = None) -> dict[str, Any]:
    """All panels of a report; one that has nothing to show is empty."""
    metric = table.metrics[0]
    shown = shown_variants(table)
    return {
        "metric": metric,
        "part": table.part,
        "reference": table.reference,
        "higher_is_better": higher_is_better(metric),
        "shown": shown,
        "n_variants": len(table.rows),
        "pareto": pareto(table, latencies),
        "distributions": distributions(table, shown),
        "sweeps": sweeps(table),
        "parallel": parallel(table, latencies),
        "curves": curves(table, shown),
        "strata": strata_bars(table, shown),
    }


def shown_variants(table: Table) -> list[str]:
    """In the table's order: the reference and the best of the others, SHOWN at most."""
    metric = table.metrics[0]
    sign = -1 if higher_is_better(metric) else 1
    ranked = sorted(table.rows, key=lambda row: (row.variant != table.reference, sign * row.scores[metric].mean))
    kept = {row.variant for row in ranked[:SHOWN]}
    return [row.variant for row in table.rows if row.variant in kept]


def pareto(table: Table, latencies: Latencies | None) -> dict[str, Any]:
    """Costs by axis, one value per variant, and for each which variants are on that axis's front."""
    metric = table.metrics[0]
    costs = {
        "parameters (M)": [row.params / 1e6 for row in table.rows],
        "multiply-adds (G)": [row.macs / 1e9 for row in table.rows],
    }
    if latencies:
        costs["latency (ms)"] = [latencies.by_variant[row.variant].median for row in table.rows]
    means = [row.scores[metric].mean for row in table.rows]
    return {
        "variants": [row.variant for row in table.rows],
        "costs": costs,
        "fronts": {name: front(values, means, higher_is_better(metric)) for name, values in costs.items()},
        "means": means,
        "stds": [_plain(row.scores[metric].std) for row in table.rows],
        "seeds": [row.scores[metric].n for row in table.rows],
    }


def distributions(table: Table, shown: Sequence[str]) -> dict[str, Any]:
    """Per variant the score of each image, seeds averaged; the ids stand once."""
    scores = {name: scores_of(table.variants[name], table.metrics[0]) for name in shown}
    return {
        "ids": list(scores[shown[0]].ids),
        "scores": {name: _rounded(found.per_image) for name, found in scores.items()},
    }


def sweeps(table: Table) -> list[dict[str, Any]]:
    """One panel per numeric setting that was swept: its values, and a line for each choice of what else was swept.

    Lists of numbers (widths) are ordered by the parameters they cost.
    """
    settings = varied_settings(table.results)
    panels = []
    for key in next(iter(settings.values()), {}):
        lines: dict[str, dict[str, Any]] = {}
        for row in table.rows:
            value = settings[row.variant][key]
            if not _is_numeric(value):
                continue
            rest = ", ".join(
                f"{k.rpartition('.')[2]}={v}" for k, v in settings[row.variant].items() if k != key and v is not None
            )
            line = lines.setdefault(rest, {"name": rest, "points": []})
            found = [result.mean(table.metrics[0]) for result in table.variants[row.variant]]
            line["points"].append({"value": value, "params": row.params, "seeds": found})
        lines = {k: line for k, line in lines.items() if len({str(point["value"]) for point in line["points"]}) > 1}
        if not lines:
            continue
        for line in lines.values():
            line["points"].sort(key=lambda point: (isinstance(point["value"], list), _order(point)))
            for point in line["points"]:
                values = point["seeds"]
                point["mean"] = float(np.mean(values))
                point["std"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
        numeric = all(not isinstance(point["value"], list) for line in lines.values() for point in line["points"])
        panels.append({"key": key, "numeric": numeric, "lines": list(lines.values())})
    return panels


def _order(point: Mapping[str, Any]) -> float:
    return point["params"] if isinstance(point["value"], list) else point["value"]


def _is_numeric(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_is_numeric(item) and not isinstance(item, list) for item in value)
    return isinstance(value, int | float) and not isinstance(value, bool)


def varied_settings(results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """By variant what a sweep varied: dotted key and value; what was not typed has its value from the config."""
    typed = override_values([result.config["overrides"] or [] for result in results])
    settings: dict[str, dict[str, Any]] = {}
    for result, values in zip(results, typed, strict=True):
        defaults = flat(result.config) | result.config.get("choices", {})
        settings[result.run.variant] = {
            key: defaults.get(key) if value is None else _parsed(value) for key, value in values.items()
        }
    return settings


def _parsed(value: str) -> Any:
    try:
        found = yaml.safe_load(value)
        return float(found) if isinstance(found, str) and _floats(found) else found  # YAML takes 1e-4 for a word
    except yaml.YAMLError:
        return value


def _floats(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def parallel(table: Table, latencies: Latencies | None) -> dict[str, Any]:
    """One line per run over what was varied, cost and scores; words are numbered, with their names as ticks."""
    settings = varied_settings(table.runs)
    keys = list(next(iter(settings.values()))) or ["variant"]
    columns: dict[str, list[Any]] = {
        key: [settings[r.run.variant].get(key) if key != "variant" else r.run.variant for r in table.runs]
        for key in keys
    }
    columns["parameters (M)"] = [result.metrics["cost"]["params"] / 1e6 for result in table.runs]
    columns["multiply-adds (G)"] = [result.metrics["cost"]["macs"] / 1e9 for result in table.runs]
    if latencies:
        columns["latency (ms)"] = [latencies.by_variant[result.run.variant].median for result in table.runs]
    columns["best epoch"] = [result.metrics["best"]["epoch"] + 1 for result in table.runs]
    for metric in reversed(table.metrics):  # the first one last, where its colour is explained
        columns[f"{table.part} {metric}"] = [result.mean(metric) for result in table.runs]
    dimensions: list[dict[str, Any]] = []
    for name, values in columns.items():
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            dimensions.append({"label": name, "values": _rounded(values), "ticks": None})
        else:
            words = list(dict.fromkeys(_word(value) for value in values))
            numbers = [words.index(_word(value)) for value in values]
            dimensions.append({"label": name, "values": numbers, "ticks": words})
    return {
        "runs": [f"{result.run.variant}, {result.run.number}" for result in table.runs],
        "dimensions": dimensions,
    }


def _word(value: Any) -> str:
    return "default" if value is None else str(value)


def curves(table: Table, shown: Sequence[str]) -> dict[str, Any]:
    """Per metric and variant the mean of its runs (seeds, folds) in each epoch, with the lowest and highest."""
    panels: dict[str, Any] = {}
    for variant in shown:
        paths = [run.path / "history.csv" for result in table.variants[variant] for run in result.runs]
        histories = [read_csv(path) for path in paths if path.is_file()]
        for metric in CURVES:
            of_runs = [[float(row[metric]) for row in rows] for rows in histories if rows and metric in rows[0]]
            if not of_runs:
                continue
            longest = max(map(len, of_runs))
            epochs = [[values[i] for values in of_runs if i < len(values)] for i in range(longest)]
            panels.setdefault(metric, {})[variant] = {
                "mean": _rounded([float(np.mean(values)) for values in epochs]),
                "low": _rounded([min(values) for values in epochs]),
                "high": _rounded([max(values) for values in epochs]),
            }
    return panels


def strata_bars(table: Table, shown: Sequence[str]) -> dict[str, Any]:
    """Per variant the score of each third of the images by lesion area: mean and deviation over seeds."""
    metric = table.metrics[0]
    first = table.results[0].rows
    names, third_of = area_thirds(first)
    third = {row["id"]: index for row, index in zip(first, third_of, strict=True)}
    counts = [third_of.count(index) for index in range(3)]
    kept = [index for index in range(3) if counts[index]]  # of few images, or equal areas, one may be empty
    bars: dict[str, Any] = {}
    for variant in shown:
        of_seeds = []
        for result in table.variants[variant]:
            values: list[list[float]] = [[], [], []]
            for row in result.rows:
                values[third[row["id"]]].append(value_of(row, metric))
            of_seeds.append([float(np.mean(values[index])) for index in kept])
        spread = np.std(of_seeds, axis=0, ddof=1) if len(of_seeds) > 1 else [math.nan] * len(kept)
        bars[variant] = {"mean": _rounded(np.mean(of_seeds, axis=0)), "std": _rounded(spread)}
    return {"names": [names[index] for index in kept], "counts": [counts[index] for index in kept], "bars": bars}


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _rounded(values: Iterable[float]) -> list[float | None]:
    """To five digits: more than a screen shows, and a third of the page's size."""
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values]
