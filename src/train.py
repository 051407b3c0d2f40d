"""Train one network on one dataset and leave a complete run directory behind.

python -m src.train model=emisnet data=kvasir_seg
"""

import os
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig

from src.cli import ConfigError, entry_point
from src.config import chosen, complete_config, user_errors
from src.files import read_csv, sweep, write_csv, write_json, write_text
from src.job import RunFailed, memory_errors, train_apart, train_told
from src.plan import planned
from src.provenance import machine, provenance
from src.resume import check_same_images, check_same_run, checkpoint_to_resume, set_aside, tell_changes, tell_finished
from src.rundir import RunDir
from src.runlog import logged_to
from src.slurm import in_grace
from src.study import settings_to_compare

if TYPE_CHECKING:  # imported inside functions otherwise, so that --help does not wait for torch
    import lightning.pytorch as pl

    from src.callbacks import GracefulStop
    from src.data.datamodule import SegmentationDataModule
    from src.lineage import Ancestor
    from src.models.cost import Cost
    from src.task import SegmentationTask

PANEL = 8  # overlays sent to the logger


def train(config: dict[str, Any], *, wait: bool = False) -> float:
    """Build, fit, score; returns the best value of `monitor`, for sweepers.

    Called again, it returns at once when the run is finished, and goes on where it stopped when it is not. With `wait`
    it waits for a process that is training in the same directory, which is an error otherwise.

    Raises:
        ConfigError: bad config or data; nothing is trained.
        FloatingPointError: the loss became NaN or infinite; the last good checkpoint stands.
        OutOfMemory: of this machine or its GPU; so it does then, too.
        SystemExit: 130 or 143 after SIGINT or SIGTERM (138, 140 after USR1, USR2); what was trained is saved.
    """
    from src.callbacks import GracefulStop

    run = RunDir(Path(config["run_dir"]))
    stop = GracefulStop(run)
    try:
        with stop, memory_errors(run):
            return _train(config, run, stop, wait=wait)
    except BaseException as error:
        if stop.received is None:
            raise
        # whatever surfaced: a library that was interrupted may dress the SystemExit up as an error of its own
        saved = "saved" if run.last.is_file() else "nothing trained yet"
        print(f"interrupted ({saved}); the same command goes on from there: {run.path}", file=sys.stderr)
        stop.pass_on(requeue=in_grace())  # under submitit the job is requeued, and this process ends here
        raise SystemExit(128 + stop.received) from error


def _train(config: dict[str, Any], run: RunDir, stop: "GracefulStop", *, wait: bool) -> float:
    """`train`, where a stop signal raises SystemExit."""
    from hydra.utils import instantiate

    from src.assemble import make_net, make_task, make_teacher, start_weights
    from src.build import pin_threads, weights_file
    from src.data.sampler import Share
    from src.lineage import faults, identity, lineage, refuse_seen
    from src.weights import sha256

    pin_threads(config["threads"])  # here too: a study's run comes with its config to a process of its own
    with user_errors():
        source = instantiate(config["data"])
        source.setup("fit")
        source.spread(Share(0, config["trainer"]["devices"]))
        try:
            lock = run.claim(wait=wait)
        except OSError as error:
            raise ValueError(
                f"{run.path} cannot be made ({error.strerror}). Choose another run_dir=... or runs=..."
            ) from error
    for folder in (run.path, run.path / "checkpoints", run.figures):
        sweep(folder)
    try:
        with user_errors():
            if config["resume"] == "never" and run.status():
                lock = set_aside(run, lock)
            check_same_run(run, config, source)
            if run.status().get("state") == "finished":
                return tell_finished(run, config)
            contents = source.contents(list(source.parts))
            check_same_images(run, contents)
            checkpoint = checkpoint_to_resume(run, config)
        with logged_to(run.path / "train.log"):
            with user_errors():
                net, cost = make_net(config, source, started=checkpoint is None)
                if not checkpoint and (file := weights_file(config["model"])):
                    contents["encoder_weights"] = sha256(file)
                learned_from = lineage(run, config, resuming=checkpoint is not None)
                data = identity(config["data"], source.dataset)
                refuse_seen(faults(learned_from, source.split, data, source.groups()), allowed=source.allow_leaks)
                if config["init"] is not None and not checkpoint:
                    start_weights(config, net)
                task = make_task(config, net, source, make_teacher(config, source))
            return _attempt(config, run, stop, source, task, cost, checkpoint, learned_from, contents)
    except (ConfigError, InstantiationException, SystemExit):
        run.discard_if_empty()
        raise
    finally:
        lock.close()


