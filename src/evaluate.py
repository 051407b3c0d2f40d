"""Score a run, per image, at native size: on its own val and test images, or on any other data.

python -m src.evaluate run=runs/...                                   # as at the end of training, same numbers
python -m src.evaluate run=runs/... data=folder data.root=my_images   # on other data
python -m src.evaluate run=runs/... mode=coarse_to_fine               # looking twice, see src.inference
python -m src.evaluate run=runs/... weights=model.onnx                # what was exported of it, on the same images
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from src.cli import ConfigError, entry_point
from src.config import check_switches, plain, user_errors
from src.trusted import check_targets

if TYPE_CHECKING:  # imported inside functions otherwise, so that --help does not wait for torch
    import numpy as np

    from src.data.source import DataSource
    from src.inference import Prediction, Segmenter
    from src.masks import Packed
    from src.rundir import RunDir
    from src.scoring import Rules, Scored
    from src.subject import Subject
    from src.thresholds import Kept

BATCH = 8
LOOKING = ("mode", "tta", "tile", "overlap", "precision")  # keys of the config that evaluate_run takes as they are
SCORING = ("metrics", "threshold", "tau", "min_object_area", "lens", "weights")
KEPT = 512 * BATCH  # predicted images of val that wait for the threshold, 1.3 GB at 256 px; others are predicted twice


@dataclass
class Evaluation:
    """`rows`: one dict per image, `masks` their masks, small (src.masks); by part `scores` (means and pooled values),
    `strata`, `calibration` and, where asked for, `lens`; `protocol`: how they came about."""

    rows: list[dict[str, Any]]
    masks: "list[Packed]"
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
            (probs,) = self.segmenter.probabilities([image], [mask])
            pred = probs > self.segmenter.threshold
            shown.append({"id": row["id"], "dice": row["dice"], "image": image, "mask": mask, "pred": pred})
        return shown


def evaluate_run(
    path: str | Path,
    *,
    data: Mapping[str, Any] | None = None,
    parts: Sequence[str] | None = None,
    device: str | None = None,
    mode: str = "full",
    metrics: Sequence[str] | None = None,
    threshold: float | None = None,
    choose: bool = False,
    tau: float = 2.0,
    min_object_area: int = 0,
    lens: bool = False,
    weights: str | Path | None = None,
    **looking: Any,
) -> Evaluation:
    """Scores the best weights of a run directory; training calls this too, which is why the numbers agree.

    `data` is a config of where to look instead. The run's own dataset (a folder: the same root) keeps the run's own
    split, whatever `data` says, so that no training image is scored as another; of anything else, all images are scored
    as one part, `all`. `parts` defaults to val and to every test part that is on disk, `metrics` to the dataset's,
    `mode` is of `src.inference.MODES`; `looking` are further arguments of `src.inference.Segmenter`: tta, tile,
    overlap, precision; for `tau` and `min_object_area` see `src.scoring.Rules`. `weights` are scored in place of the
    run's own, cut at their own threshold: anything that `src.trained` opens.

    `threshold` defaults to the run's for this mode and test-time augmentation. It is chosen on the run's val images and
    stored in the run before anything is scored, if `choose` says so (the end of training), or if it is that of a
    further way of looking and not yet known.

    Raises:
        ValueError: not a run directory, an unknown part, mode or metric, or images of a part that are absent on disk.
        FloatingPointError: the network's output is not finite.
    """
    from src.bounds import check_bounds
    from src.build import pin_threads
    from src.rundir import RunDir
    from src.scoring import Rules, calibration, strata, summarize
    from src.subject import subject_of
    from src.thresholds import stored_threshold
    from src.trained import open_trained, run_directory

    run = RunDir.open(run_directory(path))
    check_bounds(run.config())
    pin_threads(run.config().get("threads"))
    trained = open_trained(weights or path)
    segmenter = trained.segmenter(device=device, mode=mode, threshold=threshold, **looking)
    subject = subject_of(run, data, parts)
    source, kept = subject.source, None
    is_needed = choose or (segmenter.way != "full" and not stored_threshold(run, segmenter.way))
    if is_needed and threshold is None and not weights:  # what the run stores is of its own weights
        kept = _choose_threshold(run, segmenter, subject)
    rules = Rules(
        metrics=tuple(metrics or source.metrics),
        threshold=segmenter.threshold,
        tau=tau,
        min_object_area=min_object_area,
        spacing=source.spacing,
        unit=source.unit,
    )
    is_stored = segmenter.way in trained.thresholds if weights else bool(stored_threshold(run, segmenter.way))
    chosen = threshold is None and is_stored
    protocol = _protocol(subject, segmenter, rules, run, threshold_is_chosen=chosen)
    if weights:
        protocol["weights"] = {"name": trained.name, "file": str(weights), "sha256": trained.sha256}
    scored = {}
    for part, ids in subject.parts.items():
        known = kept if kept and part == "val" and not subject.foreign else []
        anew = _predictions(segmenter, source, ids[len(known) :])
        predicted = chain(((k.prediction, k.labels()) for k in known), anew)
        scored[part] = _score(predicted, rules, f"scoring {part}", lens=lens, total=len(ids))
    rows = _rows(subject, scored, protocol)
    rows_of = {part: [row for row in rows if row["part"] == part] for part in scored}
    return Evaluation(
        rows=rows,
        masks=[image.mask for images in scored.values() for image in images],
        scores={part: summarize(of_part) for part, of_part in rows_of.items()},
        strata={part: strata(of_part) for part, of_part in rows_of.items()},
        calibration={part: calibration(images) for part, images in scored.items()},
        lens=_lens(scored, segmenter.threshold) if lens else {},
        protocol=protocol,
        segmenter=segmenter,
        source=source,
    )


# ---- the steps of evaluate_run


def _choose_threshold(run: "RunDir", segmenter: "Segmenter", subject: "Subject") -> "list[Kept]":
    """Gives the segmenter the threshold that is best on the run's val, and returns what was predicted of its first
    images."""
    from src.subject import own_source
    from src.thresholds import choose_run_threshold

    source = own_source(run) if subject.foreign else subject.source
    try:
        ids = source.require("val")
    except ValueError as error:
        raise ValueError(f"{error}\nThey choose the threshold of mode {segmenter.way}; or set threshold=...") from error
    predicted = _predictions(segmenter, source, ids)
    split_hash = subject.own_split.sha256
    keep = 0 if segmenter.mode == "tiled" else KEPT  # those are of native size
    segmenter.threshold, kept = choose_run_threshold(
        run, segmenter.way, predicted, split_hash, total=len(ids), keep=keep
    )
    return kept


def _protocol(
    subject: "Subject", segmenter: "Segmenter", rules: "Rules", run: "RunDir", *, threshold_is_chosen: bool
) -> dict[str, Any]:
    """`id`, what it is made of (all that must be the same for two scores to compare), and what else a reader asks."""
    from src.lineage import faults, identity, read_lineage
    from src.scoring import protocol_id
    from src.thresholds import RULE

    source, ancestors = subject.source, read_lineage(run.path)
    defining: dict[str, Any] = {
        **rules.protocol(),
        **segmenter.protocol(),
        "threshold": RULE if threshold_is_chosen else segmenter.threshold,
        "reading": source.reading,
        "dataset": source.dataset,
        "split": source.split.name,
        "split_hash": source.split.sha256,
    }
    if segmenter.half:
        defining["precision"] = segmenter.precision
    if subject.foreign or source.dataset == "folder":  # ids alone do not tell whose masks these are
        defining["root"] = str(source.root.resolve())
    own = subject.own_split
    trained_or_chosen_on = {*own.parts["train"], *own.parts["val"]}
    trained_or_chosen_on.update(*(one.train + one.val for one in ancestors))
    data = identity(run.config()["data"], own.dataset)
    leaks = faults(ancestors, own, data, source.groups()) if ancestors and not subject.foreign else []
    seen = trained_or_chosen_on & set().union(*subject.parts.values()) if subject.foreign else set()
    told = {
        "threshold_value": segmenter.threshold,
        "device": segmenter.device.type,
        "precision": "float32",
        "root": str(source.root),
        "trained_on": own.dataset,
        "n_named_like_training_images": len(seen),
        "caveat": "; ".join([*([source.caveat] if source.caveat else []), *leaks]) or None,
    }
    if segmenter.mode == "coarse_to_fine":
        told["coarse_threshold_value"] = segmenter.coarse_threshold
    return {"id": protocol_id(defining), **told, **defining}


def _predictions(
    segmenter: "Segmenter", source: "DataSource", ids: Sequence[str]
) -> Iterator["tuple[Prediction, np.ndarray]"]:
    """Predictions and true label images at native size; images go through the network in batches of BATCH."""
    for start in range(0, len(ids), BATCH):
        loaded = [source.load_labels(sample_id) for sample_id in ids[start : start + BATCH]]
        images, labels = [image for image, _ in loaded], [labels for _, labels in loaded]
        yield from zip(segmenter.predict(images, labels), labels, strict=True)


def _score(
    predicted: "Iterable[tuple[Prediction, np.ndarray]]", rules: "Rules", what: str, *, lens: bool, total: int
) -> "list[Scored]":
    """The network runs in this thread, the metrics in others."""
    from src.progress import in_threads
    from src.scoring import score_image

    def score(item: "tuple[np.ndarray, np.ndarray]") -> "Scored":
        return score_image(*item, rules, lens=lens)

    maps = ((prediction.probabilities(), labels) for prediction, labels in predicted)
    return list(in_threads(score, maps, what, total=total))


def _rows(
    subject: "Subject", scored: "Mapping[str, Sequence[Scored]]", protocol: Mapping[str, Any]
) -> list[dict[str, Any]]:
    whose = {"dataset": subject.source.dataset, "trained_on": subject.own_split.dataset, "mode": protocol["mode"]}
    return [
        {"id": id_, "part": part, **whose, **image.row, "protocol": protocol["id"]}
        for part, ids in subject.parts.items()
        for id_, image in zip(ids, scored[part], strict=True)
    ]


def _lens(scored: "Mapping[str, Sequence[Scored]]", threshold: float) -> dict[str, list[dict[str, Any]]]:
    from src.lens import lens_table

    return {part: lens_table(images, threshold) for part, images in scored.items()}


# ---- what is left of it


def keep_evaluation(evaluation: Evaluation, folder: Path, title: str) -> None:
    """Rows, tables, pictures and metrics.json in `folder`."""
    from src.files import sweep, write_json
    from src.tables import write_evaluation

    folder.mkdir(parents=True, exist_ok=True)
    for place in (folder, folder / "figures"):
        sweep(place)
    write_evaluation(evaluation, folder, title)
    write_json(folder / "metrics.json", evaluation.numbers())


def _check(cfg: DictConfig) -> None:
    from src.recheck import recheck

    with user_errors():
        check_switches(plain(cfg), "check")
        typed = {word.lstrip("+~").split("=")[0] for word in HydraConfig.get().overrides.task}
        if other := sorted(typed - {"run", "check", "device"}):
            raise ValueError(f"check=true scores what the run holds, as it was scored: leave out {', '.join(other)}.")
        found = recheck(cfg.run, cfg.device)
    print("\n".join([*found.lines, *(f"does not match: {fault}" for fault in found.faults)]))
    print(f"{cfg.run}: {'matches' if found.matches else 'DOES NOT MATCH its stored scores'}")
    if not found.matches:
        raise SystemExit(1)


def _run(cfg: DictConfig) -> None:
    from src.tables import print_scores
    from src.trained import run_directory

    if OmegaConf.is_missing(cfg, "run"):
        raise ConfigError("which run? Give its directory: python -m src.evaluate run=runs/...")
    if cfg.check:
        return _check(cfg)
    parts = [cfg.parts] if isinstance(cfg.parts, str) else cfg.parts
    with user_errors():
        data = plain(cfg.data) if cfg.get("data") else None  # no group chosen: no key
        check_targets(data or {}, "data")
        if isinstance(cfg.metrics, str):
            cfg.metrics = [cfg.metrics]
        settings = {key: plain(cfg)[key] for key in (*LOOKING, *SCORING)}
        evaluation = evaluate_run(cfg.run, data=data, parts=parts, device=cfg.device, **settings)
    protocol, split = evaluation.protocol, evaluation.source.split
    mode = [] if evaluation.segmenter.way == "full" else [evaluation.segmenter.way]
    others = [f"{Path(cfg.weights).stem}-{protocol['weights']['sha256'][:8]}"] if cfg.weights else []
    words = [split.dataset, Path(protocol["root"]).name, split.hash, *evaluation.scores, *mode, *others, protocol["id"]]
    name = "-".join(words)
    folder = Path(cfg.out or run_directory(cfg.run) / "evaluations" / name)
    keep_evaluation(evaluation, folder, name)
    print_scores(evaluation, f"{cfg.run} on {protocol['dataset']}")
    print(f"rows, scores and pictures: {folder}")


main = entry_point("evaluate", _run)

if __name__ == "__main__":
    main()
