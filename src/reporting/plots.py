"""A report's panels as files for papers: one figure each, with what it was measured on below it.

The same panels are drawn by page.js in the page; here they have no more than fits on paper.
"""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.figures import save_figure, tile
from src.reporting.gallery import Gallery

FORMATS = ("png", "pdf", "svg")
COLUMNS, ROWS = 7, 6  # of the sheet of masks
DPI = 150
WRAP = 32  # letters of a variant's name in a line; one of eight settings has 200
LETTER, LINE = 0.055, 0.15  # inches, at 7 points


def write_plots(panels: Mapping[str, Any], gallery: Gallery, folder: Path, note: str, kind: str = "png") -> list[Path]:
    """Draws every panel that has something to show; the files written.

    ValueError for a `kind` that is none of FORMATS.
    """
    check_format(kind)
    figures: dict[str, Callable[[], Figure | None]] = {
        "pareto": lambda: _pareto(panels),
        "distributions": lambda: _distributions(panels),
        "sweeps": lambda: _sweeps(panels),
        "curves": lambda: _curves(panels),
        "strata": lambda: _strata(panels),
        "parallel": lambda: _parallel(panels),
        "overlays": lambda: _overlays(panels, gallery),
    }
    written = []
    for name, draw in figures.items():
        path = folder / f"{name}.{kind}"
        if (figure := draw()) is not None:
            width = int(figure.get_figwidth() * 17)
            figure.supxlabel(textwrap.fill(note, width), fontsize=6.5, color="#555555", x=0.01, ha="left")
            save_figure(figure, path, dpi=DPI)
            written.append(path)
        for old in FORMATS:  # of an earlier report, which showed other runs, or had something to show
            if (other := folder / f"{name}.{old}") not in written:
                other.unlink(missing_ok=True)
    return written


def check_format(kind: str) -> None:
    if kind not in FORMATS:
        raise ValueError(f"figures={kind} is not possible. Use {', '.join(FORMATS)}.")


def _colours(names: Sequence[str], reference: str) -> dict[str, Any]:
    """The reference black, the others from a map of 20."""
    others = [name for name in names if name != reference]
    palette = plt.get_cmap("tab10" if len(others) <= 10 else "tab20")
    return {reference: "black"} | {name: palette(i % palette.N) for i, name in enumerate(others)}


