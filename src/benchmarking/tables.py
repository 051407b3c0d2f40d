"""The benchmark as tables to read: one of the models, one of what bounds them, one of times for every setting."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from src.benchmarking.latencies import BEST
from src.benchmarking.machine import CACHED, DRAM, Floor

Row = Mapping[str, Any]


def markdown(
    models: Sequence[Row], times: Sequence[Row], floor: Floor, conditions: Row, doubts: Sequence[str], reference: str
) -> str:
    """All of it, the conditions first, and before those what speaks against the numbers."""
    parts = ["# Benchmark", told(conditions), "## Models", _models(models, conditions)]
    if doubts:
        parts.insert(0, f"> **Warning: do not use these times.** {'; '.join(doubts)}. Measure again when it is idle.")
    settings = list(dict.fromkeys((row["batch"], row["threads"]) for row in times))
    parts.append("## Latency")
    parts.append(
        f"Median ms a batch; in brackets the median over rounds of the ratio to {reference} in the same engine, "
        "below 1: faster. Models took turns, and of a single image engines, too. In ONNX Runtime EMIS-Nets are "
        "arranged by src.models.blocked, which knows no other network; the others run as src.models.fuse leaves them."
    )
    parts += [f"**{setting(*key)}**\n\n{latency_table(times, *key)}" for key in settings]
    parts += ["## What bounds them", _floor(floor), _bounds(models, times, floor)]
    if failures := _failures(models, times):
        parts += ["## What did not run", failures]
    return "\n\n".join(parts) + "\n"


def told(conditions: Row) -> str:
    """The conditions in one sentence, for captions."""
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in conditions.items())


def setting(batch: int, threads: int) -> str:
    return f"batch {batch}, {threads} thread{'s' if threads > 1 else ''}"


def latency_table(times: Sequence[Row], batch: int, threads: int) -> str:
    rows = [row for row in times if (row["batch"], row["threads"]) == (batch, threads)]
    cells = {(row["model"], row["engine"]): _time(row) for row in rows}
    models, engines = (list(dict.fromkeys(row[key] for row in rows)) for key in ("model", "engine"))
    return table(["model", *engines], ([name, *(cells[name, engine] for engine in engines)] for name in models))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(columns) - 1)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [columns, rule, *rows])


def _time(row: Row) -> str:
    if row["error"]:
        return f"{row['error'].split(':')[0][:24]} (below)"
    return _number(row["median_ms"]) + (f" ({row['ratio']:.2f})" if row["ratio"] is not None else "")


def _models(models: Sequence[Row], conditions: Row) -> str:
    columns = ["model", "params (M)", "MACs (G)", "fused: params", "fused: MACs", "training (img/s)"]
    columns += ["peak memory: one image (MB)", "training step (MB)"]
    keys = ["params_m", "macs_g", "fused_params_m", "fused_macs_g", "train_img_per_s"]
    keys += ["inference_peak_mb", "training_peak_mb"]
    text = table(columns, ([row["model"], *(_number(row[key]) for key in keys)] for row in models))
    return text + (
        f"\n\nTraining: forward and backward of BCE + Dice, {models[0]['train_batch']} images a step. "
        f"MACs at {conditions['size']}x{conditions['size']} px; memory above that of the network at rest."
    )


def _floor(floor: Floor) -> str:
    return (
        f"One thread of this machine, in the same run: matrix product {floor.gmac_per_s:.1f} GMAC/s (float32); copies, "
        f"read plus written, {floor.cached_gb_per_s:.1f} GB/s in cache ({CACHED / 1e6:.2g} MB) and "
        f"{floor.dram_gb_per_s:.1f} GB/s from memory ({DRAM / 1e6:.0f} MB). "
        "Kernels and traffic are of an eager forward pass of one image, counted."
    )


def _bounds(models: Sequence[Row], times: Sequence[Row], floor: Floor) -> str:
    columns = ["model", "kernels", "fused", "traffic (MB)", "fused", "traffic alone, in cache (ms)", "from memory (ms)"]
    columns += ["eager (ms)", "GMAC/s", "of matrix product", "in"]
    rows = []
    for model in models:
        eager, best = (first_timed(times, model["model"], names, 1, 1) for names in (("eager",), BEST))
        megabytes = model["traffic_mb"]
        cells = [_number(model[key]) for key in ("kernels", "fused_kernels", "traffic_mb", "fused_traffic_mb")]
        cells += [_number(megabytes / floor.cached_gb_per_s), _number(megabytes / floor.dram_gb_per_s)]
        cells.append(_number(eager and eager["median_ms"]))
        cells += [
            _number(best and best["gmac_per_s"]),
            f"{best['sgemm_share']:.0%}" if best and best["sgemm_share"] else "-",
        ]
        rows.append([model["model"], *cells, best["engine"] if best else "-"])
    return table(columns, rows)


def first_timed(times: Sequence[Row], model: str, engines: Sequence[str], batch: int, threads: int) -> Row | None:
    """A model's row in the first of `engines` that has a time in this setting."""
    setting = (model, batch, threads)
    here = [row for row in times if (row["model"], row["batch"], row["threads"]) == setting and not row["error"]]
    by_engine = {row["engine"]: row for row in here}
    return next((by_engine[engine] for engine in engines if engine in by_engine), None)


def _failures(models: Sequence[Row], times: Sequence[Row]) -> str:
    reasons = [f"{row['model']}: {row['note']}" for row in models if row["note"]]
    reasons += [f"{row['model']} in {row['engine']}: {row['error']}" for row in times if row["error"]]
    return "\n".join(f"- {reason}" for reason in dict.fromkeys(reasons))


def _number(value: Any) -> str:
    if value is None or value == "":
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.0f}" if value >= 100 else f"{value:.3g}"
