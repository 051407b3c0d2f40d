"""Score a run, per image, at native size: on its own val and test images, or on any other data.

python -m src.evaluate run=runs/...                                   # as at the end of training, same numbers
python -m src.evaluate run=runs/... data=folder data.root=my_images   # on other data
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from src.cli import ConfigError, entry_point
from src.config import plain, user_errors

if TYPE_CHECKING:  # imported inside functions otherwise, so that --help does not wait for torch
    from src.data.datamodule import SegmentationDataModule
    from src.inference import Segmenter

BATCH = 8
EVERYTHING = "all"  # the part that is every image of other data


@dataclass
class Evaluation:
    """`rows`: one dict per image; `scores`: part -> means and pooled values; `protocol`: how they came about."""

    rows: list[dict[str, Any]]
    scores: dict[str, dict[str, float]]
    protocol: dict[str, Any]
    segmenter: "Segmenter"
    source: "SegmentationDataModule"

    def samples(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Image, mask, pred, id and dice of some rows, for pictures."""
        return [
            {"id": row["id"], "dice": row["dice"], "image": image, "mask": mask, "pred": pred}
            for row in rows
            for image, mask, pred in _predictions(self.segmenter, self.source, [row["id"]])
        ]


def load_segmenter(path: str | Path, device: str | None = None) -> "Segmenter":
    """The best checkpoint of a run directory, ready to segment. ValueError for a directory that is not a run."""
    from src.build import build_net, pin_threads
    from src.inference import Segmenter, best_device, read_weights
    from src.rundir import RunDir

    run = RunDir.open(path)
    config = run.config()
    pin_threads(config["threads"])
    data, size = config["data"], config["data"]["size"]
    net = read_weights(run.best, build_net(config["model"], quiet=True))
    return Segmenter(net, size=(size, size), mean=data["mean"], std=data["std"], device=device or best_device())


def evaluate_run(
    path: str | Path,
    *,
    data: Mapping[str, Any] | None = None,
    parts: Sequence[str] | None = None,
    device: str | None = None,
) -> Evaluation:
    """Scores the best checkpoint of a run directory; training calls this too, which is why the numbers agree.

    `data` is a config of where to look instead. The run's own dataset (a folder: the same root) keeps the run's own
    split, whatever `data` says, so that no training image is scored as another; of anything else, all images are scored
    as one part, `all`. `parts` defaults to val and to every test part that is on disk.

    Raises:
        ValueError: not a run directory, an unknown part, or images of a part that are absent on disk.
        FloatingPointError: the network's output is not finite.
    """
    from hydra.utils import instantiate

    from src.data.splits import Split, read_split
    from src.rundir import RunDir

    segmenter = load_segmenter(path, device)
    trained_on = RunDir.open(path).config()["data"]
    own_split = read_split(Path(path) / "split.json")
    source = instantiate({**(data or trained_on)})
    other = source.dataset != own_split.dataset
    if not other and source.dataset == "folder":
        other = Path(trained_on["root"]).resolve() != source.root.resolve()
    ids = tuple(sorted(source.ids_on_disk())) if other else ()
    source.split = Split(EVERYTHING, source.dataset, {"train": (), "val": (), "test": ids}) if other else own_split
    if other:
        chosen = {EVERYTHING: ids}
    else:
        chosen = {part: source.require(part) for part in parts or ["val", *source.tests_on_disk()]}
    rows = [row for part, members in chosen.items() for row in score(segmenter, source, members, part)]
    seen = set(own_split.parts["train"]) & set(ids) if source.dataset == own_split.dataset else set()
    protocol = {
        "aggregation": "per-image mean at native size (pooled values are named so)",
        "empty": "both masks empty 1, one empty 0",
        **segmenter.protocol(),
        "dataset": source.dataset,
        "root": str(source.root),
        "split": source.split.name,
        "split_hash": source.split.sha256,
        "trained_on": own_split.dataset,
        "n_named_like_training_images": len(seen),
        "caveat": source.caveat,
    }
    scores = {part: summarize([row for row in rows if row["part"] == part]) for part in chosen}
    return Evaluation(rows, scores, protocol, segmenter, source)


