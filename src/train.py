"""Train one network on one dataset and leave a complete run directory behind.

python -m src.train model=emisnet data=kvasir_seg
"""

import logging
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from src.cli import ConfigError, did_you_mean, entry_point
from src.rundir import RESUME, RunDir, differences, provenance, run_hash, write_json, write_text

if TYPE_CHECKING:  # imported inside functions otherwise, so that --help does not wait for torch
    import lightning.pytorch as pl
    from torch import nn

    from src.data.datamodule import SegmentationDataModule
    from src.models.cost import Cost
    from src.task import SegmentationTask

# What Lightning says of a small run on purpose, every time.
QUIET = (
    ".*does not have many workers.*",
    ".*smaller than the logging interval.*",
    ".*Checkpoint directory .* exists.*",
    ".*resuming from a checkpoint that ended before the epoch ended.*",  # exactly what our sampler is for
    ".*isinstance.*LeafSpec.*",
)
PANEL = 8  # overlays sent to the logger


def complete_config(cfg: DictConfig, choices: Mapping[str, str], *, multirun: bool) -> dict[str, Any]:
    """The plain, resolved config of a run with its open ends tied: mode, test, threads, widths, run directory.

    Raises ConfigError for a monitor or resume mode that does not exist, or a budget that no width meets.
    """
    from src.build import pin_threads, solve_width
    from src.task import METRICS

    if cfg.monitor not in METRICS:
        hint = did_you_mean(cfg.monitor, METRICS)
        raise ConfigError(f"monitor={cfg.monitor} is not a metric. {hint} Possible: {', '.join(METRICS)}.")
    if cfg.resume not in RESUME:
        raise ConfigError(f"resume={cfg.resume} is not possible. Use {', '.join(RESUME)}.")
    cfg = cfg.copy()
    with open_dict(cfg), user_errors():
        cfg.mode = cfg.mode or ("min" if cfg.monitor.endswith("loss") else "max")
        cfg.test = not multirun if cfg.test is None else cfg.test
        cfg.threads = pin_threads(cfg.threads)
        cfg.model = solve_width(_plain(cfg.model), cfg.data.size)
        name = f"{choices['model']}-{run_hash(_plain(cfg))}-seed{cfg.seed}"
        cfg.run_dir = cfg.run_dir or str(Path(cfg.runs) / (cfg.study or choices["data"]) / name)
        cfg.run_name = cfg.run_name or Path(cfg.run_dir).name
        cfg.choices = dict(choices)
    return _plain(cfg)


def train(config: dict[str, Any]) -> float:
    """Build, fit, score; returns the best value of `monitor`, for sweepers.

    Called again, it returns at once when the run is finished, and goes on where it stopped when it is not.

    Raises:
        ConfigError: bad config or data, before anything is written.
        FloatingPointError: the loss became NaN or infinite; the last good checkpoint stands.
        SystemExit: 130 or 143 after SIGINT or SIGTERM, with everything saved.
    """
    from hydra.utils import instantiate

    with user_errors():
        source = instantiate(config["data"])
        source.setup("fit")
        run = RunDir(Path(config["run_dir"]))
        if config["resume"] == "never" and run.status():
            print(f"resume=never: the earlier run is kept in {run.set_aside()}", file=sys.stderr)
        checkpoint = _checkpoint_to_resume(run, config)
        lock = run.claim()
    try:
        if run.status().get("state") == "finished":
            best = run.metrics()["best"]
            print(f"{run.path} is finished: {best['monitor']} {best['value']:.4f}. resume=never trains it afresh.")
            return float(best["value"])
        with _logged_to(run.path / "train.log"):
            return _attempt(config, run, source, checkpoint)
    finally:
        lock.close()


def _attempt(config: dict[str, Any], run: RunDir, source: "SegmentationDataModule", checkpoint: Path | None) -> float:
    """One attempt at a run; whatever ends it is written into status.json."""
    from src import loggers

    logger: Any = False
    try:
        run.mark("running")
        write_text(run.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))
        write_text(run.path / "split.json", source.split.to_json())
        _tell_about_data(source, config)
        net, cost = _make_net(config, source)
        logger = _make_logger(config, cost)
        seconds = _fit(config, run, source, net, logger, checkpoint)
        value = _score(config, run, logger, cost, seconds)
        run.mark("finished", exit_code=0)
        loggers.finish(logger, exit_code=0)
        return value
    except SystemExit as stop:
        code = int(stop.code or 0)
        run.mark("interrupted", reason=f"signal {code - 128}", exit_code=code)
        loggers.finish(logger, exit_code=code)
        print(f"interrupted and saved; the same command goes on from there: {run.path}", file=sys.stderr)
        raise
    except BaseException as error:
        run.mark("failed", reason=f"{type(error).__name__}: {error}", exit_code=1)
        write_text(run.path / "traceback.txt", traceback.format_exc())
        loggers.finish(logger, exit_code=1)
        raise


