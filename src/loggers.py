"""Where a run's numbers go: W&B (online or offline), CSV, TensorBoard or nowhere.

Unusual here: the W&B run is started by us and handed to Lightning. Lightning alone would ask for a key, wait for a dead
server, and write into whichever W&B run the process had left open. Every function also takes False or None (no logger).
"""

from __future__ import annotations

import logging
import netrc
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from src.secret import NAME as SECRET_NAME

# Before W&B is imported: its error telemetry held the exit of the process for 20 s when the server did not answer.
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

log = logging.getLogger(__name__)

AnyLogger = Logger | Literal[False] | None
MODES = ("auto", "online", "offline")
FINISH_SECONDS = 60.0  # how long the end of an online run may wait for its upload; what is missing stays on disk
LONGEST_SIDE = 512
ID_FILE = "wandb_id.txt"  # in the run directory: its W&B id
OVERLAYS = "overlays"  # where the pictures of masks stand
BEST = ("best/value", "best/epoch")  # of the monitored metric, in the summary; epochs count from 1
TAGGED = ("model", "data", "loss")  # groups whose choice is a tag
IN_HPARAMS = ("dice", "iou", "hd95")  # scores that TensorBoard's HParams tab compares; it shows no more at a glance


def wandb_logger(
    *,
    run_dir: str,
    project: str,
    entity: str | None = None,
    mode: str = "auto",
    name: str,
    group: str | None = None,
    job_type: str | None = None,
    tags: Sequence[str] = (),
    choices: Mapping[str, str] | None = None,
    init_timeout: float = 5.0,
) -> WandbLogger:
    """Starts the W&B run of `run_dir`, or continues it, and returns the Lightning logger that writes to it.

    `auto` is online if an API key is found and the server answers, else offline; WANDB_MODE wins over `auto`. Nothing
    is ever asked. A silent server costs `init_timeout` and about 3 s; W&B may add 10 s of grace, so keep it <= 5.

    `choices`, the chosen file of each config group, gives the tags that every run carries, and the group of a run that
    belongs to no study.

    Raises:
        ValueError: `mode` is none of MODES.
    """
    if mode not in MODES:
        raise ValueError(f"logger.mode is {mode!r}; possible: {', '.join(MODES)}.")
    if getattr(rank_zero_only, "rank", 0) != 0:  # one W&B run per training: Lightning's logger is inert in the others
        return WandbLogger(project=project, save_dir=run_dir)
    wandb = _wandb()
    # A run still open belongs to a job that never reached its `finish`: it died. Left open, it would swallow this one.
    _finish_wandb(exit_code=1)
    folder = Path(run_dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    choices = choices or {}
    carried = [choices[group] for group in TAGGED if group in choices]
    arguments: dict[str, Any] = {
        "dir": str(folder),
        "project": project,
        "entity": entity,
        "name": name,
        "group": group or choices.get("data"),
        "job_type": job_type,
        "tags": list(dict.fromkeys([*carried, *map(str, tags)])),
        "id": _run_id(folder),
        "settings": wandb.Settings(
            silent=True,  # again: the fallback's teardown forgets the one of `_wandb`
            console="off",
            init_timeout=init_timeout,
            finish_timeout=FINISH_SECONDS,
            finish_timeout_raises=True,
        ),
    }
    run = _start(wandb, _resolve_mode(wandb, mode), arguments)
    run.define_metric("train/*", step_metric="trainer/global_step")
    run.define_metric("val/*", step_metric="epoch")
    run.define_metric("val/dice", step_metric="epoch", summary="max")
    return WandbLogger(project=project, save_dir=str(folder), log_model=False, experiment=run)


def cost_key(name: str) -> str:
    """Where `params`, `macs` and `flops` stand in a run's summary."""
    return f"cost/{name}"


def score_key(part: str, metric: str) -> str:
    """Where a score at native size stands in a run's summary."""
    return f"{part}_native/{metric}"


def log_config(logger: AnyLogger, config: Mapping[str, Any], cost: Mapping[str, Any]) -> None:
    """Records the plain, resolved config and the model's cost (params, macs, ...). Secrets are left out."""
    if not logger:
        return
    shown = {**_hide_secrets(config), "cost": dict(cost)}
    if isinstance(logger, WandbLogger):
        logger.experiment.config.update(shown, allow_val_change=True)
        log_summary(logger, {cost_key(key): value for key, value in cost.items()})
    else:
        logger.log_hyperparams(shown)


def log_summary(logger: AnyLogger, metrics: Mapping[str, float]) -> None:
    """Records a run's final numbers: the W&B summary, else one more row or point per number."""
    if not logger:
        return
    if isinstance(logger, WandbLogger):
        logger.experiment.summary.update(dict(metrics))
    else:
        logger.log_metrics(dict(metrics))


def log_hparams(logger: AnyLogger, settings: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """What TensorBoard's HParams tab shows of a run: settings beside final numbers. Of other loggers nothing: they have
    both already.

    Once, at the end: TensorBoard shows no hyperparameters without metrics, and takes each call for another run.
    """
    if isinstance(logger, TensorBoardLogger):
        shown = {key: value for key, value in metrics.items() if key.rpartition("/")[2] in IN_HPARAMS or "cost" in key}
        logger.log_hyperparams(_hide_secrets(dict(settings)), shown)


def log_overlays(logger: AnyLogger, rows: Sequence[Mapping[str, Any]], *, limit: int = 8) -> None:
    """Shows at most `limit` images with true and predicted mask (W&B: one panel; TensorBoard: outlines; else nothing).

    A row holds `id`, `image` (uint8, HxWx3), `mask` and `pred` (HxW, 0/1) and `dice`.
    """
    shown = list(rows)[:limit]  # W&B keeps every medium of every call: the cap is what bounds the disk
    if not logger or not shown:
        return
    if isinstance(logger, WandbLogger):
        logger.experiment.log({OVERLAYS: [_wandb_image(row) for row in shown]})
    elif isinstance(logger, TensorBoardLogger):
        for row in shown:
            # the same tag in every run, so that TensorBoard puts the same image of all runs side by side
            logger.experiment.add_image(f"{OVERLAYS}/{row['id']}", _outlined(row), dataformats="HWC")


def finish(logger: AnyLogger, *, exit_code: int) -> None:
    """Closes the logger, and the W&B run even if the logger was never built; no W&B error leaves this function."""
    _finish_wandb(exit_code=exit_code)
    if logger and not isinstance(logger, WandbLogger):
        logger.finalize("success" if exit_code == 0 else "failed")


def _wandb() -> ModuleType:
    import wandb  # here, because `logger=csv` should not pay for it

    wandb.setup(wandb.Settings(silent=True))
    return wandb


def _resolve_mode(wandb: ModuleType, mode: str) -> str:
    settings = wandb.setup().settings
    wanted = (os.environ.get("WANDB_MODE") or settings.mode) if mode == "auto" else mode
    if wanted in ("disabled", "offline"):
        return str(wanted)
    if wanted == "dryrun":
        return "offline"
    if _has_key(settings):
        return "online"
    if mode == "online":
        log.warning(
            "W&B: online was asked for, but no API key was found (WANDB_API_KEY or `wandb login`): going offline."
        )
    return "offline"  # online without a key would ask for one


def signed_in() -> bool:
    """Whether a W&B key can be found, without asking anybody."""
    return _has_key(_wandb().setup().settings)


def _has_key(settings: Any) -> bool:
    """Looks where W&B looks. `wandb.login(prompt=False)` also asks the server (10 s if dead) and saves settings."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE") or settings.api_key:
        return True
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    with suppress(OSError, netrc.NetrcParseError):
        entry = netrc.netrc(path).authenticators(urlsplit(settings.base_url).netloc)
        return bool(entry and entry[2])
    return False


def _start(wandb: ModuleType, mode: str, arguments: dict[str, Any]) -> Any:
    if mode == "online":
        try:
            run = wandb.init(mode="online", resume="allow", **arguments)
            print(f"W&B: {run.url}")
            return run
        except (wandb.Error, OSError) as error:  # no network, time-out, refused or malformed key
            reason = str(error).splitlines()[0]
            log.warning(f"W&B: the server cannot be used, going offline ({type(error).__name__}: {reason}).")
            wandb.teardown(exit_code=1)  # else: "run ID is in use"
            mode = "offline"
    run = wandb.init(mode=mode, resume="allow", **arguments)
    if mode == "offline":
        # The folder, not one run in it: a resumed run has several parts, which `sync` appends in order of their start.
        print(f"W&B: offline; upload with: wandb sync {arguments['dir']}/wandb")
    return run


def _run_id(folder: Path) -> str:
    """The directory's W&B id. From `secrets`: a seeded generator would give all runs of a seed the same one."""
    path = folder / ID_FILE
    if not path.exists():
        draft = path.with_suffix(".tmp")
        draft.write_text(secrets.token_hex(4) + "\n")
        os.replace(draft, path)
    return path.read_text().strip()


def _finish_wandb(*, exit_code: int) -> None:
    wandb = sys.modules.get("wandb")
    run = wandb.run if wandb is not None else None
    if run is None:
        return
    folder = Path(run.settings.sync_dir)
    try:
        run.finish(exit_code=exit_code)
    except Exception as error:  # whatever W&B meets here must not turn a finished training into a failed one
        log.warning(f"W&B: not everything was uploaded ({error}); upload with: wandb sync --include-online {folder}")


def _hide_secrets(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: "<hidden>" if v and SECRET_NAME.search(str(k)) else _hide_secrets(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_hide_secrets(item) for item in value]
    return value


def _caption(row: Mapping[str, Any]) -> str:
    return f"{row['id']} dice {row['dice']:.2f}"


def _shrunk(row: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    image = Image.fromarray(np.asarray(row["image"], dtype=np.uint8))
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    masks = (Image.fromarray(np.asarray(row[key], dtype=np.uint8)) for key in ("mask", "pred"))
    mask, pred = (np.asarray(item.resize(image.size, Image.Resampling.NEAREST)) for item in masks)
    return np.array(image), mask, pred


def _wandb_image(row: Mapping[str, Any]) -> Any:
    image, mask, pred = _shrunk(row)
    masks = {
        "ground_truth": {"mask_data": mask, "class_labels": {1: "ground truth"}},
        "prediction": {"mask_data": pred, "class_labels": {1: "prediction"}},
    }
    return _wandb().Image(image, caption=_caption(row), masks=masks, file_type="jpg")


def _outlined(row: Mapping[str, Any]) -> np.ndarray:
    """The image with the true outline in green and the predicted one in red."""
    image, mask, pred = _shrunk(row)
    for region, colour in ((mask > 0, (0, 255, 0)), (pred > 0, (255, 0, 0))):
        padded = np.pad(region, 1)
        inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        image[region & ~inner] = colour
    return image
