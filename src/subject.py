"""What a run is scored on: its own val and test images, or all images of other data."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from src.data.checks import mixed_masks
from src.data.source import DataSource
from src.data.splits import Split, read_split
from src.rundir import RunDir
from src.trusted import check_part

EVERYTHING = "all"  # the part that is every image of other data


@dataclass(frozen=True)
class Subject:
    """Ids by part, of a source. `foreign` says that it is not the run's own data."""

    source: DataSource
    parts: dict[str, tuple[str, ...]]
    own_split: Split
    foreign: bool


def subject_of(run: RunDir, data: Mapping[str, Any] | None, parts: Sequence[str] | None) -> Subject:
    """`data` is a config of where to look, None for the run's own; see `src.evaluate.evaluate_run`.

    Raises:
        ValueError: an unknown part, images of a part that are absent on disk, or masks that mean two things.
    """
    own_split = read_split(run.path / "split.json")
    source = instantiate(data) if data else own_source(run)
    foreign = source.dataset != own_split.dataset
    if not foreign and source.dataset == "folder":
        foreign = Path(run.config()["data"]["root"]).resolve() != source.root.resolve()
    if not foreign:
        source.split = own_split
        scored = {part: source.require(part) for part in parts or ["val", *source.tests_on_disk()]}
        return Subject(source, scored, own_split, foreign)
    ids = tuple(sorted(source.ids_on_disk()))
    source.split = Split(EVERYTHING, source.dataset, {"train": (), "val": (), "test": ids})
    if source.foreground == "auto" and source.on_disk and (faults := mixed_masks(source.pairs)):
        raise ValueError(faults[0])
    return Subject(source, {EVERYTHING: ids}, own_split, foreign)


def own_source(run: RunDir) -> DataSource:
    """The data that the run was trained on, with the split it had; nothing is downloaded to score."""
    config = run.config()["data"]
    check_part(config, "data", DataSource, run.path / "config.yaml", ours=run.is_bundle)
    if run.is_bundle and "root" in config:  # where it was trained is not where it is used
        config = {**config, "root": str(Path(os.environ.get("EMISNET_DATA", "data")) / Path(config["root"]).name)}
    try:
        source = instantiate({**config, "download": False})
    except InstantiationException as error:
        raise ValueError(f"{run.path / 'config.yaml'}: data: {error.__cause__}") from error
    source.split = read_split(run.path / "split.json")
    return source
