"""Validation Dice against epochs and against minutes of one CPU core: what more training would give.

    python -m experiments.recipe.curves experiments/recipe "emisnet, 32 epochs=runs/kvasir_seg/emisnet-<hash>-seed0" ...

The first argument is the folder for curves.csv and curves.png, each other one a label and a run directory. Shown is the
best so far by `val/dice` at training size, on the images that choose the checkpoint.
"""

import itertools
import sys
from pathlib import Path

import matplotlib.pyplot as plt

from src.files import read_csv, write_csv


def main(out: Path, runs: list[str]) -> None:
    rows = []
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained", sharey=True)
    for argument in runs:
        label, _, run = argument.rpartition("=")
        history = read_csv(Path(run) / "history.csv")
        best = list(itertools.accumulate((float(row["val/dice"]) for row in history), max))
        minutes = list(itertools.accumulate(float(row["seconds"]) / 60 for row in history))
        epochs = [int(row["epoch"]) + 1 for row in history]
        axes[0].plot(epochs, best, label=label)
        axes[1].plot(minutes, best, label=label)
        rows += [
            {"run": label, "epoch": epoch, "minutes": round(minute, 2), "best val/dice": round(value, 4)}
            for epoch, minute, value in zip(epochs, minutes, best, strict=True)
        ]
    axes[0].set(xlabel="epochs", ylabel="best val/dice so far, training size", ylim=(0.5, 0.95))
    axes[1].set(xlabel="minutes of one core (others ran beside some of them)")
    for axis in axes:
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    write_csv(out / "curves.csv", rows)
    figure.savefig(out / "curves.png", dpi=100)


if __name__ == "__main__":
    if len(sys.argv) < 3 or not Path(sys.argv[1]).is_dir():
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])