def score(
    segmenter: "Segmenter", source: "SegmentationDataModule", ids: Sequence[str], part: str
) -> list[dict[str, Any]]:
    """One row per image: id, part, native size, lesion area fraction, the overlap scores and their pixel counts."""
    import torch
    from rich.console import Console
    from rich.progress import track

    from src.metrics.overlap import confusion, scores

    console = Console(stderr=True)
    rows = []
    predictions = _predictions(segmenter, source, ids)
    shown = track(predictions, f"scoring {part}", total=len(ids), console=console, disable=not console.is_terminal)
    for sample_id, (_, mask, pred) in zip(ids, shown, strict=True):
        counts = confusion(torch.from_numpy(pred)[None], torch.from_numpy(mask > 0)[None])
        height, width = mask.shape
        row = {"id": sample_id, "part": part, "height": height, "width": width, "area_fraction": float(mask.mean())}
        row |= {name: value.item() for name, value in scores(counts).items()}
        rows.append(row | dict(zip(("tp", "fp", "fn", "tn"), counts[0].tolist(), strict=True)))
    return rows


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over images and pooled values of per-image rows; `n` is the number of images."""
    import torch

    from src.metrics.overlap import NAMES, scores

    means = {name: sum(row[name] for row in rows) / len(rows) for name in NAMES}
    counts = torch.tensor([[row[key] for key in ("tp", "fp", "fn", "tn")] for row in rows]).sum(0, keepdim=True)
    pooled = {f"{name}_pooled": scores(counts)[name].item() for name in ("dice", "iou")}
    return {"n": len(rows), **means, **pooled}


def _predictions(segmenter: "Segmenter", source: "SegmentationDataModule", ids: Sequence[str]) -> Iterator[tuple]:
    """(image, mask, pred) at native size; images go through the network in batches of BATCH."""
    for start in range(0, len(ids), BATCH):
        loaded = [source.load(sample_id) for sample_id in ids[start : start + BATCH]]
        for (image, mask), probs in zip(loaded, segmenter.probabilities([image for image, _ in loaded]), strict=True):
            yield image, mask, probs > segmenter.threshold


def write_evaluation(evaluation: Evaluation, folder: Path, title: str) -> None:
    """per_image.csv and figures/overlays.png (best, median and worst by Dice)."""
    from src.figures import plot_overlays
    from src.files import write_csv

    write_csv(folder / "per_image.csv", evaluation.rows)
    part = list(evaluation.scores)[-1]  # test where there is one
    ranked = sorted((row for row in evaluation.rows if row["part"] == part), key=lambda row: row["dice"])
    middle, few = len(ranked) // 2, min(5, len(ranked))
    chosen = {
        "worst": ranked[:few],
        "median": ranked[max(0, middle - few // 2) : max(0, middle - few // 2) + few],
        "best": ranked[::-1][:few],
    }
    groups = {name: evaluation.samples(rows) for name, rows in chosen.items()}
    plot_overlays(groups, folder / "figures" / "overlays.png", f"{title}, {part}")


def print_scores(evaluation: Evaluation, title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    names = ("dice", "iou", "precision", "recall", "specificity", "accuracy", "dice_pooled", "iou_pooled")
    table = Table(title=f"{title}\nper-image means at native size", title_justify="left")
    for column in ("part", "n", *names):
        table.add_column(column, justify="left" if column == "part" else "right")
    for part, values in evaluation.scores.items():
        table.add_row(part, str(values["n"]), *(f"{values[name]:.4f}" for name in names))
    console = Console(width=max(110, Console().width))
    console.print(table)
    if seen := evaluation.protocol["n_named_like_training_images"]:
        console.print(f"Note: {seen} of these images are named like training images; if they are, this is no test.")
    if evaluation.protocol["caveat"]:
        console.print(f"Note: {evaluation.protocol['caveat']}.")


def _run(cfg: DictConfig) -> None:
    from src.files import write_json

    if OmegaConf.is_missing(cfg, "run"):
        raise ConfigError("which run? Give its directory: python -m src.evaluate run=runs/...")
    parts = [cfg.parts] if isinstance(cfg.parts, str) else cfg.parts
    with user_errors():
        data = plain(cfg.data) if cfg.get("data") else None  # no group chosen: no key
        evaluation = evaluate_run(cfg.run, data=data, parts=parts, device=cfg.device)
    split = evaluation.source.split
    name = "-".join([split.dataset, Path(evaluation.protocol["root"]).name, split.hash, *evaluation.scores])
    folder = Path(cfg.out or Path(cfg.run) / "evaluations" / name)
    folder.mkdir(parents=True, exist_ok=True)
    write_evaluation(evaluation, folder, name)
    write_json(folder / "metrics.json", {"protocol": evaluation.protocol, "scores": evaluation.scores})
    print_scores(evaluation, f"{cfg.run} on {evaluation.protocol['dataset']}")
    print(f"rows, scores and pictures: {folder}")


main = entry_point("evaluate", _run)

if __name__ == "__main__":
    main()
