"""A study in W&B: its workspace and report built by code, and a check that its runs arrived.

python -m src.dashboard study=ablation_modules-kvasir_seg              # saves both, prints their addresses
python -m src.dashboard study=ablation_modules-kvasir_seg dry=true     # writes what would be saved, without network
python -m src.dashboard study=ablation_modules-kvasir_seg check=true   # after a sync: are config, curves, media there?
"""

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from src.cli import ConfigError, entry_point
from src.config import check_switches, listed, user_errors
from src.rundir import RunDir
from src.study import StudyRun, override_values, study_question, study_runs

if TYPE_CHECKING:
    from src.reporting.boards import Board

SPECIFICATION = "dashboard.json"
# what the check asks of a run online, besides its epochs; the config's keys are those that dashboards group by
CONFIG_KEYS = ("model", "data", "seed", "choices", "variant")


def _run(cfg: DictConfig) -> None:
    from src.loggers import signed_in

    if not cfg.study:
        raise ConfigError("which study? Give its name: python -m src.dashboard study=ablation_modules-kvasir_seg")
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise ConfigError('the package wandb-workspaces is not installed: uv pip install "wandb-workspaces>=0.4"')
    folder = Path(cfg.runs) / cfg.study
    with user_errors():
        check_switches(cfg, "dry", "check")
        board = make_board(folder, cfg.entity or "", cfg.project, listed(cfg, "metrics"))
        if cfg.dry:
            _write_specification(board, folder)
            return
        if not signed_in():
            raise ConfigError(
                "no W&B key was found (WANDB_API_KEY or `wandb login`). Without one: dry=true writes what would be "
                "saved, and python -m src.report makes a page that needs no account."
            )
        if cfg.check:
            _check(folder, cfg.entity, cfg.project)
        else:
            _save(board)


def make_board(folder: Path, entity: str, project: str, metrics: Sequence[str] = ("dice", "iou")) -> "Board":
    """What a study's boards show, read off its runs; ValueError if none was begun."""
    from src.comparison import compare
    from src.reporting.boards import Board
    from src.reporting.texts import caption
    from src.results import read_results

    runs = study_runs(folder)
    begun = [RunDir(folder / run.name) for run in runs if (folder / run.name / "config.yaml").is_file()]
    if not begun:
        raise ValueError(f"no run of {folder} was begun: there is nothing to show yet.")
    varied = override_values([run.config()["overrides"] or [] for run in begun])[0]
    part, told = "val", ""
    if any(run.status().get("state") == "finished" for run in begun):
        results, part = read_results(folder, runs)
        told = caption(compare(results, part=part, metrics=metrics))
    return Board(entity, project, folder.name, list(varied), part, metrics, study_question(folder), told)


def _write_specification(board: "Board", folder: Path) -> None:
    from src.files import write_json
    from src.reporting.boards import specification

    write_json(folder / SPECIFICATION, specification(board))
    print(
        f"{folder / SPECIFICATION}: what would be saved. With a W&B key, once the runs are online "
        f"(wandb sync {folder}/*/wandb): python -m src.dashboard study={folder.name}"
    )


def _save(board: "Board") -> None:
    import wandb

    from src.reporting.boards import report, workspace

    try:
        entity = board.entity or wandb.Api().default_entity or ""
        named = replace(board, entity=entity)
        view, text = workspace(named).save(), report(named).save()
    except (wandb.Error, OSError, ValueError) as error:  # requests' errors are OSErrors
        raise ConfigError(f"W&B could not save the boards ({type(error).__name__}: {error}).") from error
    print(f"workspace: {view.url}\nreport:    {text.url}")


# ---- did everything arrive?


def _check(folder: Path, entity: str | None, project: str) -> None:
    import wandb

    try:
        api: Any = wandb.Api()
        entity = entity or api.default_entity
    except (wandb.Error, OSError) as error:
        raise ConfigError(f"W&B does not answer ({type(error).__name__}: {error}).") from error
    lost = checked = 0
    for run, missing in missing_online(api, f"{entity}/{project}", folder, study_runs(folder)):
        lost, checked = lost + bool(missing), checked + 1
        print(f"{run.name}: {'; '.join(missing) or 'config, curves and media arrived'}")
    if not checked:
        raise ConfigError(f"no run of {folder} is finished: there is nothing to check yet.")
    if lost:
        print(f"{lost} runs are not complete online. Upload again: wandb sync --include-online {folder}/*/wandb")
        raise SystemExit(1)


def missing_online(
    api: Any, project: str, folder: Path, runs: Sequence[StudyRun]
) -> Iterable[tuple[StudyRun, list[str]]]:
    """Each finished run of a study with what is not on the server of it; `api` is a `wandb.Api`."""
    import wandb

    from src.loggers import ID_FILE

    for run in runs:
        path = folder / run.name
        RunDir(path).refuse_links()
        if RunDir(path).status().get("state") != "finished":
            continue
        if not (path / ID_FILE).is_file():
            yield run, ["it was not trained with logger=wandb"]
            continue
        try:
            online = api.run(f"{project}/{(path / ID_FILE).read_text(encoding='utf-8').strip()}")
        except (wandb.Error, ValueError) as error:
            yield run, [f"not found in {project} ({error})"]
            continue
        yield run, list(_missing(online, path))


def _missing(online: Any, path: Path) -> Iterable[str]:
    from src.files import read_csv
    from src.loggers import OVERLAYS

    if keys := [key for key in CONFIG_KEYS if key not in online.config]:
        yield f"config without {', '.join(keys)}"
    trained = {int(row["epoch"]) for row in read_csv(path / "history.csv")}
    arrived = {int(row["epoch"]) for row in online.scan_history(keys=["epoch", "val/dice"])}
    if absent := trained - arrived:
        yield f"val/dice of {len(absent)} of {len(trained)} epochs is missing, such as {min(absent) + 1}"
    panel: Mapping[str, Any] = online.summary.get(OVERLAYS) or {}
    names = {file.name for file in online.files()}
    wanted = list(panel.get("filenames", []))
    if not wanted:
        yield f"no {OVERLAYS}"
    elif lost := [name for name in wanted if name not in names]:
        yield f"{len(lost)} of {len(wanted)} pictures of {OVERLAYS} are missing"


main = entry_point("dashboard", _run)

if __name__ == "__main__":
    main()