def _axes(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    figure, axes = plt.subplots(1, count, figsize=(width * count, height), layout="constrained", squeeze=False)
    return figure, list(axes[0])


def _wrapped(name: str) -> str:
    return textwrap.fill(name, WRAP)


def _extent(names: Sequence[str]) -> tuple[float, float]:
    """Width and height in inches of names below each other, at 7 points."""
    lines = [line for name in names for line in name.split("\n")]
    return LETTER * max(map(len, lines)), LINE * len(lines) + 0.05 * len(names)


def _label(panels: Mapping[str, Any]) -> str:
    return f"{panels['part']} {panels['metric']}"


def _pareto(panels: Mapping[str, Any]) -> Figure:
    found = panels["pareto"]
    colours = _colours(found["variants"], panels["reference"])
    figure, axes = _axes(len(found["costs"]), 4.2, 3.8)
    for axis, (name, costs) in zip(axes, found["costs"].items(), strict=True):
        front = found["fronts"][name]
        axis.step(
            [costs[i] for i in front], [found["means"][i] for i in front], where="post", color="0.75", zorder=0, lw=1
        )
        for i, variant in enumerate(found["variants"]):
            axis.errorbar(
                costs[i], found["means"][i], yerr=found["stds"][i], fmt="o", ms=5, capsize=2, lw=1,
                color=colours[variant], label=variant if len(colours) <= 24 else None,
            )  # fmt: skip
        axis.set(xlabel=name, ylabel=_label(panels))
        if max(costs) > 8 * min(costs) > 0:
            axis.set_xscale("log")
        axis.grid(alpha=0.25)
    _legend(figure, axes[0])
    return figure


def _legend(figure: Figure, axis: Axes) -> None:
    """Beside the axes, for which the figure grows by as much as the names take."""
    handles, names = axis.get_legend_handles_labels()
    if names:
        names = [_wrapped(name) for name in names]
        width, height = _extent(names)
        figure.set_size_inches(figure.get_figwidth() + width, max(figure.get_figheight(), height + 0.4))
        figure.legend(handles, names, loc="outside right upper", fontsize=7, frameon=False)


def _distributions(panels: Mapping[str, Any]) -> Figure:
    scores = panels["distributions"]["scores"]
    reference = scores[panels["reference"]]
    others = {name: values for name, values in scores.items() if name != panels["reference"]}
    width, height = _extent([_wrapped(name) for name in scores])
    figure, axes = _axes(2 if others else 1, 3.6 + width, 1.2 + max(0.32 * len(scores), 1.5 * height))
    _boxes(axes[0], scores, f"{_label(panels)} of each image")
    if others:
        paired = {name: np.subtract(values, reference).tolist() for name, values in others.items()}
        label = f"{panels['metric']} of each image, minus {panels['reference']}"
        _boxes(axes[1], paired, textwrap.fill(label, 48))
        axes[1].axvline(0, color="0.5", lw=0.8)
    return figure


def _boxes(axis: Axes, values: Mapping[str, Sequence[float]], label: str) -> None:
    axis.boxplot(
        list(values.values()), tick_labels=[_wrapped(name) for name in values], orientation="horizontal",
        showmeans=True, widths=0.6, flierprops={"ms": 2, "alpha": 0.5}, medianprops={"color": "black"},
        meanprops={"marker": "D", "ms": 3, "mfc": "white", "mec": "black"},
    )  # fmt: skip
    axis.invert_yaxis()
    axis.set_xlabel(label, fontsize=8)
    axis.tick_params(labelsize=7)
    axis.grid(axis="x", alpha=0.25)


def _sweeps(panels: Mapping[str, Any]) -> Figure | None:
    if not panels["sweeps"]:
        return None
    figure, axes = _axes(len(panels["sweeps"]), 4.2, 3.4)
    for axis, sweep in zip(axes, panels["sweeps"], strict=True):
        places = sweep_places(sweep)
        for number, line in enumerate(sweep["lines"]):
            colour = f"C{number % 10}"
            at = [places[str(point["value"])] for point in line["points"]]
            means = [point["mean"] for point in line["points"]]
            spread = [point["std"] or 0 for point in line["points"]]
            axis.plot(at, means, marker="o", ms=4, color=colour, label=_wrapped(line["name"]) or None)
            axis.fill_between(at, np.subtract(means, spread), np.add(means, spread), color=colour, alpha=0.15, lw=0)
            for x, point in zip(at, line["points"], strict=True):
                axis.plot([x] * len(point["seeds"]), point["seeds"], ".", ms=3, color=colour, alpha=0.6)
        axis.set(xlabel=sweep["key"], ylabel=_label(panels))
        if not sweep["numeric"]:
            axis.set_xticks(list(places.values()), [text.replace(" ", "") for text in places], fontsize=6, rotation=20)
        if names := axis.get_legend_handles_labels()[1]:  # of this axis alone: below it
            axis.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=5)
            figure.set_figheight(max(figure.get_figheight(), 3.6 + _extent(names)[1]))
        axis.grid(alpha=0.25)
    return figure


def sweep_places(sweep: Mapping[str, Any]) -> dict[str, float]:
    """Where each value of a sweep stands: a number at itself, lists side by side."""
    points = [point for line in sweep["lines"] for point in line["points"]]
    if sweep["numeric"]:
        return {str(point["value"]): point["value"] for point in points}
    points.sort(key=lambda point: point["params"])
    return {text: float(i) for i, text in enumerate(dict.fromkeys(str(point["value"]) for point in points))}


def _curves(panels: Mapping[str, Any]) -> Figure | None:
    if not panels["curves"]:
        return None
    colours = _colours(panels["shown"], panels["reference"])
    figure, axes = _axes(len(panels["curves"]), 3.6, 3.2)
    for axis, (metric, of) in zip(axes, panels["curves"].items(), strict=True):
        for variant, curve in of.items():
            values = [np.array(curve[key], dtype=float) for key in ("mean", "low", "high")]
            epochs = np.arange(1, len(values[0]) + 1)
            axis.plot(epochs, values[0], color=colours[variant], lw=1.2, label=variant)
            axis.fill_between(epochs, values[1], values[2], color=colours[variant], alpha=0.12, lw=0)
        axis.set(title=metric, xlabel="epoch")
        axis.grid(alpha=0.25)
    _legend(figure, axes[0])
    return figure


