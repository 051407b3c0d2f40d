"""A bundle: the folder that a run is handed on as. What `src.trained` opens, without what only training needs."""

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from src.data.source import DataSource
from src.data.splits import read_split
from src.exporting.card import model_card
from src.files import write_json, write_text
from src.lineage import LINEAGE
from src.rundir import BUNDLED, RunDir
from src.trained import Trained
from src.trusted import OURS, check_part
from src.weights import write_safetensors

COPIED = ("split.json", "threshold.json", "per_image.csv", LINEAGE)
NAMES = ("runs", "run_dir", "init", "teacher")  # keys that are paths, of which the last part is kept
LEFT_OUT = ("runs", "run_dir", "data.cache")  # of what was typed: where things lay


def check_bundle(trained: Trained) -> None:
    """ValueError, before anything is written, for a run that no bundle can be made of."""
    run = trained.run
    assert run is not None
    try:
        for part, base in (("model", nn.Module), ("data", DataSource)):
            check_part(run.config()[part], part, base, run.path / "config.yaml", ours=True)
    except ValueError as error:
        raise ValueError(
            f"{error} Nobody could open the bundle, so none is made: move the class into {OURS[part]}*, or leave "
            "bundle out (formats=[onnx])."
        ) from error
    for name in ("metrics.json", "per_image.csv", "split.json"):
        if not (run.path / name).is_file():
            raise ValueError(
                f"{run.path} has no {name}: it was not scored yet, and a bundle says how good it is. Let the training "
                "end (the same command resumes it), or leave bundle out (formats=[onnx])."
            )


def write_bundle(trained: Trained, folder: Path) -> None:
    """Whole or not at all; what stood at `folder` before is replaced."""
    run = trained.run
    assert run is not None
    draft = folder.with_name(f".{folder.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    draft.mkdir(parents=True)
    try:
        _fill(run, trained.net, draft, folder.name)
        if folder.exists():
            aside = draft.with_suffix(".old")
            folder.rename(aside)
            try:
                draft.rename(folder)
            except OSError:
                aside.rename(folder)
                raise
            shutil.rmtree(aside)
        else:
            draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _fill(run: RunDir, net: nn.Module, folder: Path, name: str) -> None:
    write_safetensors(net, folder / BUNDLED)
    config = run.config()
    root = f"data/{read_split(run.path / 'split.json').dataset}"
    write_text(folder / "config.yaml", yaml.safe_dump(portable_config(config, root), sort_keys=False))
    for file in COPIED:
        if (run.path / file).is_file():
            shutil.copyfile(run.path / file, folder / file)
    metrics = run.metrics()
    if "root" in config["data"]:
        metrics["protocol"]["root"] = root
    write_json(folder / "metrics.json", _without_paths(metrics))
    write_text(folder / "README.md", model_card(folder, name))


def portable_config(config: Mapping[str, Any], root: str) -> dict[str, Any]:
    """Without this machine's paths: the images in `root`, no cache, of all other absolute paths the last part."""
    kept = dict(config)
    kept["data"] = {**config["data"], "cache": None}
    if "root" in kept["data"]:
        kept["data"]["root"] = root
    for key in NAMES:
        if kept.get(key):
            kept[key] = Path(kept[key]).name
    typed = [word for word in kept.get("overrides") or [] if word.lstrip("+~").split("=")[0] not in LEFT_OUT]
    kept["overrides"] = [f"data.root={root}" if word.startswith("data.root=") else word for word in typed]
    return _without_paths(kept)


def _without_paths(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_paths(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_without_paths(child) for child in value]
    if isinstance(value, str):
        key, equals, path = value.rpartition("=") if "=" in value and "\n" not in value else ("", "", value)
        if path.startswith(("/", "~")):
            return f"{key}{equals}{Path(path).name}"
    return value