def _attempt(
    config: dict[str, Any],
    run: RunDir,
    stop: "GracefulStop",
    source: "SegmentationDataModule",
    task: "SegmentationTask",
    cost: "Cost",
    checkpoint: Path | None,
    learned_from: "Sequence[Ancestor]",
    contents: dict[str, str],
) -> float:
    """One attempt at a run; whatever ends it is written into status.json."""
    from src import loggers
    from src.assemble import make_logger
    from src.lineage import LINEAGE, lineage_json

    logger: Any = False
    begun = {**provenance(), "machine": machine(config["trainer"]["accelerator"]), "contents": contents}
    try:
        with memory_errors(run):
            tell_changes(run, begun)
            run.mark("running", **begun)
            begun["contents"] = run.status()["contents"]  # with the earlier ones of what is not at hand now
            write_text(run.path / "config.yaml", yaml.safe_dump(config, sort_keys=False))
            write_text(run.path / "split.json", source.split.to_json())
            if learned_from and not checkpoint:
                write_text(run.path / LINEAGE, lineage_json(learned_from))
            stages = [{"module": name, "params": n, "macs": m, "flops": 2 * m} for name, n, m in cost.rows(3)]
            write_csv(run.path / "cost.csv", stages)
            notes = [*source.notes(test=config["test"]), *source.leak_notes(), *map(str, learned_from)]
            _tell_about_data(source, notes)
            logger = make_logger(config, cost)
            trainer, seconds = _fit(config, run, source, task, logger, stop, checkpoint, begun)
            value = _score(
                config, run, logger, cost, {"seconds_of_last_attempt": seconds, "notes": notes, **begun}, trainer
            )
            run.mark("finished", exit_code=0, **begun)
    except BaseException as error:
        state, reason, code = _how_it_ended(error, stop)
        with suppress(OSError):  # of a full disk, say: it must not hide the error, nor leave the logger open
            run.mark(state, reason=reason, exit_code=code, **begun)
            if state == "failed":
                write_text(run.path / "traceback.txt", traceback.format_exc())
        loggers.finish(logger, exit_code=code)
        raise
    loggers.finish(logger, exit_code=0)
    return value


def _how_it_ended(error: BaseException, stop: "GracefulStop") -> tuple[str, str, int]:
    """State, reason and exit code, for status.json."""
    if stop.received is not None:
        return "interrupted", f"signal {stop.received}", 128 + stop.received
    code = 2 if isinstance(error, ConfigError | InstantiationException) else 1
    return "failed", f"{type(error).__name__}: {error}", code


def _fit(
    config: dict[str, Any],
    run: RunDir,
    source: "SegmentationDataModule",
    task: "SegmentationTask",
    logger: Any,
    stop: "GracefulStop",
    checkpoint: Path | None,
    made_with: dict[str, Any],
) -> "tuple[pl.Trainer, float]":
    """Trains to the end, on all devices; returns the trainer and the seconds of this attempt."""
    from src.assemble import make_trainer
    from src.ranks import leading

    def give_up(reason: str) -> None:
        run.mark("failed", reason=reason, exit_code=1, **made_with)

    begun = time.perf_counter()
    with leading(run.path, config["trainer"]["devices"], checkpoint, give_up) as seat:
        trainer = make_trainer(config, run, logger, stop, seat)
        trainer.fit(task, datamodule=source, ckpt_path=checkpoint, weights_only=True)
    return trainer, round(time.perf_counter() - begun, 1)


