"""The command line: each kind of mistake gets one message and exit code 2, everything else is left to Hydra."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from src.cli import ConfigError, did_you_mean, entry_point
from src.preflight import nearest, preflight

from .conftest import PATIENCE

REPO = Path(__file__).resolve().parent.parent

TRAIN = """
defaults: [_self_, {model: emisnet}, {data: glas}, {trainer: default}, {experiment: null}]
seed: 0
part: null
fail: null
hydra:
  run: {dir: out/run}
  sweep: {dir: out/sweep}
  help:
    template: |
      Trains.
      ${group_choices:}
      ${group_choices:hydra/launcher}
"""
STUDY = """# @package _global_
hydra:
  mode: MULTIRUN
  sweeper: {params: {model: "%s", %s: "1,2"}}
"""
SCRIPT = '''
import json, os, sys
from pathlib import Path
from hydra.experimental.callback import Callback
from hydra.utils import instantiate
from src.cli import ConfigError, entry_point

class Recorder(Callback):
    """Notes what a sweeper would be handed."""
    def on_job_end(self, config, job_return, **kwargs):
        with open("returned.txt", "a") as file:
            print(job_return._return_value, file=file)

class Net:
    def __init__(self, depths):
        raise ValueError(f"depths={depths}: five are needed")

def _run(cfg):
    print("ran", cfg.model.name, cfg.data.name, cfg.seed, flush=True)
    if cfg.part:
        instantiate(cfg.part)
    if cfg.fail in ("config", cfg.model.name):
        raise ConfigError("the folder data/glas is empty")
    if cfg.fail == "bug":
        raise RuntimeError("a bug")
    if cfg.fail == "signal":
        sys.exit(143)
    return 10.0 * cfg.seed

assert "torch" not in sys.modules
main = entry_point("train", _run, config_dir=Path(__file__).parent / "conf")
if __name__ == "__main__":
    main()
'''


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = {
        "app.py": SCRIPT,
        "conf/train.yaml": TRAIN,
        "conf/trainer/default.yaml": "{max_epochs: 3, min_epochs: 1, accelerator: cpu, callbacks: null}",
        "conf/experiment/study.yaml": STUDY % ("emisnet,unet", "seed"),
        "conf/experiment/bad_option.yaml": STUDY % ("emisnet,emisent", "seed"),
        "conf/experiment/bad_key.yaml": STUDY % ("emisnet,unet", "trainer.max_epoch"),
        "conf/experiment/bad_default.yaml": "# @package _global_\ndefaults: [{override /data: gals}]",
        "conf/experiment/bad_yaml.yaml": "seed: [1,",
        "conf/experiment/deep/nested.yaml": "# @package _global_\nseed: 5",
        **{f"conf/model/{name}.yaml": _model(name) for name in ("emisnet", "unet", "emisnet_no_ca")},
        **{f"conf/data/{name}.yaml": f"{{name: {name}, batch_size: 8}}" for name in ("glas", "isic2018", "kvasir_seg")},
    }
    root = tmp_path_factory.mktemp("project")
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def _model(name: str) -> str:
    return f"{{name: {name}, channels: [8, 16], in_channels: 3}}"


def _run(project: Path, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(REPO), **env}
    return subprocess.run(
        [sys.executable, "app.py", *argv], cwd=project, env=env, capture_output=True, text=True, timeout=PATIENCE
    )


def _complaint(project: Path, *argv: str) -> str:
    with pytest.raises(ConfigError) as caught:
        preflight(argv, "train", project / "conf")
    assert not GlobalHydra.instance().is_initialized()
    return str(caught.value)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["model=emisent"], ["model=emisent", "Did you mean emisnet?", "Available: emisnet, emisnet_no_ca, unet."]),
        (["-m", "model=emisnet,emisent"], ["model=emisnet,emisent", "'emisent'", "Did you mean emisnet?"]),
        (["-m", "model=choice(unet,unett)"], ["'unett'", "Did you mean unet?"]),
        (["model=[unet,emisent]"], ["'emisent'"]),
        (["model=null"], ["model=null", "Available: emisnet"]),
        (["+data=isic2017"], ["+data=isic2017", "Did you mean isic2018?"]),
        (["experiment=studdy"], ["no experiment 'studdy'", "Did you mean study?"]),
        (["experiment=deep/nestd"], ["'deep/nestd'"]),
        (["hydra/launcher=basc"], ["no hydra/launcher 'basc'", "Did you mean basic?"]),
        (["hydra.mod=RUN"], ["hydra.mod=RUN", "hydra.mode"]),
        (["model=emisent", "data=gals"], ["'emisent'", "'gals'"]),
        (["-m", "model=glob(zz*)"], ["model=glob(zz*)", "no values"]),
        (["seed=1,2"], ["seed=1,2", "--multirun"]),
        (["model.chanels=[8,16]"], ["model.chanels=[8,16]", "Did you mean model.channels", "+model.chanels=[8,16]"]),
        (["trainer.max_epoch=3"], ["'trainer.max_epoch'", "Did you mean trainer.max_epochs"]),
        (["dta=glas"], ["dta=glas", "Did you mean data?"]),
        (["batch_size=4"], ["batch_size=4", "Did you mean data.batch_size?", "+batch_size=4"]),
        (["-m", "batch_size=4,8"], ["batch_size=4,8", "Did you mean data.batch_size?"]),
        (["model=unet", "sed=1", "data.nam=x"], ["Did you mean seed?", "data.name"]),
        (["trainer.callbacks.ema=1"], ["'trainer.callbacks.ema'", "trainer.callbacks"]),
        (["~model.chanels"], ["~model.chanels", "model.channels"]),
        (["seed=[1"], ["seed=[1", "not a valid override"]),
        (["seed[0]=1"], ["seed[0]=1", "not a valid override"]),
        (["unet"], ["unet: not a valid override", "key=value"]),
        (["+seed=1"], ["already at 'seed'"]),
        (["experiment=bad_option"], ["'emisent'", "(in hydra.sweeper.params)", "Did you mean emisnet?"]),
        (["experiment=bad_key"], ["'trainer.max_epoch'", "(in hydra.sweeper.params)", "trainer.max_epochs"]),
        (["experiment=bad_default"], ["data/gals", "Did you mean glas?", "Available: glas, isic2018, kvasir_seg."]),
        (["experiment=bad_yaml"], ["bad_yaml.yaml", "line 1"]),
        (["-cn", "trian"], ["'trian'"]),
    ],
    ids=lambda value: " ".join(value) if "=" in value[-1] else None,
)
def test_a_mistake_is_answered_with_what_was_received_and_the_nearest(
    project: Path, argv: list[str], expected: list[str]
) -> None:
    complaint = _complaint(project, *argv)
    assert [part for part in expected if part not in complaint] == []


@pytest.mark.parametrize(
    "line",
    [
        "",
        "model=unet data=kvasir_seg trainer.max_epochs=1 model.channels=[4] model.channels.0=4",
        "+model.new=1 ++seed=2 ++other=3 ~trainer.accelerator +deeper.and.deeper=x",
        "~experiment hydra.run.dir=elsewhere hydra/launcher=basic",
        "experiment=deep/nested",
        "experiment=study",
        "experiment=study seed=1,2,3 data=isic2018,glas",
        "experiment=bad_option model=unet",
        "-m model=emisnet,unet seed=range(0,3) data=glob(*)",
        "--multirun trainer.max_epochs=interval(1,9) model.channels=[8,16],[16,32] seed=shuffle(range(1,4))",
        "model=unet --cfg job --resolve",
        "--help model=emisent",
        "--info searchpath",
    ],
)
def test_what_hydra_accepts_passes(project: Path, line: str) -> None:
    preflight(line.split(), "train", project / "conf")


def test_a_folder_of_configs_is_looked_at_before_anything_in_it_acts(project: Path, tmp_path: Path) -> None:
    (tmp_path / "brought" / "model").mkdir(parents=True)
    (tmp_path / "brought" / "model" / "mine.yaml").write_text("name: mine\n")
    (tmp_path / "brought" / "experiment").mkdir()
    (tmp_path / "brought" / "experiment" / "evil.yaml").write_text(
        "# @package _global_\nhydra: {callbacks: {x: {_target_: pathlib.Path.touch, self: mark}}}\n"
    )
    brought = ["--config-dir", str(tmp_path / "brought")]
    preflight([*brought, "model=mine"], "train", project / "conf")
    with pytest.raises(ConfigError, match=r"hydra\.callbacks would build pathlib\.Path\.touch"):
        preflight([*brought, "experiment=evil"], "train", project / "conf")
    with pytest.raises(ConfigError, match="there is no model 'mien'"):
        preflight([*brought, "model=mien"], "train", project / "conf")
    both = [*brought, f"hydra.searchpath=[file://{tmp_path}]", "experiment=evil"]  # Hydra looks in both
    with pytest.raises(ConfigError, match=r"hydra\.callbacks would build"):
        preflight(both, "train", project / "conf")
    (tmp_path / "brought").rename(tmp_path / "of (me), a=b")
    (tmp_path / "of (me), a=b" / "mine.yaml").write_text("defaults: [train]\n")
    odd = ["--config-dir", str(tmp_path / "of (me), a=b")]
    preflight([*odd, "model=mine"], "train", project / "conf")
    preflight([*odd, "--config-name", "mine"], "train", project / "conf")
    with pytest.raises(ConfigError, match="--config-path is not taken"):
        preflight(["--config-path", "elsewhere", "a.key=1"], "train", project / "conf")


def test_preflight_takes_seconds_at_most(project: Path) -> None:
    start = time.perf_counter()
    preflight(["experiment=study", "data=isic2018,glas"], "train", project / "conf")
    assert time.perf_counter() - start < 30  # a fraction of one where nothing else runs


def test_nearest_compares_whole_names_and_last_segments() -> None:
    metrics = ["val/dice", "val/iou", "val/hd95", "val/loss"]
    assert nearest("val/dise", metrics) == ["val/dice"]
    assert nearest("val_dice", metrics)[0] == "val/dice"
    assert nearest("hd95", metrics) == ["val/hd95"]
    assert nearest("batch_size", ["data.batch_size", "model.size"]) == ["data.batch_size"]
    assert nearest("zzz", metrics) == nearest("val/dice", []) == []
    assert len(nearest("a.x", ["b.x", "c.x", "d.x", "e.x"])) == 3
    assert did_you_mean("val/dise", metrics) == "Did you mean val/dice?"
    assert did_you_mean("a.x", ["b.x", "c.x"]) == "Did you mean b.x or c.x?"
    assert did_you_mean("a.x", ["b.x", "c.x", "d.x"]) == "Did you mean b.x, c.x or d.x?"
    assert did_you_mean("zzz", metrics) == ""


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["model=emisent"], 2, "error: model=emisent: there is no model 'emisent'. Did you mean emisnet? Available: "),
        (["fail=config"], 2, "error: the folder data/glas is empty\n"),
        (["+part._target_=app.Net", "+part.depths=3"], 2, "error: part: depths=3: five are needed\n"),
        (["fail=signal"], 143, ""),
    ],
)
def test_the_users_mistake_ends_in_its_message_alone(project: Path, argv: list[str], code: int, message: str) -> None:
    ended = _run(project, *argv)
    assert ended.returncode == code
    assert ended.stderr.startswith(message) and ended.stderr.count("\n") == bool(message)


def test_a_bug_keeps_its_traceback_and_so_does_a_mistake_under_full_error(project: Path) -> None:
    ended = _run(project, "fail=bug")
    assert ended.returncode == 1 and "Traceback" in ended.stderr and "RuntimeError: a bug" in ended.stderr
    for argv in (["fail=config"], ["model=emisent"], ["-m", "fail=config"]):
        ended = _run(project, *argv, HYDRA_FULL_ERROR="1")
        assert ended.returncode == 2 and "Traceback" in ended.stderr and "ConfigError" in ended.stderr


def test_a_multirun_runs_all_jobs_and_hands_their_values_to_the_sweeper(project: Path) -> None:
    (project / "returned.txt").unlink(missing_ok=True)
    ended = _run(project, "experiment=study", "+hydra.callbacks.recorder._target_=app.Recorder", EMISNET_TRUST="app")
    assert ended.returncode == 0, ended.stderr
    assert [line for line in ended.stdout.splitlines() if line.startswith("ran")] == [
        "ran emisnet glas 1",
        "ran emisnet glas 2",
        "ran unet glas 1",
        "ran unet glas 2",
    ]
    assert (project / "returned.txt").read_text().split() == ["10.0", "20.0", "10.0", "20.0"]


def test_in_a_multirun_the_jobs_after_a_config_error_still_run(project: Path) -> None:
    ended = _run(project, "-m", "model=emisnet,unet", "fail=emisnet")
    assert ended.returncode == 2
    assert "ran emisnet" in ended.stdout and "ran unet" in ended.stdout
    assert "the folder data/glas is empty" in ended.stderr and "Traceback" not in ended.stderr


def test_help_lists_the_choices_and_cfg_shows_the_config(project: Path) -> None:
    ended = _run(project, "--help")
    assert ended.returncode == 0
    assert "  model           [emisnet], emisnet_no_ca, unet\n" in ended.stdout
    assert "  hydra/launcher  [basic]" in ended.stdout
    ended = _run(project, "model=unet", "--cfg", "job")
    assert ended.returncode == 0 and "name: unet" in ended.stdout and "ran" not in ended.stdout.split()


def test_main_runs_in_this_process_with_sys_argv(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []
    main = entry_point("train", lambda cfg: seen.append((cfg.model.name, cfg.seed)), config_dir=project / "conf")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys, "argv", ["app", "model=unet", "seed=7", "hydra/job_logging=none", "hydra/hydra_logging=none"]
    )
    main()
    assert seen == [("unet", 7)]
    monkeypatch.setattr(sys, "argv", ["app", "model=unett"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2 and "Did you mean unet?" in capsys.readouterr().err
