"""From a composed config to the plain, complete one that a run is trained with; what cannot work is refused here."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import MissingMandatoryValue

from src.bounds import Bound, check_bounds
from src.cli import ConfigError, did_you_mean
from src.preflight import CONFIG_DIR
from src.rundir import RESUME, run_hash
from src.secret import check_secrets
from src.trusted import check_targets

SWITCHES = ("deep_supervision", "channels_last", "compile", "test", "plan", "fail_fast", "allow_same")


def chosen(hydra: Any) -> dict[str, str]:
    """The option chosen of each of our groups, from Hydra's own part of a config."""
    return {str(group): str(name) for group, name in hydra.runtime.choices.items() if not group.startswith("hydra")}


def complete_config(
    cfg: DictConfig, choices: Mapping[str, str], *, multirun: bool, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """The plain, resolved config of a run with its open ends tied: mode, test, threads, widths, run directory.

    `overrides` are what was typed and what the sweep chose for this run; they name its variant in tables.

    Raises ConfigError for a value that cannot work, or a budget that no width meets.
    """
    from src.build import pin_threads, solve_width

    cfg = cfg.copy()
    with open_dict(cfg), user_errors():
        cfg.choices, cfg.overrides = dict(choices), list(overrides)  # first: a study's name holds the data's choice
        cfg.mode = cfg.mode or ("min" if cfg.monitor.endswith("loss") else "max")
        cfg.test = not multirun if cfg.test is None else cfg.test
        given = plain(cfg)
        for check in (check_targets, check_bounds, check_secrets, _check):
            check(given)
        cfg.threads = pin_threads(cfg.threads, processes=cfg.trainer.devices)
        cfg.model = solve_width(plain(cfg.model), cfg.data.size, cfg.reference and plain(cfg.reference))
        name = f"{choices['model']}-{run_hash(plain(cfg))}-seed{cfg.seed}"
        cfg.run_dir = cfg.run_dir or str(Path(cfg.runs) / (cfg.study or choices["data"]) / name)
        cfg.run_name = cfg.run_name or Path(cfg.run_dir).name
        return plain(cfg)


def composed(*overrides: str, multirun: bool = False) -> dict[str, Any]:
    """The complete config that `python -m src.train <overrides>` would train with: for notebooks and tests.

    Raises ConfigError as `complete_config`, and Hydra's errors for keys and options that do not exist.
    """
    with initialize_config_dir(str(CONFIG_DIR.resolve()), version_base="1.3"):
        cfg = compose("train", list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        choices = chosen(cfg.hydra)
        with open_dict(cfg):
            del cfg["hydra"]
        return complete_config(cfg, choices, multirun=multirun, overrides=overrides)


@contextmanager
def beside_hydra() -> Iterator[None]:
    """In here an entry point may use `preflight` and `composed` for other configs than its own: Hydra holds one."""
    held, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra, HydraConfig.instance().cfg = held, config


def _check(config: Mapping[str, Any]) -> None:
    """ValueError for what would otherwise fail late, or pass and mean something else (`test=no` is a truthy word)."""
    from src.inference import checked_modes
    from src.schedules import SHAPES
    from src.task import METRICS

    if config["monitor"] not in METRICS:
        hint = did_you_mean(config["monitor"], METRICS)
        raise ValueError(f"monitor={config['monitor']} is not a metric. {hint} Possible: {', '.join(METRICS)}.")
    if config["resume"] not in RESUME:
        raise ValueError(f"resume={config['resume']} is not possible. Use {', '.join(RESUME)}.")
    check_switches(config, *SWITCHES)
    for key in ("init", "teacher"):
        if config[key] is not None and (not isinstance(config[key], str) or not config[key]):
            raise ValueError(f"{key}={config[key]} is not possible; it is null, or a run directory, bundle or name.")
        if str(config[key]).endswith(".onnx"):
            raise ValueError(f"{key}={config[key]}: an ONNX file has no weights to train with. Give the run or bundle.")
    shape = config["schedule"].get("shape", "cosine")
    if shape not in SHAPES:
        raise ValueError(f"schedule.shape={shape} is not known. {did_you_mean(shape, SHAPES)} Use {', '.join(SHAPES)}.")
    checked_modes(config["modes"])
    trainer = config["trainer"]
    if not isinstance(trainer["devices"], int) or isinstance(trainer["devices"], bool) or trainer["devices"] < 1:
        raise ValueError(
            f"trainer.devices={trainer['devices']} is not possible; it is the number of devices, from 1 up. Which "
            "GPUs: CUDA_VISIBLE_DEVICES=2,3 before the command."
        )
    if trainer["accelerator"] in ("gpu", "cuda"):
        _check_gpu(trainer["accelerator"])
    if trainer["devices"] > 1:
        _check_several_devices(config)
    if trainer.get("check_val_every_n_epoch", 1) != 1 or trainer["limit_val_batches"] == 0:
        raise ValueError("a run validates after every epoch: validation selects the checkpoint. Leave it on.")


def listed(cfg: DictConfig, key: str) -> list[str]:
    """The words of a key that may be null, one word or a list."""
    value = cfg[key]
    return [] if value is None else [value] if isinstance(value, str) else [str(item) for item in value]


def check_switches(config: Mapping[str, Any], *keys: str) -> None:
    """ValueError for a key that is no bool: any other word would count as true."""
    for key in keys:
        if not isinstance(config[key], bool):
            raise ValueError(f"{key}={config[key]} is neither true nor false.")


def check_number(config: Mapping[str, Any], key: str, least: float, *, whole: bool, optional: bool = False) -> None:
    """ValueError for a value that is no number, no whole one where that is asked for, or less than `least`."""
    bound = Bound(whole=whole, least=least, optional=optional)
    if not bound.allows(config[key]):
        raise ValueError(f"{key}={config[key]} is not possible; it is {bound}.")


def _check_gpu(accelerator: str) -> None:
    import torch

    if not torch.cuda.is_available():
        raise ValueError(f"trainer.accelerator={accelerator}, but no GPU is visible here. Use auto or cpu.")


def _check_several_devices(config: Mapping[str, Any]) -> None:
    import torch

    trainer, devices = config["trainer"], config["trainer"]["devices"]
    if trainer["limit_val_batches"] != 1.0:
        raise ValueError(f"trainer.limit_val_batches needs one device; {devices} share all images among them.")
    if trainer.get("num_nodes", 1) != 1 or trainer.get("strategy", "auto") not in ("auto", "ddp"):
        raise ValueError("several devices train with DDP on one machine: leave out trainer.num_nodes and strategy.")
    if trainer["accelerator"] in ("auto", "gpu", "cuda") and 0 < torch.cuda.device_count() < devices:
        raise ValueError(f"trainer.devices={devices}, but {torch.cuda.device_count()} GPUs are visible here.")


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Resolved, in plain values. MissingMandatoryValue where a `???` is left."""
    container = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


@contextmanager
def user_errors() -> Iterator[None]:
    """A ValueError or a missing value in here is the user's to mend: message only, exit code 2."""
    try:
        yield
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} needs a value: {error.full_key}=...") from error
    except ValueError as error:
        raise ConfigError(str(error)) from error