def _score(
    config: dict[str, Any], run: RunDir, logger: Any, cost: "Cost", attempt: dict[str, Any], trainer: "pl.Trainer"
) -> float:
    """Scores the best checkpoint at native size; writes metrics, rows and pictures and says where they are."""
    from src import loggers
    from src.assemble import variant_of
    from src.evaluate import evaluate_run, keep_evaluation
    from src.figures import plot_curves
    from src.inference import checked_modes
    from src.tables import print_scores, write_evaluation
    from src.weights import read_checkpoint

    history = read_csv(run.path / "history.csv")
    epoch = read_checkpoint(run.best)["epoch"]
    value = float(next(row for row in history if int(row["epoch"]) == epoch)[config["monitor"]])
    parts = None if config["test"] else ["val"]
    device = str(trainer.strategy.root_device)
    evaluation = evaluate_run(run.path, parts=parts, device=device, choose=True)
    metrics = {
        **evaluation.numbers(),
        "best": {"monitor": config["monitor"], "value": value, "epoch": epoch},
        "seed": config["seed"],
        "cost": {"params": cost.params, "macs": cost.macs, "flops": cost.flops, "input_shape": list(cost.input_shape)},
        "threads": config["threads"],
        **attempt,
    }
    write_json(run.path / "metrics.json", metrics)
    write_evaluation(evaluation, run.path, run.path.name)
    plot_curves(history, run.figures / "curves.png", config["monitor"], epoch)
    part = list(evaluation.scores)[-1]
    native = {
        loggers.score_key(part, name): value
        for part, row in evaluation.scores.items()
        for name, value in row.items()
        if value is not None
    }
    loggers.log_summary(logger, native | dict(zip(loggers.BEST, (value, epoch + 1), strict=True)))
    costs = {loggers.cost_key(key): getattr(cost, key) for key in ("params", "macs")}
    loggers.log_hparams(logger, settings_to_compare(config, variant_of(config)), native | costs)
    loggers.log_overlays(logger, evaluation.samples([row for row in evaluation.rows if row["part"] == part][:PANEL]))
    print_scores(evaluation, f"{run.path.name}: {cost.params / 1e6:.3f} M params, {cost.macs / 1e9:.3f} GMACs")
    for mode in checked_modes(config["modes"])[1:]:
        further = evaluate_run(run.path, parts=parts, device=device, mode=mode, choose=True)
        keep_evaluation(further, run.path / "evaluations" / mode, f"{run.path.name}, {mode}")
        print_scores(further, run.path.name)
    print(f"best {config['monitor']} {value:.4f} (at training size) in epoch {epoch + 1}")
    print(f"run directory: {run.path}\npictures: {run.figures / 'overlays.png'}  {run.figures / 'curves.png'}")
    return value


def _tell_about_data(source: "SegmentationDataModule", notes: Sequence[str]) -> None:
    sizes = ", ".join(f"{part} {len(ids)}" for part, ids in source.parts.items())
    print(f"{source.dataset}, split {source.split.name} ({source.split.hash}): {sizes}", file=sys.stderr)
    for note in notes:
        print(f"note: {note}.", file=sys.stderr)


def _run(cfg: DictConfig) -> float:
    hydra = HydraConfig.get()
    multirun = hydra.mode == RunMode.MULTIRUN
    config = complete_config(cfg, chosen(hydra), multirun=multirun, overrides=list(hydra.overrides.task))
    if not multirun:
        if config["plan"]:
            raise ConfigError("plan=true is of a multirun: give a study (experiment=...), or several values and -m.")
        return train(config)
    if "SUBMITIT_EXECUTOR" in os.environ:  # a Slurm job is a process of its own already
        return train_told(config)
    try:
        return train_apart(config, worker="basic_launcher" not in hydra.launcher._target_)
    except RunFailed as error:
        if config["fail_fast"]:
            print(f"fail_fast=true: {error}", file=sys.stderr)
            raise SystemExit(1) from error
        raise


main = entry_point("train", _run, around=planned)

if __name__ == "__main__":
    main()
