"""The parts of a training, built from a complete config: network, task, trainer, logger."""

import os
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.utils import instantiate
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging, RichProgressBar
from torch import nn

from src import loggers
from src.build import build_net
from src.callbacks import AtomicCheckpointIO, EpochLines, GracefulStop, History, StepSeed
from src.data.datamodule import SegmentationDataModule
from src.distillation import Teacher
from src.losses import DeepSupervision
from src.models.cost import Cost, measure_cost
from src.ranks import Seat
from src.rundir import RunDir
from src.study import planned_variant
from src.task import SegmentationTask
from src.trained import open_trained, run_and_weights
from src.weights import start_from


def make_net(config: dict[str, Any], source: SegmentationDataModule, *, started: bool = True) -> tuple[nn.Module, Cost]:
    """`started=False`: all weights will come from a checkpoint, or from rank 0."""
    seed_everything(config["seed"], workers=True, verbose=False)
    net = build_net(config["model"], started=started)
    if net.num_classes != 1:
        raise ValueError(f"model.num_classes={net.num_classes}: the datasets here are binary. Use 1.")
    if net.in_channels != len(source.mean):
        raise ValueError(f"model.in_channels={net.in_channels}, but images have {len(source.mean)} channels.")
    if config["deep_supervision"] and not getattr(net, "aux_heads", None):
        raise ValueError("deep_supervision=true needs a network with auxiliary heads, such as model=emisnet.")
    return net, measure_cost(net, (1, len(source.mean), *source.size))


def start_weights(config: dict[str, Any], net: nn.Module) -> None:
    """Puts the weights of `init` into the network, and says which have none there. ValueError as `start_from`."""
    _, weights = run_and_weights(config["init"])
    if fresh := start_from(weights, net):
        shown = ", ".join(fresh[:4]) + (", ..." if len(fresh) > 4 else "")
        print(f"note: init={config['init']} has no counterpart of {len(fresh)} tensors ({shown}).", file=sys.stderr)


def make_teacher(config: dict[str, Any], source: SegmentationDataModule) -> Teacher | None:
    """None where the config names none. ValueError as `open_trained`, and for one that takes other images."""
    if config["teacher"] is None:
        return None
    try:
        trained = open_trained(config["teacher"])
    except ValueError as error:
        raise ValueError(f"teacher={config['teacher']}: {error}") from error
    if len(trained.mean) != len(source.mean):
        raise ValueError(
            f"teacher={config['teacher']} takes images of {len(trained.mean)} channels, these have {len(source.mean)}."
        )
    return Teacher(trained.net, size=trained.size, mean=trained.mean, std=trained.std)


def make_task(
    config: dict[str, Any], net: nn.Module, source: SegmentationDataModule, teacher: Teacher | None = None
) -> SegmentationTask:
    loss = instantiate(config["loss"])
    if config["compile"]:
        net.compile()  # in place: torch.compile(net) would rename every weight in the checkpoint
    return SegmentationTask(
        net=net,
        loss=DeepSupervision(loss) if config["deep_supervision"] else loss,
        optimizer=instantiate(config["optim"]),
        scheduler=instantiate(config["schedule"]),
        train_batches=source.train_batches,
        mean=source.mean,
        std=source.std,
        channels_last=config["channels_last"],
        teacher=teacher,
        teacher_weight=config["teacher_weight"],
    )


def make_trainer(
    config: dict[str, Any], run: RunDir, logger: Any, stop: GracefulStop | None, seat: Seat | None
) -> pl.Trainer:
    """`seat` is None on one device; `stop` is rank 0's, as all that is shown."""
    trainer = dict(config["trainer"])
    callbacks = [instantiate(callback) for callback in trainer.pop("callbacks").values() if callback]
    history = History(run)
    callbacks += [StepSeed(config["seed"]), history]
    bar = trainer.pop("enable_progress_bar")
    if bar and stop:
        on_terminal = sys.stderr.isatty() and sys.stdout.isatty()
        callbacks.append(RichProgressBar() if on_terminal else EpochLines(config["monitor"], history))
    if config["ema"]:
        callbacks.append(EMAWeightAveraging(decay=config["ema"]))
    if stop:
        callbacks.append(stop)  # last: what it saves must hold what the others did in the step
    # our samplers share the images; Lightning's would repeat some
    several = {"strategy": seat.strategy(), "use_distributed_sampler": False} if seat else {}
    plugins: list[Any] = [AtomicCheckpointIO()]
    if not seat and "SLURM_JOB_ID" in os.environ and SLURMEnvironment.detect():
        # Lightning would requeue the job itself, from each of its processes, with a checkpoint of its own
        plugins.append(SLURMEnvironment(auto_requeue=False))
    # `deterministic` would have every new tensor filled with NaN, lest memory that nobody wrote be read. No network
    # here reads any (a test compares their gradients), and a quarter of a training step on the CPU went into it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # not in its stub
    return instantiate(
        trainer,
        **several,
        callbacks=callbacks,
        logger=logger,
        plugins=plugins,
        enable_progress_bar=any(isinstance(callback, RichProgressBar) for callback in callbacks),
        _convert_="all",
    )


def make_logger(config: dict[str, Any], cost: Cost) -> Any:
    logger: Any = instantiate(config["logger"]) if config["logger"].get("_target_") else False
    shown = {**config, "variant": variant_of(config)}
    loggers.log_config(logger, shown, {"params": cost.params, "macs": cost.macs, "flops": cost.flops})
    return logger


def variant_of(config: dict[str, Any]) -> str:
    """What to group a run's seeds by in a dashboard: its study's name for it; of a trial of a search the run's own; of
    a run of no study the model's."""
    run_dir = Path(config["run_dir"])
    own = run_dir.name.rpartition("-seed")[0] if config["study"] else config["choices"]["model"]
    return planned_variant(run_dir) or own
