"""The benchmark as one picture: what is small or good, against what is fast."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from src.figures import save_figure
from src.statistics import front

# of a name from its point, in points, tried in this order
PLACES = [(side, height) for height in (0, 9, -9, 18, -18, 27, -27, 36, -36) for side in (6, -6)]


def plot_pareto(
    latencies: Mapping[str, float],
    panels: Mapping[str, tuple[Mapping[str, float], bool]],
    path: Path,
    label: str,
    note: str,
) -> None:
    """One panel for each quantity of `panels` (by model, and whether more of it is better) against `latencies` (ms by
    model); models that have both stand in it, those that nothing beats in both are joined by a line."""
    figure, axes = plt.subplots(1, len(panels), figsize=(5.2 * len(panels), 4.4), layout="constrained", squeeze=False)
    for axis, (name, (values, higher)) in zip(axes[0], panels.items(), strict=True):
        shown = [model for model in latencies if model in values]
        _panel(axis, shown, [latencies[model] for model in shown], [values[model] for model in shown], higher)
        axis.set(xlabel=label, ylabel=name)
    figure.supxlabel(textwrap.fill(note, 90 * len(panels)), fontsize=6.5, color="#555555", x=0.01, ha="left")
    save_figure(figure, path, dpi=150)


def _panel(axis: Axes, names: Sequence[str], times: Sequence[float], values: Sequence[float], higher: bool) -> None:
    best = front(times, values, higher)
    axis.step([times[i] for i in best], [values[i] for i in best], where="post", color="0.7", lw=1, zorder=0)
    for i in range(len(names)):
        axis.plot(times[i], values[i], "o", ms=6, color="C0" if i in best else "0.6")
    if times and max(times) > 8 * min(times):
        axis.set_xscale("log")
        _plain_numbers(axis.xaxis)
    if not higher and values and max(values) > 8 * min(values):
        axis.set_yscale("log")
        _plain_numbers(axis.yaxis)
    axis.margins(x=0.2, y=0.12)
    axis.grid(alpha=0.25)
    _label(axis, names, times, values, best)


def _plain_numbers(axis: Any) -> None:
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # powers of ten alone would leave one or two
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _label(
    axis: Axes, names: Sequence[str], times: Sequence[float], values: Sequence[float], best: Sequence[int]
) -> None:
    """Each name beside its point, at the first of some places inside the axes where it covers no other name."""
    axis.figure.canvas.draw()  # axes take their places, and names their sizes
    taken: list[Bbox] = []
    for i, name in enumerate(names):
        for side, height in PLACES:
            text = axis.annotate(
                textwrap.fill(name, 30),
                (times[i], values[i]),
                xytext=(side, height),
                textcoords="offset points",
                fontsize=7,
                ha="left" if side > 0 else "right",
                va="center",
                fontweight="bold" if i in best else "normal",
            )
            box = text.get_window_extent()
            inside = axis.bbox.x0 <= box.x0 and box.x1 <= axis.bbox.x1
            free = inside and not any(box.overlaps(other) for other in taken)
            if free or (side, height) == PLACES[-1]:
                taken.append(box)
                text.set_in_layout(False)  # a long name would squeeze the axes
                break
            text.remove()
