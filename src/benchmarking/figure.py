"""The benchmark as one picture: what is small or good, against what is fast."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from src.statistics import front


def plot_pareto(
    latencies: Mapping[str, float],
    panels: Mapping[str, tuple[Mapping[str, float], bool]],
    path: Path,
    label: str,
    note: str,
) -> None:
    """One panel for each quantity of `panels` (by model, and whether more of it is better) against `latencies` (ms by
    model); models that have both stand in it, those that nothing beats in both are joined by a line."""
    plt.rcParams["text.parse_math"] = False  # names may hold a $
    figure, axes = plt.subplots(1, len(panels), figsize=(5.2 * len(panels), 4.4), layout="constrained", squeeze=False)
    for axis, (name, (values, higher)) in zip(axes[0], panels.items(), strict=True):
        shown = [model for model in latencies if model in values]
        _panel(axis, shown, [latencies[model] for model in shown], [values[model] for model in shown], higher)
        axis.set(xlabel=label, ylabel=name)
    figure.supxlabel(textwrap.fill(note, 90 * len(panels)), fontsize=6.5, color="#555555", x=0.01, ha="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _panel(axis: Axes, names: Sequence[str], times: Sequence[float], values: Sequence[float], higher: bool) -> None:
    best = front(times, values, higher)
    axis.step([times[i] for i in best], [values[i] for i in best], where="post", color="0.7", lw=1, zorder=0)
    middle = (min(times) * max(times)) ** 0.5 if times else 0.0
    for i, name in enumerate(names):
        on_front, right = i in best, times[i] > middle
        axis.plot(times[i], values[i], "o", ms=6, color="C0" if on_front else "0.6")
        text = axis.annotate(
            textwrap.fill(name, 30),
            (times[i], values[i]),
            xytext=(-6 if right else 6, 4),
            textcoords="offset points",
            fontsize=7,
            ha="right" if right else "left",
            fontweight="bold" if on_front else "normal",
        )
        text.set_in_layout(False)  # a long name would squeeze the axes
    if times and max(times) > 8 * min(times):
        axis.set_xscale("log")
    if not higher and values and max(values) > 8 * min(values):
        axis.set_yscale("log")
    axis.margins(x=0.2, y=0.12)
    axis.grid(alpha=0.25)
