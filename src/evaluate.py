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
    import numpy as np

    from src.data.source import DataSource
    from src.inference import Segmenter
    from src.scoring import Rules, Scored

BATCH = 8
RULE = "chosen on val: best mean Dice of 0.05, 0.1, ..., 0.95"
EVERYTHING = "all"  # the part that is every image of other data


@dataclass
class Evaluation:
    """`rows`: one dict per image; by part `scores` (means and pooled values), `strata`, `calibration` and, where asked
    for, `lens`; `protocol`: how they came about."""

    rows: list[dict[str, Any]]
    scores: dict[str, dict[str, Any]]
    strata: dict[str, list[dict[str, Any]]]
    calibration: dict[str, dict[str, Any]]
    lens: dict[str, list[dict[str, Any]]]
    protocol: dict[str, Any]
    segmenter: "Segmenter"
    source: "DataSource"

    def numbers(self) -> dict[str, Any]:
        """All but the rows, for metrics.json."""
        return {name: getattr(self, name) for name in ("scores", "strata", "calibration", "lens", "protocol")}

    def samples(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Image, mask, pred, id and dice of some rows, for pictures."""
        shown = []
        for row in rows:
            image, mask = self.source.load(row["id"])
            (probs,) = self.segmenter.probabilities([image])
            pred = probs > self.segmenter.threshold
            shown.append({"id": row["id"], "dice": row["dice"], "image": image, "mask": mask, "pred": pred})
        return shown


def load_segmenter(path: str | Path, device: str | None = None) -> "Segmenter":
    """The best checkpoint of a run directory with its threshold. ValueError for a directory that is not a run."""
    from src.build import build_net, pin_threads
    from src.inference import Segmenter, best_device, read_weights
    from src.rundir import RunDir

    run = RunDir.open(path)
    config = run.config()
    pin_threads(config["threads"])
    data, size = config["data"], config["data"]["size"]
    net = read_weights(run.best, build_net(config["model"], quiet=True))
    return Segmenter(
        net,
        size=(size, size),
        mean=data["mean"],
        std=data["std"],
        threshold=run.threshold().get("threshold", 0.5),
        device=device or best_device(),
    )


def choose_run_threshold(path: Path, device: str | None = None) -> dict[str, Any]:
    """Chooses the run's threshold on its validation images, at native size, and stores it in the run."""
    from hydra.utils import instantiate

    from src.data.splits import read_split
    from src.files import write_json
    from src.rundir import RunDir
    from src.scoring import Rules, choose_threshold

    run = RunDir.open(path)
    segmenter, source = load_segmenter(path, device), instantiate(run.config()["data"])
    source.split = read_split(path / "split.json")
    scored = _score(segmenter, source, source.require("val"), Rules(), "choosing the threshold on val")
    chosen = {**choose_threshold(scored), "chosen_on": "val", "split_hash": source.split.sha256}
    write_json(run.threshold_file, chosen)
    return chosen


def evaluate_run(
    path: str | Path,
    *,
    data: Mapping[str, Any] | None = None,
    parts: Sequence[str] | None = None,
    device: str | None = None,
    metrics: Sequence[str] | None = None,
    threshold: float | None = None,
    tau: float = 2.0,
    min_object_area: int = 0,
    lens: bool = False,
) -> Evaluation:
    """Scores the best checkpoint of a run directory; training calls this too, which is why the numbers agree.

    `data` is a config of where to look instead. The run's own dataset (a folder: the same root) keeps the run's own
    split, whatever `data` says, so that no training image is scored as another; of anything else, all images are scored
    as one part, `all`. `parts` defaults to val and to every test part that is on disk, `metrics` to the dataset's,
    `threshold` to the run's, which was chosen on val. For `tau` and `min_object_area` see `src.scoring.Rules`.

    Raises:
        ValueError: not a run directory, an unknown part or metric, or images of a part that are absent on disk.
        FloatingPointError: the network's output is not finite.
    """
    from hydra.utils import instantiate

    from src.data.checks import mixed_masks
    from src.data.splits import Split, read_split
    from src.lens import lens_table
    from src.rundir import RunDir
    from src.scoring import Rules, calibration, protocol_id, strata, summarize

    segmenter = load_segmenter(path, device)
    run = RunDir.open(path)
    trained_on = run.config()["data"]
    own_split = read_split(Path(path) / "split.json")
    source = instantiate(data or {**trained_on, "download": False})
    other = source.dataset != own_split.dataset
    if not other and source.dataset == "folder":
        other = Path(trained_on["root"]).resolve() != source.root.resolve()
    ids = tuple(sorted(source.ids_on_disk())) if other else ()
    source.split = Split(EVERYTHING, source.dataset, {"train": (), "val": (), "test": ids}) if other else own_split
    if other:
        chosen = {EVERYTHING: ids}
    else:
        chosen = {part: source.require(part) for part in parts or ["val", *source.tests_on_disk()]}
    if other and source.foreground == "auto" and source.on_disk and (faults := mixed_masks(source.pairs)):
        raise ValueError(faults[0])
    if threshold is not None:
        segmenter.threshold = float(threshold)
    rules = Rules(
        metrics=tuple(metrics or source.metrics),
        threshold=segmenter.threshold,
        tau=tau,
        min_object_area=min_object_area,
        spacing=source.spacing,
        unit=source.unit,
    )
    protocol: dict[str, Any] = {
        **rules.protocol(),
        **segmenter.protocol(),
        "threshold": RULE if threshold is None and run.threshold() else segmenter.threshold,
        "reading": source.reading,
        "dataset": source.dataset,
        "split": source.split.name,
        "split_hash": source.split.sha256,
    }
    if other or source.dataset == "folder":  # ids alone do not tell whose masks these are
        protocol["root"] = str(source.root.resolve())
    protocol = {"id": protocol_id(protocol), **protocol}
    scored = {part: _score(segmenter, source, members, rules, f"scoring {part}") for part, members in chosen.items()}
    rows = [
        {"id": id_, "part": part, "dataset": source.dataset, "trained_on": own_split.dataset, **image.row}
        | {"protocol": protocol["id"]}
        for part, members in chosen.items()
        for id_, image in zip(members, scored[part], strict=True)
    ]
    rows_of = {part: [row for row in rows if row["part"] == part] for part in chosen}
    seen = {*own_split.parts["train"], *own_split.parts["val"]} & set(ids)
    protocol |= {
        "threshold_value": segmenter.threshold,
        "device": segmenter.device.type,
        "precision": "float32",
        "root": str(source.root),
        "trained_on": own_split.dataset,
        "n_named_like_training_images": len(seen),
        "caveat": source.caveat,
    }
    return Evaluation(
        rows=rows,
        scores={part: summarize(of_part) for part, of_part in rows_of.items()},
        strata={part: strata(of_part) for part, of_part in rows_of.items()},
        calibration={part: calibration(images) for part, images in scored.items()},
        lens={part: lens_table(images, segmenter.threshold) for part, images in scored.items()} if lens else {},
        protocol=protocol,
        segmenter=segmenter,
        source=source,
    )


def _score(
    segmenter: "Segmenter", source: "DataSource", ids: Sequence[str], rules: "Rules", what: str
) -> "list[Scored]":
    """The network runs in this thread, the metrics in others."""
    from src.progress import in_threads
    from src.scoring import score_image

    def score(predicted: "tuple[np.ndarray, np.ndarray]") -> "Scored":
        return score_image(*predicted, rules)

    return list(in_threads(score, _predictions(segmenter, source, ids), what, total=len(ids)))


def _predictions(
    segmenter: "Segmenter", source: "DataSource", ids: Sequence[str]
) -> Iterator["tuple[np.ndarray, np.ndarray]"]:
    """Probabilities and true label image at native size; images go through the network in batches of BATCH."""
    for start in range(0, len(ids), BATCH):
        loaded = [source.load_labels(sample_id) for sample_id in ids[start : start + BATCH]]
        probabilities = segmenter.probabilities([image for image, _ in loaded])
        yield from zip(probabilities, (labels for _, labels in loaded), strict=True)


def _run(cfg: DictConfig) -> None:
    from src.files import write_json
    from src.tables import print_scores, write_evaluation

    if OmegaConf.is_missing(cfg, "run"):
        raise ConfigError("which run? Give its directory: python -m src.evaluate run=runs/...")
    parts = [cfg.parts] if isinstance(cfg.parts, str) else cfg.parts
    with user_errors():
        data = plain(cfg.data) if cfg.get("data") else None  # no group chosen: no key
        if isinstance(cfg.metrics, str):
            cfg.metrics = [cfg.metrics]
        settings = {key: plain(cfg)[key] for key in ("metrics", "threshold", "tau", "min_object_area", "lens")}
        evaluation = evaluate_run(cfg.run, data=data, parts=parts, device=cfg.device, **settings)
    split = evaluation.source.split
    place = Path(evaluation.protocol["root"]).name
    name = "-".join([split.dataset, place, split.hash, *evaluation.scores, evaluation.protocol["id"]])
    folder = Path(cfg.out or Path(cfg.run) / "evaluations" / name)
    folder.mkdir(parents=True, exist_ok=True)
    write_evaluation(evaluation, folder, name)
    write_json(folder / "metrics.json", evaluation.numbers())
    print_scores(evaluation, f"{cfg.run} on {evaluation.protocol['dataset']}")
    print(f"rows, scores and pictures: {folder}")


main = entry_point("evaluate", _run)

if __name__ == "__main__":
    main()
