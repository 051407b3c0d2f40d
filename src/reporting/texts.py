"""A comparison as text: Markdown and LaTeX to read, CSV rows to compute with, and the caption that says what it is.

Every cell leads back to its runs: `run_rows` names their directory, commit and checkpoint, and the digests of their
config and rows.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.comparison import Row, Table
from src.provenance import short_commit
from src.reporting.latency import Latencies
from src.rundir import RunDir
from src.statistics import OverSeeds

LATEX = {**{c: f"\\{c}" for c in "&%$#_{}"}, "\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
LATEX |= {"^": r"\textasciicircum{}", "±": r"$\pm$", "<": "$<$", ">": "$>$"}
MARKDOWN = {"|": "\\|", "\n": " ", "<": "\\<", "`": "\\`", "[": "\\["}
SMALLEST_P = 0.001


def run_rows(table: Table) -> list[dict[str, Any]]:
    """One row per run, for results.csv: what it was, what it cost, what it scored, where it came from."""
    return [
        {
            "variant": result.run.variant,
            "seed": result.run.seed,
            **({} if result.run.fold is None else {"fold": result.run.fold}),
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
            "commit": short_commit(result.metrics["commit"]),
            "config_sha256": digest(result.path / "config.yaml"),
            "checkpoint": RunDir(result.path).best.relative_to(result.path).as_posix(),
            "rows_sha256": digest(result.scored_in / "per_image.csv"),
        }
        for result in table.runs
    ]


def digest(path: Path) -> str:
    """Twelve digits of a file's SHA-256, as sha256sum prints them."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def table_rows(table: Table, latencies: Latencies | None = None) -> list[dict[str, Any]]:
    """One row per variant, for table.csv: numbers in full."""
    first = table.metrics[0]
    rows = []
    for row in table.rows:
        latency = latencies.by_variant[row.variant] if latencies else None
        difference = row.difference
        rows.append(
            {
                "variant": row.variant,
                "seeds": row.scores[first].n,
                "params": row.params,
                "macs": row.macs,
                **({"latency_ms": latency.median, "latency_p95_ms": latency.p95} if latency else {}),
                **{
                    f"{metric}{what}": value
                    for metric, score in row.scores.items()
                    for what, value in (("", score.mean), ("_std", score.std if score.n > 1 else ""))
                },
                "difference": difference.mean if difference else "",
                "ci_low": difference.low if difference else "",
                "ci_high": difference.high if difference else "",
                "p": difference.p if difference else "",
                "p_images_holm": row.p_holm if difference else "",
                "p_seeds_holm": row.p_seeds if difference and not math.isnan(row.p_seeds) else "",
            }
        )
    return rows


def markdown(table: Table, latencies: Latencies | None = None) -> str:
    """The table as Markdown, with what it was measured on below it."""
    heads, rows = _cells(table, latencies)
    lines = [heads, *rows]
    texts = [f"| {' | '.join(_escaped(cell, MARKDOWN) for cell in line)} |" for line in lines]
    told = _escaped(caption(table, latencies), MARKDOWN)
    return "\n".join([texts[0], f"|{' --- |' * len(heads)}", *texts[1:], "", told])


def latex(table: Table, latencies: Latencies | None = None) -> str:
    r"""The table for a paper: needs \usepackage{booktabs}; the caption holds the protocol."""
    heads, rows = _cells(table, latencies)
    told = _escaped(caption(table, latencies), LATEX)
    # a hyphen before a number is a minus
    lines = [" & ".join(re.sub(r"(?<!\w)([+-])(?=\d)", r"$\1$", _escaped(cell, LATEX)) for cell in row) for row in rows]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{told}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
            r"\toprule",
            " & ".join(_escaped(head, LATEX) for head in heads) + r" \\",
            r"\midrule",
            *(line + r" \\" for line in lines),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def _cells(table: Table, latencies: Latencies | None) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the table that is read."""
    first = table.metrics[0]
    heads = ["variant", "seeds", "params (M)", "MACs (G)", *(["latency (ms)"] if latencies else []), *table.metrics]
    heads += [f"{first} - {table.reference}", "95 % CI", "p (images)", "p (seeds)"]
    rows = []
    for row in table.rows:
        cells = [row.variant, str(row.scores[first].n), f"{row.params / 1e6:.3f}", f"{row.macs / 1e9:.3f}"]
        cells += [f"{latencies.by_variant[row.variant].median:.2f}"] if latencies else []
        rows.append([*cells, *(plus_minus(row.scores[metric]) for metric in table.metrics), *_difference(row)])
    return heads, rows


def _difference(row: Row) -> list[str]:
    if not (found := row.difference):
        return [""] * 4
    return [f"{found.mean:+.3f}", f"{found.low:+.3f} to {found.high:+.3f}", p_text(row.p_holm), p_text(row.p_seeds)]


def p_text(p: float) -> str:
    if math.isnan(p):
        return "-"
    return f"{p:.3f}" if p >= SMALLEST_P else f"< {SMALLEST_P:g}"


def caption(table: Table, latencies: Latencies | None = None) -> str:
    """What the numbers are: `measured_on`, how differences were tested, and on what the networks were timed."""
    return (
        f"{measured_on(table)} Differences are paired over images (seeds averaged first): 95 % bootstrap interval and "
        "Wilcoxon's p (images), which know nothing of other seeds; p (seeds) is Welch's t-test of the seeds' means, "
        "which knows nothing of other images. Both with Holm's correction over the table. A finding needs both."
        + (f" Latency: median, {latencies.conditions}." if latencies else "")
    )


def measured_on(table: Table) -> str:
    """Images, protocol, seeds and budget: what stands below every table and figure."""
    protocol = table.results[0].metrics["protocol"]

    def of(group: str, key: str) -> str:
        """A setting of the runs; all its values where they differ."""
        return " / ".join(dict.fromkeys(str(found.config[group][key]) for found in table.runs))

    seeds = ", ".join(str(seed) for seed in sorted({found.run.seed for found in table.results}))
    leaks = f" (LEAKS: {protocol['leaks']})" if "leaks" in protocol else ""
    codes = ", ".join(sorted({short_commit(found.metrics["commit"]) for found in table.runs}))
    chosen = " These images chose checkpoint and threshold: no result on unseen images." if table.part == "val" else ""
    if table.n_folds > 1:
        chosen += f" Each image is scored by one of the {table.n_folds} networks of a seed, one for each fold"
        chosen += "." if table.part == "val" else ": by that which itself neither trained on it nor was chosen by it."
    return (
        f"{protocol['dataset']}, split {protocol['split']} ({protocol['split_hash'][:12]}), {table.n_images} "
        f"{table.part} images, per-image means at native size, mode {protocol['mode']}{leaks}, "
        f"protocol {protocol['id']}; mean ± std over seeds {seeds}.{chosen} "
        f"Trained at {of('data', 'size')} px, {of('trainer', 'max_epochs')} epochs, batch {of('data', 'batch_size')}; "
        f"code {codes}." + "".join(f" Note: {note}." for note in table.notes)
    )


def plus_minus(score: OverSeeds) -> str:
    return f"{score.mean:.3f}" if score.n == 1 else f"{score.mean:.3f} ± {score.std:.3f}"


def _escaped(text: str, signs: Mapping[str, str]) -> str:
    return "".join(signs.get(sign, sign) for sign in text)