def _strata(panels: Mapping[str, Any]) -> Figure:
    found = panels["strata"]
    colours = _colours(list(found["bars"]), panels["reference"])
    figure, (axis,) = _axes(1, max(6.0, 2.5 + 0.45 * len(found["bars"])), 3.4)
    at, width = np.arange(len(found["names"])), 0.85 / len(found["bars"])
    for i, (variant, bar) in enumerate(found["bars"].items()):
        spread = None if None in bar["std"] else bar["std"]
        axis.bar(
            at + (i - (len(found["bars"]) - 1) / 2) * width, bar["mean"], width, yerr=spread, label=variant,
            color=colours[variant], error_kw={"lw": 0.7, "ecolor": "0.4"},
        )  # fmt: skip
    names = [f"{name}\n{count} images" for name, count in zip(found["names"], found["counts"], strict=True)]
    axis.set_xticks(at, names, fontsize=8)
    axis.set(ylabel=_label(panels))
    _legend(figure, axis)
    return figure


def _parallel(panels: Mapping[str, Any]) -> Figure | None:
    dimensions = panels["parallel"]["dimensions"]
    if len(panels["parallel"]["runs"]) < 2:
        return None
    figure, (axis,) = _axes(1, max(6.0, 1.5 * len(dimensions)), 3.6)
    scaled = []
    for x, dimension in enumerate(dimensions):
        values = np.array(dimension["values"], dtype=float)
        low, high = float(values.min()), float(values.max())
        scaled.append((values - low) / (high - low) if high > low else np.full_like(values, 0.5))
        ticks = dimension["ticks"]
        marks = range(len(ticks)) if ticks and len(ticks) <= 12 else (low, high)
        for mark in marks if high > low else (low,):
            y = (mark - low) / (high - low) if high > low else 0.5
            text = ticks[int(mark)] if ticks else f"{mark:.3g}"
            axis.text(x + 0.03, y, text if len(text) < 26 else f"{text[:24]}...", fontsize=6, va="center", zorder=3)
        axis.axvline(x, color="0.7", lw=0.8)
    colour = plt.get_cmap("viridis")(scaled[-1] if panels["higher_is_better"] else 1 - scaled[-1])
    for line, shade in zip(np.stack(scaled, axis=1), colour, strict=True):
        axis.plot(line, color=shade, lw=0.9, alpha=0.8)
    axis.set_xticks(range(len(dimensions)), [dimension["label"] for dimension in dimensions], fontsize=7, rotation=12)
    axis.set(yticks=[], xlim=(-0.05, len(dimensions) - 0.6))
    axis.spines[:].set_visible(False)
    return figure


def _overlays(panels: Mapping[str, Any], gallery: Gallery) -> Figure | None:
    if not gallery.pictures:
        return None
    variants, pictures = gallery.variants[:COLUMNS], gallery.pictures[:ROWS]
    titles = {variant: textwrap.fill(variant, 22) for variant in variants}
    height = 1.75 * len(pictures) + 0.3 + LINE * max(title.count("\n") + 1 for title in titles.values())
    figure, axes = plt.subplots(
        len(pictures), len(variants), figsize=(1.7 * len(variants), height), layout="constrained", squeeze=False
    )
    for row, picture in zip(axes, pictures, strict=True):
        for axis, variant in zip(row, variants, strict=True):
            axis.imshow(tile({"image": picture.image, "mask": picture.mask, "pred": picture.preds[variant]}))
            axis.set_xlabel(f"{panels['metric']} {picture.scores[variant]:.2f}", fontsize=6, labelpad=1)
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(picture.id[:20], fontsize=5)
    for axis, variant in zip(axes[0], variants, strict=True):
        axis.set_title(titles[variant], fontsize=6)
    what = "Where a variant changes the mask most" if gallery.changes else "The worst scores"
    figure.suptitle(f"{what}: truth green, prediction red", fontsize=8)
    return figure
