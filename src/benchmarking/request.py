"""What is measured, from a resolved config; what cannot be measured is refused here."""

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from src.benchmarking.engines import DEFAULT, ENGINES
from src.build import TORCHS_CHOICE
from src.cli import did_you_mean
from src.config import beside_hydra, check_switches, composed
from src.files import read_csv
from src.preflight import preflight


@dataclass(frozen=True)
class Request:
    """What is measured, how, and where the tables go.

    Args:
        models: model configs by the name that tables show.
        threads: of the CPU, one setting for each.
        seconds: of measuring, for each pair of batch and threads.
        reference: the name of the model that the others are compared with.
        scores: Dice by model, for the picture.
    """

    models: Mapping[str, Mapping[str, Any]]
    size: int
    device: str
    engines: Sequence[str]
    batches: Sequence[int]
    threads: Sequence[int]
    seconds: float
    train_batch: int
    reference: str
    out: Path
    memory: bool = True
    profile: bool = False
    scores: Mapping[str, float] | None = None


def make_request(config: Mapping[str, Any]) -> Request:
    """Checks a resolved config. ValueError (ConfigError for a model's name) for what cannot be measured."""
    check_switches(config, "memory", "profile")
    engines = _check(config)
    lines = [line for line in _words(config["models"]) if line.strip()]
    if not lines:
        raise ValueError("which models? Give at least one: models=[emisnet,unet].")
    models = {display_name(line): model_config(line, config["size"]) for line in lines}
    reference = display_name(config["reference"]) if config["reference"] else next(iter(models))
    if reference not in models:
        hint = did_you_mean(reference, models)
        raise ValueError(f"reference={reference} is none of the models. {hint} Possible: {', '.join(models)}.")
    threads = config["threads"] if config["device"] == "cpu" else [None]  # a GPU's kernels do not ask
    return Request(
        models=models,
        size=config["size"],
        device=config["device"],
        engines=engines,
        batches=list(dict.fromkeys(config["batches"])),
        threads=list(dict.fromkeys(n or TORCHS_CHOICE for n in threads)),
        seconds=float(config["seconds"]),
        train_batch=config["train_batch"],
        reference=reference,
        out=Path(config["out"] or time.strftime("benchmarks/%Y-%m-%d_%H%M%S")),
        memory=config["memory"],
        profile=config["profile"],
        scores=_scores(config["scores"], models) if config["scores"] else None,
    )


def model_config(line: str, size: int) -> dict[str, Any]:
    """The model config of a name in conf/model, or of a name and arguments: "emisnet stem_stride=2 act=relu".

    ConfigError with the nearest valid name for a name or an argument that does not exist.
    """
    name, *arguments = shlex.split(line)
    overrides = [f"model={name}", *(_full(argument) for argument in arguments), f"data.size={size}"]
    with beside_hydra():
        preflight(overrides, "train")
        model: dict[str, Any] = composed(*overrides)["model"]
    return model


def display_name(line: str) -> str:
    """As tables show it: one space between arguments, without `model.` before them."""
    return " ".join(word.removeprefix("model.") for word in shlex.split(line))


def _full(argument: str) -> str:
    return argument if argument.startswith(("model.", "+", "~")) else f"model.{argument}"


def _words(value: Any) -> list[str]:
    """Of a key that may be null, one word or a list."""
    return [] if value is None else [value] if isinstance(value, str) else [str(item) for item in value]


def _check(config: Mapping[str, Any]) -> Sequence[str]:
    """The engines of a config whose other values can be measured."""
    device = config["device"]
    if device not in ENGINES:
        raise ValueError(f"device={device} is not possible. Use {' or '.join(ENGINES)}.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda, but torch sees no GPU here. Use device=cpu.")
    if device == "cuda" and config["profile"]:
        raise ValueError("profile=true tells of operators on the CPU. Leave it out with device=cuda.")
    engines = _words(config["engines"]) or DEFAULT[device]
    for engine in engines:
        if engine not in ENGINES[device]:
            hint = did_you_mean(engine, ENGINES[device])
            possible = ", ".join(ENGINES[device])
            raise ValueError(f"engines: there is no {engine} for device={device}. {hint} Possible: {possible}.")
    for key in ("batches", "threads"):
        allowed = (int, type(None)) if key == "threads" else int
        numbers = config[key] if isinstance(config[key], list) else []
        wrong = [n for n in numbers if not isinstance(n, allowed) or isinstance(n, bool) or (n is not None and n < 1)]
        if wrong or not numbers:
            raise ValueError(f"{key}={config[key]} is not possible; it is a list of whole numbers from 1 up.")
    for key, least in (("size", 32), ("train_batch", 2)):
        if not isinstance(config[key], int) or config[key] < least:
            raise ValueError(f"{key}={config[key]} is not possible; it is a whole number from {least} up.")
    if isinstance(config["seconds"], bool | str | None) or config["seconds"] < 0:
        raise ValueError(f"seconds={config['seconds']} is not possible; it is a number from 0 up.")
    return engines


def _scores(file: str, models: Mapping[str, Any]) -> dict[str, float]:
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"scores={path}: there is no such file.")
    rows = read_csv(path)
    if not rows or not {"model", "dice"} <= rows[0].keys():
        raise ValueError(f"{path} needs the columns model and dice, and a row for each model.")
    scores = {display_name(row["model"]): float(row["dice"]) for row in rows}
    if not scores.keys() & models.keys():
        raise ValueError(f"{path} holds none of the models {', '.join(models)}, but {', '.join(scores)}.")
    return scores