def _fit(
    config: dict[str, Any],
    run: RunDir,
    source: "SegmentationDataModule",
    net: "nn.Module",
    logger: Any,
    checkpoint: Path | None,
) -> float:
    """Trains to the end; returns the seconds of this attempt."""
    from src.callbacks import GracefulStop

    stop = GracefulStop(run)
    trainer = _make_trainer(config, run, logger, stop)
    begun = time.perf_counter()
    trainer.fit(_make_task(config, net, source), datamodule=source, ckpt_path=checkpoint, weights_only=True)
    if stop.received is not None:  # it came after the last step: all that is trained is saved
        raise SystemExit(128 + stop.received)
    return time.perf_counter() - begun


def _make_net(config: dict[str, Any], source: "SegmentationDataModule") -> "tuple[nn.Module, Cost]":
    from lightning.pytorch import seed_everything

    from src.build import build_net
    from src.models.cost import measure_cost

    seed_everything(config["seed"], workers=True, verbose=False)
    with user_errors():
        net = build_net(config["model"])
        if net.num_classes != 1:
            raise ValueError(f"model.num_classes={net.num_classes}: the datasets here are binary. Use 1.")
        if config["deep_supervision"] and getattr(net, "aux_heads", None) is None:
            raise ValueError("deep_supervision=true needs a network with auxiliary heads, such as model=emisnet.")
    return net, measure_cost(net, (1, config["model"]["in_channels"], *source.size))


def _make_task(config: dict[str, Any], net: "nn.Module", source: "SegmentationDataModule") -> "SegmentationTask":
    from hydra.utils import instantiate

    from src.losses import DeepSupervision
    from src.task import SegmentationTask

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
    )


def _make_trainer(config: dict[str, Any], run: RunDir, logger: Any, stop: Any) -> "pl.Trainer":
    from hydra.utils import instantiate
    from lightning.pytorch.callbacks import EMAWeightAveraging, RichProgressBar

    from src.callbacks import AtomicCheckpointIO, EpochLines, History, StepSeed

    trainer = dict(config["trainer"])
    callbacks = [instantiate(callback) for callback in trainer.pop("callbacks").values() if callback]
    history = History(run)
    callbacks += [StepSeed(config["seed"]), history]
    bar = trainer.pop("enable_progress_bar")
    if bar:
        on_terminal = sys.stderr.isatty() and sys.stdout.isatty()
        callbacks.append(RichProgressBar() if on_terminal else EpochLines(config["monitor"], history))
    if config["ema"]:
        callbacks.append(EMAWeightAveraging(decay=config["ema"]))
    callbacks.append(stop)  # last: what it saves must hold what the others did in the step
    return instantiate(
        trainer,
        callbacks=callbacks,
        logger=logger,
        plugins=[AtomicCheckpointIO()],
        enable_progress_bar=any(isinstance(callback, RichProgressBar) for callback in callbacks),
        _convert_="all",
    )


def _make_logger(config: dict[str, Any], cost: "Cost") -> Any:
    from hydra.utils import instantiate

    from src import loggers

    logger: Any = instantiate(config["logger"]) if config["logger"].get("_target_") else False
    loggers.log_config(logger, config, {"params": cost.params, "macs": cost.macs, "flops": cost.flops})
    return logger


def _score(config: dict[str, Any], run: RunDir, logger: Any, cost: "Cost", seconds: float) -> float:
    """Scores the best checkpoint at native size; writes metrics, rows and pictures and says where they are."""
    from src import loggers
    from src.evaluate import evaluate_run, print_scores, write_evaluation
    from src.figures import plot_curves
    from src.rundir import read_csv

    history = read_csv(run.path / "history.csv")
    choose = min if config["mode"] == "min" else max
    best = choose(history, key=lambda row: float(row[config["monitor"]]))
    value = float(best[config["monitor"]])
    evaluation = evaluate_run(run.path, parts=None if config["test"] else ["val"])
    metrics = {
        "scores": evaluation.scores,
        "protocol": evaluation.protocol,
        "best": {"monitor": config["monitor"], "value": value, "epoch": int(best["epoch"])},
        "seed": config["seed"],
        "cost": {"params": cost.params, "macs": cost.macs, "flops": cost.flops, "input_shape": list(cost.input_shape)},
        "threads": config["threads"],
        "seconds_of_last_attempt": round(seconds, 1),
        **provenance(),
    }
    write_json(run.path / "metrics.json", metrics)
    write_evaluation(evaluation, run.path, run.path.name)
    plot_curves(history, run.figures / "curves.png", config["monitor"])
    part = list(evaluation.scores)[-1]
    native = {f"{part}_native/{name}": value for part, row in evaluation.scores.items() for name, value in row.items()}
    loggers.log_summary(logger, native)
    loggers.log_overlays(logger, evaluation.samples([row for row in evaluation.rows if row["part"] == part][:PANEL]))
    print_scores(evaluation, f"{run.path.name}: {cost.params / 1e6:.3f} M params, {cost.macs / 1e9:.3f} GMACs")
    print(f"best {config['monitor']} {value:.4f} (at training size) in epoch {int(best['epoch']) + 1}")
    print(f"run directory: {run.path}\npictures: {run.figures / 'overlays.png'}  {run.figures / 'curves.png'}")
    return value


