"""The W&B boards of a study: over the keys that a run really writes; and the check of what arrived online.

There is no W&B server here: specifications are read offline, and the check talks to a stand-in for `wandb.Api`.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
import yaml

from src.config import ConfigError
from src.dashboard import main, make_board, missing_online
from src.files import read_csv
from src.reporting.boards import specification
from src.rundir import RunDir
from src.study import StudyRun, write_plan
from src.train import train

from .conftest import Call
from .wandb_files import private_wandb, read, run_files, summary

__all__ = ["private_wandb"]
STUDY = "sweep-synthetic"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def logged(
    runs: Path, tiny: Callable[..., dict[str, Any]], private_wandb: None, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The folder of a study with one run that was logged offline; of a second one only the plan is there. The first
    test makes it for all."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    if (made := runs / STUDY / "other-seed0" / "config.yaml").is_file():
        return runs / STUDY
    config = tiny("logger=wandb", f"study={STUDY}", "tags=[mine]", "test=true", f"runs={runs}")
    config["overrides"] = ["model=emisnet_intended", "optim.lr=1e-3", f"study={STUDY}"]
    run = Path(config["run_dir"])
    plan = [StudyRun(run.name, "intended, lr=1e-3", 0, 1, 1), StudyRun("other-seed0", "intended, lr=1e-2", 0, 1, 1)]
    write_plan(run.parent, plan, command=["experiment=sweep_loss"], commit="")
    train(config)
    made.parent.mkdir(exist_ok=True)
    typed = {**config, "overrides": ["model=emisnet_intended", "optim.lr=1e-2", f"study={STUDY}"]}
    made.write_text(yaml.safe_dump(typed))
    return run.parent


def found(node: Any, key: str) -> list[Any]:
    """All values under a key, anywhere in a specification."""
    if isinstance(node, dict):
        return [value for name, value in node.items() if name == key] + found(list(node.values()), key)
    return [value for child in node for value in found(child, key)] if isinstance(node, list) else []


def test_panels_show_what_a_run_writes(logged: Path) -> None:
    board = make_board(logged, "me", "emisnet")
    assert (board.part, board.varied, board.study) == ("test", ["optim.lr"], STUDY)
    (path,) = run_files(next(logged.glob("*/wandb")).parent)
    seen = summary(path)
    records = [json.loads(line) for line in read(path).splitlines()]
    (run,) = [record["run"] for record in records if record["type"] == "run"]
    assert run["run_group"] == STUDY and seen["config"]["variant"] == "intended, lr=1e-3"
    assert seen["tags"] == ["emisnet_intended", "synthetic", "bce_dice", "mine"]
    assert seen["summary"]["best/epoch"] in (1, 2)
    curves = {key for record in records if record["type"] == "history" for key in record["history"]["item"]}
    for name, made in specification(board).items():
        views = found(made, "viewType")
        wanted = ("Scatter Plot", "Parallel Coordinates Plot", "Parameter Importance", "Run Comparer", "Media Browser")
        assert {*wanted, "Run History Line Plot"} <= set(views), name
        filters = [one for group in found(made, "filters") if isinstance(group, list) for one in group]
        assert filters and all((f["key"]["name"], f["value"]) == ("group", STUDY) for f in filters)
        axes = [value for key in ("xAxis", "yAxis", "accessor") for value in found(made, key) if ":" in value]
        assert len(axes) == 4 + 1 + 2 + 2
        for axis in axes:
            kind, _, key = axis.partition(":")
            place = seen[kind]
            for part in [key] if kind == "summary" else key.replace(".value", "").split("."):
                assert part in place, axis
                place = place[part]
        assert found(made, "targetKey") == ["test_native/dice"]
        assert {key for keys in found(made, "metrics") for key in keys} <= curves
        assert found(made, "mediaKeys") == [["overlays"]] and "overlays" in seen["summary"]
        grouped = {group["name"] for groups in found(made, "grouping") for group in groups}
        assert grouped == {"variant.value"} and set(found(made, "groupBy")) == {"variant.value"}
    assert "which loss" in board.question.lower() and "test images" in board.caption


def test_the_command_writes_the_specification_or_says_what_it_lacks(logged: Path, call: Call) -> None:
    done = call(main, f"runs={logged.parent}", f"study={STUDY}", "dry=true")
    assert done.returncode == 0 and "wandb sync" in done.stdout, done.stderr
    assert json.loads((logged / "dashboard.json").read_text())["workspace"]["displayName"] == STUDY
    for words, message in (
        ([], "which study?"),
        ([f"study={STUDY}"], "no W&B key was found"),
        (["study=nothing", "dry=true"], f"Studies there: {STUDY}"),
    ):
        failed = call(main, f"runs={logged.parent}", *words)
        assert failed.returncode == 2 and message in failed.stderr and "Traceback" not in failed.stderr


def test_boards_that_cannot_be_saved_are_told(logged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from src import dashboard

    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(wandb, "Api", lambda: (_ for _ in ()).throw(wandb.errors.CommError("refused")))
    with pytest.raises(ConfigError, match=r"could not save the boards \(CommError: refused\)"):
        dashboard._save(make_board(logged, "", "emisnet"))


# ---- the check


@dataclass
class Online:
    """What `wandb.Api().run(...)` answers with, as far as the check reads it."""

    config: dict[str, Any]
    rows: list[dict[str, Any]]
    summary: dict[str, Any]
    names: list[str]

    def scan_history(self, keys: list[str]) -> list[dict[str, Any]]:
        return [row for row in self.rows if all(key in row for key in keys)]

    def files(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name=name) for name in self.names]


class Api:
    def __init__(self, runs: dict[str, Online]):
        self.runs = runs

    def run(self, path: str) -> Online:
        if path not in self.runs:
            raise wandb.errors.CommError(f"Could not find run {path}")
        return self.runs[path]


def test_what_did_not_arrive_is_named(logged: Path, tmp_path: Path) -> None:
    logged = Path(shutil.copytree(logged, tmp_path / STUDY, symlinks=True))  # its files are changed here
    path = next(logged.glob("*/wandb")).parent
    (file,) = run_files(path)
    seen, id_ = summary(file), (path / "wandb_id.txt").read_text().strip()
    records = [json.loads(line) for line in read(file).splitlines()]
    rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    names = [str(p.relative_to(file.parent / "files")) for p in (file.parent / "files").rglob("*") if p.is_file()]
    run = StudyRun(path.name, "intended", 0, 1, 1)

    def missing(**lost: Any) -> list[str]:
        online = Online(**{"config": seen["config"], "rows": rows, "summary": seen["summary"], "names": names, **lost})
        ((_, told),) = missing_online(Api({f"me/emisnet/{id_}": online}), "me/emisnet", logged, [run])
        return told

    assert missing() == []
    assert missing(config={"seed": 0}) == ["config without model, data, choices, variant"]
    assert len(read_csv(path / "history.csv")) == 2
    first = [row for row in rows if row.get("epoch") == 0]
    assert missing(rows=first) == ["val/dice of 1 of 2 epochs is missing, such as 2"]
    assert missing(summary={}) == ["no overlays"]
    assert missing(names=[name for name in names if "overlays" not in name or "mask" in name]) == [
        "6 of 6 pictures of overlays are missing"
    ]
    ((_, told),) = missing_online(Api({}), "me/emisnet", logged, [run])
    assert "not found in me/emisnet" in told[0]
    (path / "wandb_id.txt").unlink()
    ((_, told),) = missing_online(Api({}), "me/emisnet", logged, [run])
    assert told == ["it was not trained with logger=wandb"]
    RunDir(path).mark("failed")
    assert list(missing_online(Api({}), "me/emisnet", logged, [run])) == []
    elsewhere = logged / "elsewhere.json"
    (path / "status.json").rename(elsewhere)
    (path / "status.json").symlink_to(elsewhere)  # of a run that is not finished, too
    with pytest.raises(ValueError, match=r"status\.json"):
        list(missing_online(Api({}), "me/emisnet", logged, [run]))
