"""The worst tenth of a run's validation images: how often each likely cause is found in them, and in the others.

    python -m experiments.failures.causes emisnet_kvasir [run ...]     from the repository's root

Every image is described by what can be read off it and its true mask, none of it off the prediction:

    small      foreground among the smallest tenth
    flat       the colours inside and just outside the true border are nearest: the lowest tenth of all images by
               the distance of their mean colours over the spread of both
    border     foreground touches the image's border
    specular   highlights: among the tenth of the images with most nearly white pixels in and around the foreground
    several    two or more objects (4-connected parts of the mask, specks under a tenth of the largest left out)

An image may have several causes, or none. Whether a mask itself is wrong cannot be computed: look at the picture, worst
first. Writes <run>.md and <run>.jpg beside this file.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

from src.evaluate import evaluate_run
from src.figures import tile
from src.files import write_text
from src.statistics import holm, mean_interval

HERE = Path(__file__).parent
TENTH = 0.1  # of all images
SPECK = 0.1  # of the largest object's area
BAND = 0.05  # width of what counts as just inside and just outside, of the image's diagonal
WHITE = 240  # all three colours of a highlight, of 255
CAUSES = ("small", "flat", "border", "specular", "several")


def bands(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The foreground's pixels near its border, and the background's; (H, W) bool each."""
    reach = BAND * float(np.hypot(*mask.shape))
    inside = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
    outside = cv2.distanceTransform(1 - mask, cv2.DIST_L2, 5)
    return (inside > 0) & (inside <= reach), (outside > 0) & (outside <= reach)


def contrast(image: np.ndarray, mask: np.ndarray) -> float:
    """Distance of the mean Lab colours of both bands, over the root of the mean of their variances; 0 without two."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float64)
    inner, outer = (lab[band] for band in bands(mask))
    if not len(inner) or not len(outer):
        return 0.0
    spread = np.sqrt((inner.var(axis=0).sum() + outer.var(axis=0).sum()) / 2)
    return float(np.linalg.norm(inner.mean(axis=0) - outer.mean(axis=0)) / max(spread, 1e-6))


def highlights(image: np.ndarray, mask: np.ndarray) -> float:
    """The part of the foreground and of the band around it that is nearly white."""
    region = (mask > 0) | bands(mask)[1]
    return float((image[region].min(axis=1) >= WHITE).mean()) if region.any() else 0.0


def objects(mask: np.ndarray) -> int:
    """4-connected parts of the mask, without those that are specks beside the largest."""
    areas = cv2.connectedComponentsWithStats(mask, connectivity=4)[2][1:, cv2.CC_STAT_AREA]
    return int((areas >= SPECK * areas.max()).sum()) if len(areas) else 0


def causes_of(rows: Sequence[Mapping[str, Any]]) -> list[set[str]]:
    """The causes found in each image: `rows` have the columns of per_image.csv, contrast, highlights and objects."""
    area = float(np.quantile([row["area_fraction"] for row in rows], TENTH))
    flat = float(np.quantile([row["contrast"] for row in rows], TENTH))
    white = max(float(np.quantile([row["highlights"] for row in rows], 1 - TENTH)), 1e-9)
    found = []
    for row in rows:
        holds = {
            "small": row["area_fraction"] <= area,
            "flat": row["contrast"] <= flat,
            "border": bool(row["touches_border"]),
            "specular": row["highlights"] >= white,
            "several": row["objects"] > 1,
        }
        found.append({cause for cause in CAUSES if holds[cause]})
    return found


def table(dice: Sequence[float], found: Sequence[set[str]], worst: int) -> str:
    """Markdown: of each cause how many images have it, their mean Dice and the others', and how many of the worst."""
    order = np.argsort(dice)
    lines = [
        "| cause | images | mean Dice with it | without it | among the worst | expected there | p (Fisher, Holm) |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    cells, p = [], []
    for cause in (*CAUSES, "none of these"):
        has = np.array([cause in causes or (cause not in CAUSES and not causes) for causes in found])
        hit = int(has[order[:worst]].sum())
        rest = int(has.sum()) - hit
        p.append(stats.fisher_exact([[hit, worst - hit], [rest, len(dice) - worst - rest]]).pvalue)
        means = [f"{np.mean(np.array(dice)[part]):.3f}" if part.any() else "-" for part in (has, ~has)]
        cells.append(f"{cause} | {has.sum()} | {means[0]} | {means[1]} | {hit} of {worst} | {worst * has.mean():.1f}")
    lines += [f"| {cell} | {value:.2g} |" for cell, value in zip(cells, holm(p), strict=True)]
    return "\n".join(lines)


def sheet(samples: Sequence[Mapping[str, Any]], labels: Sequence[str], path: Path, title: str) -> None:
    columns = 5
    rows = -(-len(samples) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.6 * columns, 2.9 * rows), layout="constrained", squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, sample, label in zip(axes.flat, samples, labels, strict=False):
        axis.imshow(tile(sample))
        axis.set_title(f"{sample['id'][:26]}\ndice {sample['dice']:.3f}: {label}", fontsize=7)
    figure.suptitle(f"{title}: truth green, prediction red", fontsize=10)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def analyse(name: str) -> None:
    scored = evaluate_run(name, parts=["val"], metrics=["overlap"])
    rows = []
    for row in scored.rows:
        image, mask = scored.source.load(row["id"])
        read = {"contrast": contrast(image, mask), "highlights": highlights(image, mask), "objects": objects(mask)}
        rows.append({**row, **read})
    found, dice = causes_of(rows), [row["dice"] for row in rows]
    worst = max(5, round(len(rows) / 10))
    mean = mean_interval(dice)
    order = [int(i) for i in np.argsort(dice)[:worst]]
    missed = sum(rows[i]["recall"] < rows[i]["precision"] for i in order)
    text = [
        f"{len(rows)} val images of {scored.source.dataset}, mean Dice {mean.mean:.3f} ({mean.low:.3f} to "
        f"{mean.high:.3f}); the worst {worst} have {np.mean([dice[i] for i in order]):.3f} and cost "
        f"{sum(1 - dice[i] for i in order) / sum(1 - value for value in dice):.0%} of all that is missing to 1. In "
        f"{missed} of them more was missed than invented.",
        table(dice, found, worst),
        "| image | dice | precision | recall | area | causes |\n| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    listed = [
        f"| {rows[i]['id']} | {dice[i]:.3f} | {rows[i]['precision']:.2f} | {rows[i]['recall']:.2f} | "
        f"{rows[i]['area_fraction']:.3f} | {', '.join(sorted(found[i])) or '-'} |"
        for i in order
    ]
    label = Path(name).name
    write_text(HERE / f"{label}.md", f"{text[0]}\n\n{text[1]}\n\n{text[2]}\n" + "\n".join(listed) + "\n")
    sheet(
        scored.samples([scored.rows[i] for i in order]),
        [", ".join(sorted(found[i])) or "-" for i in order],
        HERE / f"{label}.jpg",
        f"{label}, the worst {worst} of {len(rows)} val images",
    )
    print((HERE / f"{label}.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    for argument in sys.argv[1:] or ["emisnet_kvasir", "emisnet_isic2018", "emisnet_glas"]:
        analyse(argument)
