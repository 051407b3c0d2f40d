"""Where a run goes on, and whether it is the same run that was begun."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from src.provenance import short_commit
from src.rundir import RunDir, differences

if TYPE_CHECKING:
    from src.data.datamodule import SegmentationDataModule


def set_aside(run: RunDir, lock: IO[str]) -> IO[str]:
    """For resume=never: keeps the earlier run under another name and claims a new directory."""
    print(f"resume=never: the earlier run is kept in {run.set_aside()}", file=sys.stderr)
    lock.close()
    return run.claim()


def check_same_run(run: RunDir, config: dict[str, Any], source: "SegmentationDataModule") -> None:
    """ValueError when the directory holds a run of another config, or of other images in its parts."""
    from src.data.splits import read_split

    afresh = "Choose another run_dir, or resume=never to start afresh (the earlier run is kept beside it)."
    if (run.path / "config.yaml").is_file() and (changed := differences(run.config(), config)):
        raise ValueError(f"{run.path} holds a run of another config; it differs in {', '.join(changed[:8])}. {afresh}")
    if (file := run.path / "split.json").is_file() and read_split(file).sha256 != source.split.sha256:
        raise ValueError(
            f"{run.path} was begun on split {read_split(file).hash}, the data now give {source.split.hash}: "
            f"images or groups changed, or its committed split was made anew; some may have changed sides. {afresh}"
        )


def tell_finished(run: RunDir, config: dict[str, Any]) -> float:
    from src.inference import checked_modes

    metrics = run.metrics()
    best = metrics["best"]
    evaluate = f"python -m src.evaluate run={run.path}"
    told = [f"{run.path} is finished: {best['monitor']} {best['value']:.4f}. resume=never trains it afresh."]
    if config["test"] and list(metrics["scores"]) == ["val"]:
        told.append(f"only val is scored there; {evaluate} scores what there is of test, too.")
    for mode in checked_modes(config["modes"])[1:]:
        if not (place := run.path / "evaluations" / mode).is_dir():
            told.append(f"it is not scored in mode {mode}; {evaluate} mode={mode} out={place} does so.")
    print("\n".join(told), file=sys.stderr)
    return float(best["value"])


def checkpoint_to_resume(run: RunDir, config: dict[str, Any]) -> Path | None:
    """Where to go on: last.ckpt, best.ckpt where that one is damaged, None for a fresh start.

    Raises ValueError when there is nothing and `resume=must`, or nothing whole.
    """
    from src.weights import read_checkpoint

    damaged = ""
    for path in (run.last, run.best):
        if path.is_file():
            try:
                epoch = read_checkpoint(path)["epoch"]
            except ValueError as error:
                damaged = str(error)
                print(damaged, file=sys.stderr)
                continue
            print(f"resuming from {path}, epoch {epoch + 1}", file=sys.stderr)
            if (threads := run.config()["threads"]) != config["threads"]:
                print(
                    f"note: begun with {threads} threads, now {config['threads']}: the numbers will differ in their "
                    f"last digits. threads={threads} keeps them.",
                    file=sys.stderr,
                )
            return path
    if damaged:
        raise ValueError(f"{damaged} There is no other checkpoint in {run.path}; resume=never starts afresh.")
    if config["resume"] == "must":
        raise ValueError(f"resume=must, but {run.last} does not exist. Use resume=auto to start from scratch.")
    return None


def check_same_images(run: RunDir, contents: Mapping[str, str]) -> None:
    """ValueError where images or masks that the run was begun with have other content now (`DataSource.contents`)."""
    earlier = run.status().get("contents", {})
    if changed := [part for part, digest in contents.items() if earlier.get(part, digest) != digest]:
        raise ValueError(
            f"{run.path} was begun with other images or masks of {', '.join(changed)}: the files have the same names "
            "and another content now. Put the earlier ones back, or choose another run_dir, or resume=never to start "
            "afresh (the earlier run is kept beside it)."
        )


def tell_changes(run: RunDir, now: Mapping[str, Any]) -> None:
    """Says with which code, packages and machine the run was begun, where they are others now: its numbers may
    differ."""
    earlier = run.status()
    pairs = [("commit", short_commit(str(earlier.get("commit") or "")), short_commit(now["commit"]))]
    for group in ("versions", "machine"):
        held = earlier.get(group, {})
        pairs += [(name, held[name], value) for name, value in now[group].items() if name in held]
    changed = [f"{name} {then} -> {value}" for name, then, value in pairs if then and then != value]
    if changed:
        told = ", ".join(changed)
        print(f"note: this run was begun with other code, packages or hardware: {told}.", file=sys.stderr)
