"""What a person sees of an evaluation: printed tables, CSV files, pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from src.figures import plot_overlays
from src.files import write_csv
from src.masks import FILE as MASKS
from src.masks import write_masks

if TYPE_CHECKING:
    from src.evaluate import Evaluation

GALLERY = 12  # worst images shown
TABLES = (  # printed where they were computed
    ("dice", "iou", "precision", "recall", "specificity", "accuracy", "dice_pooled", "iou_pooled", "area_bias"),
    ("hd", "hd95", "assd", "nsd", "n_undefined", "hd95_charged", "assd_charged", "threshold_jaccard"),
    ("object_f1", "object_dice", "object_hausdorff", "n_undefined_objects", "object_hausdorff_charged"),
)


def write_evaluation(evaluation: "Evaluation", folder: Path, title: str) -> None:
    """per_image.csv, masks.npz, strata.csv, lens.csv; figures: best, median and worst by Dice, more of the worst."""
    write_csv(folder / "per_image.csv", evaluation.rows)
    write_masks(folder / MASKS, evaluation.rows, evaluation.masks)
    for name, tables in (("strata", evaluation.strata), ("lens", evaluation.lens)):
        if tables:
            write_csv(
                folder / f"{name}.csv", [{"part": part, **row} for part, table in tables.items() for row in table]
            )
    part = list(evaluation.scores)[-1]  # test where there is one
    ranked = sorted((row for row in evaluation.rows if row["part"] == part), key=lambda row: row["dice"])
    middle, few = len(ranked) // 2, min(5, len(ranked))
    chosen = {
        "worst": ranked[:few],
        "median": ranked[max(0, middle - few // 2) : max(0, middle - few // 2) + few],
        "best": ranked[::-1][:few],
    }
    worst = ranked[:GALLERY]
    gallery = {f"{start + 1} to {start + 4}": worst[start : start + 4] for start in range(0, len(worst), 4)}
    wanted = {row["id"]: row for rows in (*chosen.values(), worst) for row in rows}  # most of them stand on both sheets
    samples = dict(zip(wanted, evaluation.samples(list(wanted.values())), strict=True))
    for name, groups, what in (("overlays", chosen, part), ("worst", gallery, f"worst of {part}")):
        shown = {group: [samples[row["id"]] for row in rows] for group, rows in groups.items()}
        plot_overlays(shown, folder / "figures" / f"{name}.png", f"{title}, {what}{_leaking(evaluation)}")


def _leaking(evaluation: "Evaluation") -> str:
    """A mark for titles of what no honest table may hold."""
    return " (LEAKS: uses the true masks)" if "leaks" in evaluation.protocol else ""


def print_scores(evaluation: "Evaluation", title: str) -> None:
    console = Console(width=max(140, Console().width))
    protocol, leaking = evaluation.protocol, _leaking(evaluation)
    how = f"per-image means at native size, threshold {protocol['threshold_value']:g}, protocol {protocol['id']}"
    if "unit" in protocol:
        how += f"; distances in {protocol['unit']}, nsd within {protocol['tau']:g}"
    if protocol["mode"] != "full":
        how = f"mode {protocol['mode']}{leaking}; {how}"
    for number, names in enumerate(TABLES):
        rows = [{"part": part, "n": scores["n"], **scores} for part, scores in evaluation.scores.items()]
        if any(name in row for row in rows for name in names):
            console.print(_table(rows, ("part", "n", *names), f"{title}\n{how}" if number == 0 else ""))
    for part, table in evaluation.strata.items():
        shown = [name for name in ("n", "dice", "iou", "hd95", "area_bias", "object_f1") if name in table[0]]
        console.print(_table(table, ("stratum", *shown), f"{part}, by kind of image{leaking}"))
        console.print(
            f"{part}: expected calibration error of pixel probabilities {evaluation.calibration[part]['ece']:.4f}"
        )
    for part, table in evaluation.lens.items():
        title = f"{part}: the same predictions, as others score{leaking}"
        console.print(_table(table, ("convention", "as in", "dice", "iou"), title))
    if "leaks" in protocol:
        console.print(f"Warning: mode {protocol['mode']} is no result on unseen images: {protocol['leaks']}.")
    if seen := protocol["n_named_like_training_images"]:
        whose = "images that the run was trained or chosen on; if they are these, it is no test"
        console.print(f"Note: {seen} of these images are named like {whose}.")
    if protocol["caveat"]:
        console.print(f"Note: {protocol['caveat']}.")


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], title: str) -> Table:
    table = Table(title=title or None, title_justify="left")
    for column in columns:
        numeric = any(isinstance(row.get(column), int | float) for row in rows)
        table.add_column(column, justify="right" if numeric else "left")
    for row in rows:
        cells = (row.get(column) for column in columns)
        table.add_row(*("-" if c is None else f"{c:.4f}" if isinstance(c, float) else str(c) for c in cells))
    return table
