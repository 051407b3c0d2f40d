"""A report as one HTML file: tables, plots and pictures inside it, opened from the file system, nothing fetched.

Names of variants, runs, images and notes are whatever somebody typed or called a file: the template escapes them, and
page.js only ever puts them in as text.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from src.comparison import Table
from src.reporting.gallery import Gallery, for_page
from src.reporting.latency import Latencies
from src.reporting.published import Published
from src.reporting.texts import caption, p_text, plus_minus
from src.results import LEFT_OUT
from src.study import RunState, summary

HERE = Path(__file__).parent
RUN_COLUMNS = (
    "variant",
    "seed",
    "state",
    "run",
    "best_epoch",
    "epochs",
    "commit",
    "checkpoint",
    "config_sha256",
    "rows_sha256",
)


@dataclass(frozen=True)
class Cell:
    """What a table shows, and what it is sorted by; `of`: the variant whose runs it leads to."""

    text: str
    key: float | str
    of: str = ""


def render_page(
    table: Table,
    panels: Mapping[str, Any],
    gallery: Gallery,
    *,
    title: str,
    question: str,
    states: Sequence[RunState],
    run_rows: Sequence[Mapping[str, Any]],
    latencies: Latencies | None = None,
    published: Sequence[Published] = (),
) -> str:
    """`states` are those of all runs that were asked for, finished or not; `run_rows` is `texts.run_rows(table)`."""
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
    environment.globals["inline"] = lambda name: Markup((HERE / name).read_text(encoding="utf-8"))
    data = {"panels": panels, "gallery": for_page(gallery)}
    return environment.get_template("page.html.j2").render(
        title=title,
        question=question,
        caption=caption(table, latencies),
        summary=summary(states),
        warnings=_warnings(table, states),
        table=_comparison_table(table, latencies),
        runs=_runs_table(table.metrics, run_rows, states),
        panels=panels,
        gallery=gallery,
        published=published,
        made=time.strftime("%Y-%m-%d %H:%M"),
        data=Markup(_script_safe(data)),
        plotly=Markup(get_plotlyjs()),
    )


def _script_safe(data: Any) -> str:
    """JSON that may stand in a <script>: nothing in it can end the element."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _warnings(table: Table, states: Sequence[RunState]) -> list[str]:
    """What a reader has to know before the numbers."""
    protocol, first = table.results[0].metrics["protocol"], table.metrics[0]
    told = []
    if "leaks" in protocol:
        told.append(f"These scores LEAK and are no result on unseen images: {protocol['leaks']}.")
    if table.part == "val":
        told.append("Scored on the val images, which chose checkpoint and threshold: no result on unseen images.")
    if states[0].run.variant not in table.variants:
        missing = any(result.run.variant == states[0].run.variant for result in table.left_out)
        told.append(
            f"The first variant, {states[0].run.variant}, {'lacks folds' if missing else 'has no finished run'}: "
            f"differences are to {table.reference}."
        )
    if left := len(states) - len(table.runs) - len(table.left_out):
        told.append(f"{left} of {len(states)} runs are not finished; they are not in the tables and plots of scores.")
    if table.left_out:
        told.append(LEFT_OUT.format(len(table.left_out)))
    if single := [row.variant for row in table.rows if row.scores[first].n == 1]:
        told.append(
            f"{len(single)} of {len(table.rows)} variants have one seed: their spread is unknown, and a number without "
            "it is an anecdote."
        )
    if any(result.metrics["commit"].endswith("+dirty") for result in table.runs):
        told.append(
            "Some runs were trained with code that was not committed (+dirty): they cannot be repeated exactly."
        )
    if len({result.metrics["commit"] for result in table.runs}) > 1:
        told.append("The runs were trained with different commits of the code; the table of runs shows which.")
    told += [f"{note}." for note in table.notes]
    return told


def _comparison_table(table: Table, latencies: Latencies | None) -> dict[str, Any]:
    first = table.metrics[0]
    heads = ["variant", "seeds", "params (M)", "MACs (G)", *(["latency (ms)", "p95"] if latencies else [])]
    heads += [*table.metrics, f"{first} - {table.reference}", "95 % CI", "p (images)", "p (seeds)"]
    rows = []
    for row in table.rows:
        count = row.scores[first].n
        cells = [
            Cell(row.variant, row.variant),
            Cell(str(count), count, row.variant),
            Cell(f"{row.params / 1e6:.3f}", row.params),
            Cell(f"{row.macs / 1e9:.3f}", row.macs),
        ]
        if latencies:
            latency = latencies.by_variant[row.variant]
            cells += [Cell(f"{value:.2f}", value) for value in (latency.median, latency.p95)]
        cells += [Cell(plus_minus(row.scores[metric]), row.scores[metric].mean) for metric in table.metrics]
        if found := row.difference:
            cells += [
                Cell(f"{found.mean:+.3f}", found.mean),
                Cell(f"{found.low:+.3f} to {found.high:+.3f}", found.low),
                Cell(p_text(row.p_holm), row.p_holm),
                Cell(p_text(row.p_seeds), "" if math.isnan(row.p_seeds) else row.p_seeds),
            ]
        else:
            cells += [Cell("reference", 0.0), *[Cell("", "")] * 3]
        rows.append({"cells": cells, "reference": row.difference is None})
    return {"heads": heads, "rows": rows}


def _runs_table(
    metrics: Sequence[str], run_rows: Sequence[Mapping[str, Any]], states: Sequence[RunState]
) -> dict[str, Any]:
    """Every run: where it lies, and what its scores were made of; or why it has none."""
    finished = {row["run"]: row for row in run_rows}
    folds = ["fold"] if any(found.run.fold is not None for found in states) else []
    heads = [*RUN_COLUMNS[:2], *folds, *RUN_COLUMNS[2:4], *metrics, *RUN_COLUMNS[4:], "reason"]
    rows = []
    for found in states:
        known: Mapping[str, Any] = finished.get(found.run.name, {})
        run = found.run
        fold = "" if run.fold is None else run.fold
        reason = "other folds are missing" if found.state == "finished" and not known else found.reason
        values = {"variant": run.variant, "seed": run.seed, "fold": fold, "state": found.state, "run": run.name}
        values["reason"] = reason
        cells = []
        for head in heads:
            value: Any = values.get(head, known.get(head, ""))
            cells.append(Cell(f"{value:.4f}" if isinstance(value, float) else str(value), value))
        rows.append({"cells": cells, "reference": False})
    return {"heads": heads, "rows": rows}
