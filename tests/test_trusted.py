"""What a config may build."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from src.cli import ConfigError
from src.config import composed
from src.data.splits import Split
from src.preflight import preflight
from src.trusted import check_targets

from .conftest import REPO

CONFIGS = sorted((REPO / "conf").rglob("*.yaml"))


def targets(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [str(node["_target_"])] if node.get("_target_") is not None else []
        return own + [found for child in node.values() for found in targets(child)]
    return [found for child in node for found in targets(child)] if isinstance(node, list) else []


def test_everything_that_is_shipped_may_be_built() -> None:
    found = [
        target
        for file in CONFIGS
        if "launcher" not in str(file)  # Hydra's own part, which is no part of a run's config
        for target in targets(yaml.safe_load(file.read_text()))
    ]
    assert len(found) > 30
    for target in found:
        check_targets({"_target_": target})


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.run",
        "builtins.eval",
        "pathlib.Path.touch",
        "torch.load",
        "torch.hub.load",
        "torch.optim.warnings.sys.exit",
        "torch.nn.modules.module.os.system",
        "torch.optim.adamw",
        "lightning.pytorch.callbacks.os.system",
        "src.trusted.importlib.import_module",
        "src.trusted.Path",  # imported there
        "src.models.cost.inspect.os.makedirs",
        "src.models.emisnet.EMISNet.load_state_dict",
        "src.models.emisnet",
        "src.models.emisnet.Absent",
        "src.models.emisnet.make_stem",  # a function
        "src.files.write_text",
        "src.weights.checksum_path",
        "src.exporting.program.ProgramNet",  # which loads a program's pickles
        "src.data.archives.extract",
        "src.process.environment",
        "src.absent.Net",
        "src...emisnet.EMISNet",
        "srcs.models.emisnet.EMISNet",
        "src/../evil.Net",
        "evil.Net",
        "EMISNet",
        "",
        "None",
    ],
)
def test_nothing_else_may(target: str) -> None:
    for config in ({"_target_": target}, {"a": {"b": [{"_target_": target}]}}, {"a": [[{"_target_": target}]]}):
        with pytest.raises(ValueError, match=r"_target_=.* may not be built: .*EMISNET_TRUST="):
            check_targets(config)


def test_the_key_is_named() -> None:
    with pytest.raises(ValueError, match=r"^model\.act\._target_=os\.system may not"):
        check_targets({"model": {"act": {"_target_": "os.system"}}})
    with pytest.raises(ValueError, match=r"^data\._target_=os\.system may not"):
        check_targets({"_target_": "os.system"}, "data")


def test_a_package_may_be_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMISNET_TRUST", " mine, theirs.nets ,")
    for target in ("mine.Net", "mine.deep.Net", "theirs.nets.Net"):
        check_targets({"_target_": target})
    for target in ("mines.Net", "theirs.Net", "theirs.netss.Net"):
        with pytest.raises(ValueError, match="may not be built"):
            check_targets({"_target_": target})


@pytest.mark.parametrize("key", ["model", "data", "loss", "optim", "schedule", "trainer", "logger"])
def test_a_config_is_checked_before_anything_is_built(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"^{key}\..*_target_=pathlib\.Path\.touch may not be built"):
        composed(f"+{key}.extra={{_target_: pathlib.Path.touch, self: mark}}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["model", "data", "loss", "optim", "trainer", "logger"])
@pytest.mark.parametrize("place", ["extra", "extra.deep", "extra.list"])
def test_what_would_be_resolved_when_things_are_built_is_refused(
    key: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An escaped interpolation is a text when the config is checked, and Hydra's `instantiate` resolves it."""
    monkeypatch.chdir(tmp_path)
    payload = r'"\${oc.create:{_target_:pathlib.Path.touch,self:mark}}"'
    with pytest.raises(ConfigError, match=r"escaped interpolation, .*oc\.create"):
        composed(f"+{key}.{place}={f'[1,{payload}]' if place.endswith('list') else payload}")
    assert list(tmp_path.iterdir()) == []


HYDRAS_OWN = [
    ("+hydra.callbacks.x={_target_:pathlib.Path.touch,self:mark}", r"hydra\.callbacks would build pathlib"),
    (r'+hydra.callbacks.x="${oc.create:{_target_:pathlib.Path.touch,self:mark}}"', "hydra holds x"),
    ("+hydra.callbacks.x={_target_:src.files.write_text,path:mark,text:x}", r"hydra\.callbacks would build src"),
    ("+hydra.job.env_set.EMISNET_TRUST=pathlib", r"hydra\.job\.env_set is given"),
    ("hydra.launcher._target_=pathlib.Path.touch", r"hydra\.launcher\._target_=pathlib"),
    ("hydra.sweeper._target_=pathlib.Path.touch", r"hydra\.sweeper\._target_=pathlib"),
    ("+hydra.launcher.x={_target_:pathlib.Path.touch,self:mark}", r"hydra\.launcher would build pathlib"),
    (  # a name behind a plugin's module
        "+hydra.launcher.x={_target_:hydra_plugins.hydra_submitit_launcher.submitit_launcher.Path.touch}",
        r"hydra\.launcher would build hydra_plugins",
    ),
    ("+hydra.job_logging.x={_target_:pathlib.Path.touch,self:mark}", "hydra would build pathlib"),
    (r'+hydra.launcher.x="${hydra.job_logging.evil}"', "hydra.launcher holds x"),
    (r'+hydra.help.x="${oc.${hydra.job.name}:{}}"', "hydra holds x"),
    ("+hydra.job_logging.handlers.x={class:logging.os.system,command:x}", "hydra.job_logging builds logging.os"),
    ("+hydra.sweeper.custom_search_space=pathlib.Path.touch", "custom_search_space=pathlib"),
    ("+hydra.job_logging.handlers.x={class:logging.StreamHandler,stream:'ext://this.s'}", "ext://this"),
    ("+hydra.job_logging.handlers.x={class:logging.FileHandler,filename:mark}", "builds logging.FileHandler"),
    ("+hydra.job_logging.handlers.x={class:subprocess.Popen,args:[touch,mark]}", "hydra.job_logging builds subprocess"),
]


@pytest.mark.parametrize("name", ["train", "evaluate", "predict", "audit"])
@pytest.mark.parametrize(("line", "said"), HYDRAS_OWN)
def test_hydra_s_own_part_builds_and_sets_nothing_first(
    name: str, line: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said):
        preflight([line], name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "choice",
    [
        *(f"hydra/launcher={name}" for name in ("basic", "joblib", "ray", "submitit_slurm", "submitit_local")),
        *("hydra/sweeper=optuna", "hydra/job_logging=default", "hydra/job_logging=disabled", "experiment=search"),
    ],
)
def test_hydra_s_plugins_and_logs_pass(choice: str) -> None:
    preflight([choice], "train")


@pytest.mark.parametrize("part", ["test/../../../evil", "test/x", "test ", "test.."])
def test_parts_of_a_split_are_no_paths(part: str) -> None:
    """They become names of folders: a stranger's run directory would be written outside of."""
    with pytest.raises(ValueError, match=r"parts are train, val and names that start with test"):
        Split("x", "glas", {"train": (), "val": (), part: ("a",)})


@pytest.mark.parametrize("dataset", ["../glas", "a/b", "..", ".hidden", "x y"])
def test_a_dataset_s_name_is_no_path(dataset: str) -> None:
    with pytest.raises(ValueError, match=r"a split's dataset is"):
        Split("x", dataset, {"train": (), "val": ()})
