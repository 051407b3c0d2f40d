"""A trained network with all that making masks of it takes, from wherever it lies.

a run directory      what training left (config.yaml, checkpoints/best.ckpt)
a bundle             what `src.export` makes of it to be handed on: the same, with weights.safetensors
a name               of a bundle in experiments/pretrained, such as emisnet_kvasir
*.ckpt, *.safetensors  of a run directory or a bundle
*.onnx               made by `src.export`: all in one file
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from src.bounds import check_bounds
from src.build import build_within
from src.files import read_csv
from src.inference import SMALLEST, Segmenter, best_device
from src.onnx_net import OnnxNet
from src.rundir import RunDir
from src.thresholds import stored_threshold
from src.trusted import check_part
from src.weights import read_weights, sha256

LARGEST, CHANNELS, MOST_WORDS = 8192, 16, 400  # px of a side, channels, characters: of what a stranger's file may say
SPARE = 64_000_000  # bytes of parameters that a config may ask for beyond what its file can hold
PRETRAINED = Path(__file__).resolve().parent.parent / "experiments" / "pretrained"


@dataclass
class Trained:
    """`net` takes images (B, C, h, w), resized to `size` and normalised by `mean` and `std`, to logits (B, 1, h, w).

    `thresholds` by `Segmenter.way`; `tile`: the side, in native px, of the images that it was trained on (the median of
    those it was scored on); `told`: what a user of it must know, in plain values: trained_on, split, scores, commit.
    `run` is where it came from, None for an ONNX file; `file` holds the weights.
    """

    name: str
    net: nn.Module
    size: tuple[int, int]
    mean: Sequence[float]
    std: Sequence[float]
    thresholds: Mapping[str, float]
    tile: int | None = None
    classes: Sequence[str] = ("foreground",)
    told: Mapping[str, Any] = field(default_factory=dict)
    run: RunDir | None = None
    file: Path | None = None

    @property
    def sha256(self) -> str:
        """Of the file that holds the weights."""
        assert self.file is not None
        return sha256(self.file)

    def segmenter(
        self,
        *,
        mode: str = "full",
        tta: str = "none",
        threshold: float | None = None,
        tile: int | None = None,
        device: str | None = None,
        **settings: Any,
    ) -> Segmenter:
        """See `src.inference.Segmenter` for `settings`. Masks are cut at `threshold`; by default where val chose for
        this way of looking, else where it chose for mode `full`, else at 0.5."""
        if isinstance(self.net, OnnxNet) and settings.get("precision", "32-true") != "32-true":
            raise ValueError(
                f"precision={settings['precision']} is not for ONNX files: they compute as they were made."
            )
        made = Segmenter(
            self.net,
            size=self.size,
            mean=self.mean,
            std=self.std,
            mode=mode,
            tta=tta,
            tile=self.tile if tile is None else tile,
            coarse_threshold=self.thresholds.get("full", 0.5),
            device=device or best_device(),
            **settings,
        )
        made.threshold = self.thresholds.get(made.way, made.coarse_threshold) if threshold is None else float(threshold)
        if not 0 <= made.threshold <= 1:
            raise ValueError(f"threshold={threshold} must be a probability, from 0 to 1.")
        return made


def open_trained(source: str | Path) -> Trained:
    """The best weights of `source` (see above); of another checkpoint of a run neither scores nor thresholds, which are
    those of the best.

    Nothing of a stranger's is run: see `src.trusted`. ValueError: there is nothing of that kind, or it is damaged.
    """
    path = Path(source)
    if path.suffix == ".onnx" and not path.is_dir():
        return _of_onnx(path)
    run, weights = run_and_weights(path)
    config = run.config()
    check_bounds(config)
    try:
        model, size = dict(config["model"]), int(config["data"]["size"])
        mean, std = (tuple(float(value) for value in config["data"][key]) for key in ("mean", "std"))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{run.path / 'config.yaml'} has no whole model and data ({error}): it is no run's."
        ) from error
    check_part(model, "model", nn.Module, run.path / "config.yaml", ours=run.is_bundle or weights.suffix != ".ckpt")
    net = read_weights(weights, build_within(model, SPARE + 2 * weights.stat().st_size, str(weights)))
    is_best = weights.resolve() == run.weights.resolve()
    return Trained(
        name=Path(os.path.abspath(run.path)).name,  # of run=., too
        net=net.eval(),
        size=(size, size),
        mean=mean,
        std=std,
        thresholds=_thresholds(run) if is_best else {},
        tile=_usual_side(run),
        told=_told(run) if is_best else {},
        run=run,
        file=weights,
    )


def run_and_weights(source: str | Path) -> tuple[RunDir, Path]:
    """The run directory or bundle of `source`, and the file that holds its weights: that of `source` itself where it is
    one, else the best. ValueError for what is nothing of that kind."""
    path = Path(source)
    run = RunDir.open(run_directory(path))
    return run, path if path.suffix in (".ckpt", ".safetensors") and path.is_file() else run.weights


def run_directory(source: str | Path) -> Path:
    """Of everything that `open_trained` opens but ONNX files. ValueError for what is nothing of that kind."""
    path = Path(source)
    if path.is_file() or path.suffix in (".ckpt", ".safetensors"):
        if path.suffix not in (".ckpt", ".safetensors"):
            raise ValueError(f"{path} is neither a run directory nor a .ckpt, .safetensors or .onnx file.")
        if not path.is_file():
            raise ValueError(f"{path}: no such file.")
        return path.resolve().parent.parent if path.parent.resolve().name == "checkpoints" else path.parent
    if path.is_dir() or os.sep in str(path):
        return path
    if (PRETRAINED / path / "config.yaml").is_file():
        return PRETRAINED / path
    names = ", ".join(sorted(file.parent.name for file in PRETRAINED.glob("*/config.yaml"))) or "none"
    raise ValueError(
        f"{path} is neither a file, nor a directory, nor one of the weights in experiments/pretrained: {names}."
    )


def _thresholds(run: RunDir) -> dict[str, float]:
    ways = ["full", *run.threshold().get("modes", {})]
    return {way: stored_threshold(run, way)["threshold"] for way in ways if stored_threshold(run, way)}


def _usual_side(run: RunDir) -> int | None:
    rows = read_csv(run.path / "per_image.csv") if (run.path / "per_image.csv").is_file() else []
    try:
        sides = sorted(math.sqrt(int(row["height"]) * int(row["width"])) for row in rows)
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{run.path / 'per_image.csv'} was changed or damaged ({error!r}): restore it.") from error
    return min(max(SMALLEST, round(sides[len(sides) // 2])), LARGEST) if sides else None


def _told(run: RunDir) -> dict[str, Any]:
    """Empty for a run that was not scored yet, as one still in training."""
    if not (run.path / "metrics.json").is_file():
        return {}
    metrics = run.metrics()
    try:
        return _told_of(metrics)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{run.path / 'metrics.json'} was changed or damaged ({error!r}): restore it.") from error


def _told_of(metrics: Mapping[str, Any]) -> dict[str, Any]:
    protocol = metrics["protocol"]
    return {
        "trained_on": protocol["trained_on"],
        "caveat": protocol["caveat"],
        "split": protocol["split"],
        "split_hash": protocol["split_hash"],
        "scores": {
            part: {name: scores[name] for name in ("n", "dice", "iou") if name in scores}
            for part, scores in metrics["scores"].items()
        },
        "params": metrics["cost"]["params"],
        "commit": metrics.get("commit"),
    }


# ---- ONNX files


def onnx_metadata(trained: Trained) -> dict[str, Any]:
    """What an exported file carries, under the key `emisnet`, as JSON; `_of_onnx` reads it back."""
    names = ("name", "size", "mean", "std", "thresholds", "tile", "classes", "told")
    return {"format": 1, **{name: getattr(trained, name) for name in names}}


def _of_onnx(path: Path) -> Trained:
    net = OnnxNet(path)
    try:
        held = json.loads(net.metadata["emisnet"])
        if held["format"] != 1:
            raise ValueError(f"format {held['format']}")
        checked = _checked(held)
        if net.channels not in (None, len(checked["mean"])):
            raise ValueError(f"mean of {len(checked['mean'])} channels, the graph takes {net.channels}")
        return Trained(net=net, file=path, **checked)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(
            f"{path} does not say how its images are prepared (no metadata of this project's form: "
            f"{type(error).__name__}: {str(error)[:80]}). Make it with python -m src.export run=..."
        ) from error


def _checked(held: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a Trained that `onnx_metadata` wrote, each of its kind and within what a network can have: a
    stranger may have written them."""
    size, mean, std = ([float(value) for value in held[key][:CHANNELS]] for key in ("size", "mean", "std"))
    thresholds = {str(way)[:MOST_WORDS]: float(cut) for way, cut in held["thresholds"].items()}
    tile = None if held["tile"] is None else int(held["tile"])
    sides = (size[0], size[1], SMALLEST if tile is None else tile)
    if len(size) != 2 or not all(SMALLEST <= side <= LARGEST and side == int(side) for side in sides):
        raise ValueError(f"size {held['size']}, tile {tile}: sides are from {SMALLEST} to {LARGEST} px")
    if not mean or len(mean) != len(std) or not all(map(math.isfinite, mean + std)) or min(std) <= 0:
        raise ValueError("mean and std: one of each per channel, std above 0")
    if not all(0 <= cut <= 1 for cut in thresholds.values()):
        raise ValueError("thresholds are probabilities")
    told = held["told"]
    if not isinstance(told, dict) or not isinstance(held["classes"], list):
        raise TypeError("told is a mapping, classes a list")
    if told and (absent := {"trained_on", "split", "scores"} - told.keys()):
        raise ValueError(f"told has no {', '.join(sorted(absent))}")
    for of_part in told.get("scores", {}).values():
        if not all(math.isfinite(score) for score in of_part.values()):
            raise ValueError("scores are numbers")
    return {
        "name": printable(str(held["name"])),
        "size": (int(size[0]), int(size[1])),
        **{"mean": tuple(mean), "std": tuple(std), "thresholds": thresholds, "tile": tile},
        "classes": [printable(str(name)) for name in held["classes"]],
        "told": _printable(told),
    }


def _printable(value: Any) -> Any:
    """A plain value whose texts, keys too, are `printable`."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_printable(child) for child in value]
    if isinstance(value, dict):
        return {printable(str(key)): _printable(child) for key, child in value.items()}
    return value


def printable(text: str) -> str:
    """Without what would steer a terminal, and not endless."""
    return "".join(sign if sign.isprintable() else "?" for sign in text[:MOST_WORDS])