def _checkpoint_to_resume(run: RunDir, config: dict[str, Any]) -> Path | None:
    """Where to go on: last.ckpt, best.ckpt where that one is damaged, None for a fresh start.

    Raises ValueError when there is nothing and `resume=must`, nothing whole, or the directory is of another config.
    """
    from src.inference import read_checkpoint

    if (run.path / "config.yaml").is_file() and (changed := differences(run.config(), config)):
        raise ValueError(
            f"{run.path} holds a run of another config; it differs in {', '.join(changed[:8])}. "
            "Choose another run_dir, or resume=never to start afresh (the earlier run is kept beside it)."
        )
    damaged = ""
    for path in (run.last, run.best):
        if path.is_file():
            try:
                epoch = read_checkpoint(path)["epoch"]
            except ValueError as error:
                damaged = str(error)
                print(f"{damaged}", file=sys.stderr)
                continue
            if run.status().get("state") != "finished":
                print(f"resuming from {path}, epoch {epoch + 1}", file=sys.stderr)
                if (threads := run.config()["threads"]) != config["threads"]:
                    print(
                        f"note: begun with {threads} threads, now {config['threads']}: the numbers will differ in the "
                        f"last digits. threads={threads} keeps them.",
                        file=sys.stderr,
                    )
            return path
    if damaged:
        raise ValueError(f"{damaged} There is no other checkpoint in {run.path}; resume=never starts afresh.")
    if config["resume"] == "must":
        raise ValueError(f"resume=must, but {run.last} does not exist. Use resume=auto to start from scratch.")
    return None


def _tell_about_data(source: "SegmentationDataModule", config: dict[str, Any]) -> None:
    """One line on what is trained on, and one for everything a reader would otherwise not notice."""
    sizes = ", ".join(f"{part} {len(ids)}" for part, ids in source.parts.items())
    print(f"{source.dataset}, split {source.split.name} ({source.split.hash[:12]}): {sizes}", file=sys.stderr)
    for part in source.parts:
        if config["test"] and part.startswith("test") and (absent := source.absent(part)):
            print(
                f"note: {len(absent)} of {len(source.parts[part])} images of {part} are not on disk; it is not scored "
                "after training.",
                file=sys.stderr,
            )
    if unlisted := source.unlisted():
        print(
            f"note: {len(unlisted)} images on disk are in no part of this split, such as {unlisted[0]}.",
            file=sys.stderr,
        )
    if source.caveat:
        print(f"note: {source.caveat}.", file=sys.stderr)


@contextmanager
def user_errors() -> Iterator[None]:
    """A ValueError in here is the user's to mend: message only, exit code 2."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(str(error)) from error


@contextmanager
def _logged_to(path: Path) -> Iterator[None]:
    """Logging and warnings also go to `path`."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its notes on hardware and products
    logging.captureWarnings(True)
    with warnings.catch_warnings():
        warnings.formatwarning = lambda message, category, *_: f"{category.__name__}: {message}"
        for message in QUIET:
            warnings.filterwarnings("ignore", message)
        try:
            yield
        finally:
            logging.captureWarnings(False)
            logging.getLogger().removeHandler(handler)
            handler.close()


def _plain(cfg: DictConfig) -> dict[str, Any]:
    container = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _run(cfg: DictConfig) -> float:
    hydra = HydraConfig.get()
    choices = {str(group): str(name) for group, name in hydra.runtime.choices.items() if not group.startswith("hydra")}
    return train(complete_config(cfg, choices, multirun=hydra.mode == RunMode.MULTIRUN))


main = entry_point("train", _run)

if __name__ == "__main__":
    main()
