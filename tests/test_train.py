"""A run from config to a complete directory."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file

from src.cli import ConfigError
from src.data.splits import Split
from src.files import read_csv
from src.rundir import RunDir
from src.train import train
from src.trained import open_trained
from src.weights import read_checkpoint, sha256

from .conftest import PATIENCE, REPO, TINY, quick
from .wandb_files import read, run_files, summary


def weights(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_the_run_directory_is_complete(trained_run: Path) -> None:
    assert RunDir(trained_run).status()["state"] == "finished"
    config = yaml.safe_load((trained_run / "config.yaml").read_text())
    assert config["seed"] == 0 and config["model"]["channels"] == [4, 4, 8, 8, 8] and "${" not in str(config)
    split = json.loads((trained_run / "split.json").read_text())
    assert {part: len(ids) for part, ids in split["parts"].items()} == {"train": 12, "val": 5, "test": 6}
    metrics = json.loads((trained_run / "metrics.json").read_text())
    assert metrics["scores"]["val"]["n"] == 5 and metrics["scores"]["test"]["n"] == 6
    assert metrics["protocol"]["split_hash"] == split["sha256"]
    assert metrics["cost"]["flops"] == 2 * metrics["cost"]["macs"] > 0
    assert metrics["versions"]["torch"] == torch.__version__.split("+")[0]
    history = read_csv(trained_run / "history.csv")
    assert [row["epoch"] for row in history] == ["0", "1"]
    assert metrics["best"]["value"] == max(float(row["val/dice"]) for row in history)
    for picture in ("curves", "overlays"):
        assert (trained_run / "figures" / f"{picture}.png").read_bytes().startswith(b"\x89PNG")


def test_scores_are_the_means_of_the_rows(trained_run: Path) -> None:
    rows = [row for row in read_csv(trained_run / "per_image.csv") if row["part"] == "test"]
    scores = RunDir(trained_run).metrics()["scores"]["test"]
    tp, fp, fn = (np.array([float(row[key]) for row in rows]) for key in ("tp", "fp", "fn"))
    empty = 2 * tp + fp + fn == 0
    dice = np.where(empty, 1, 2 * tp / np.where(empty, 1, 2 * tp + fp + fn))
    assert scores["dice"] == pytest.approx(dice.mean(), abs=1e-12)
    pooled = 2 * tp.sum() / (2 * tp.sum() + fp.sum() + fn.sum())
    assert scores["dice_pooled"] == pytest.approx(pooled, abs=1e-12)
    assert {(row["height"], row["width"]) for row in rows} == {("48", "56")}  # native, not the training size


@pytest.mark.parametrize("name", ["best", "last"])
def test_checkpoints_hold_tensors_and_plain_values_only(trained_run: Path, name: str) -> None:
    checkpoint = read_checkpoint(trained_run / "checkpoints" / f"{name}.ckpt")  # weights_only=True
    assert any(key.startswith("net.") for key in checkpoint["state_dict"])


def test_the_same_seed_gives_the_same_run(tiny, trained_run: Path) -> None:
    again = tiny("data.num_workers=2")  # the number of workers does not enter
    train(again)
    assert same(weights(Path(again["run_dir"])), weights(trained_run))
    assert RunDir(Path(again["run_dir"])).metrics()["scores"] == RunDir(trained_run).metrics()["scores"]


def test_another_seed_gives_another_run(tiny, trained_run: Path) -> None:
    other = tiny("seed=1")
    train(other)
    assert not same(weights(Path(other["run_dir"])), weights(trained_run))


def test_the_directory_is_named_by_what_defines_the_run(tiny) -> None:
    name = Path(tiny()["run_dir"]).name
    assert name.startswith("emisnet_intended-") and name.endswith("-seed0")
    assert Path(tiny("logger=csv", "data.num_workers=3", "tags=[a]")["run_dir"]).name == name
    assert Path(tiny("optim.lr=0.5")["run_dir"]).name != name
    assert Path(tiny("seed=3")["run_dir"]).name == name.replace("-seed0", "-seed3")  # one hash, many seeds
    assert Path(tiny("study=s")["run_dir"]).parent.name == "s"


def test_a_finished_run_is_not_trained_again(tiny, capsys) -> None:
    config = tiny("trainer.max_epochs=1")
    value = train(config)
    before = (Path(config["run_dir"]) / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    assert train(config) == value
    assert "is finished" in capsys.readouterr().err
    assert (Path(config["run_dir"]) / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before


def test_resume_never_keeps_the_earlier_run(tiny) -> None:
    config = tiny("trainer.max_epochs=1")
    train(config)
    train(config | {"resume": "never"})
    run = Path(config["run_dir"])
    assert RunDir(run).status()["state"] == "finished"
    assert RunDir(run.with_name(run.name + ".old-1")).status()["state"] == "finished"


def test_other_packages_are_told_with_their_versions(tiny, capsys) -> None:
    config = tiny()
    train(config)
    run = RunDir(Path(config["run_dir"]))
    status = run.status()
    earlier = status["versions"] | {"torch": "1.0", "python": "3.0"}
    del earlier["scipy"]  # of a run before that was recorded
    run.mark("interrupted", commit="0" * 40, versions=earlier)
    train(config)
    told = capsys.readouterr().err
    torch_now = status["versions"]["torch"]
    assert f"torch 1.0 -> {torch_now}" in told and "python 3.0 -> 3." in told and f"commit {'0' * 7} -> " in told
    assert "scipy" not in told and "numpy" not in told


def test_the_file_that_an_encoder_starts_from_is_recorded_and_needed_once(tiny, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file(timm.create_model("mobilenetv3_small_050").state_dict(), file)
    encoder = ("model.encoder_name=tu-mobilenetv3_small_050", f"model.encoder_weights={file}")
    config = tiny("model=unet", *encoder, "trainer.max_epochs=1")
    train(config)
    run, digest = RunDir(Path(config["run_dir"])), sha256(file)
    assert run.metrics()["contents"]["encoder_weights"] == digest
    file.unlink()
    run.mark("interrupted")
    train(config)  # all weights are in the checkpoint
    assert run.status()["state"] == "finished" and run.metrics()["contents"]["encoder_weights"] == digest


@pytest.mark.parametrize("key", ["logger.api_key", "logger.WANDB_API_KEY", "trainer.token", "model.password"])
def test_a_secret_is_refused_before_it_is_written(tiny, tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key} is given, and every file of the run would hold it.*WANDB_API_KEY"):
        tiny(f"+{key}=hush")
    assert not (tmp_path / "runs").exists()


def test_resume_must_needs_a_checkpoint(tiny) -> None:
    with pytest.raises(ConfigError, match="resume=must"):
        train(tiny("resume=must"))


def test_a_directory_of_another_config_is_refused(tiny, tmp_path: Path) -> None:
    train(tiny("trainer.max_epochs=1", f"run_dir={tmp_path / 'mine'}"))
    with pytest.raises(ConfigError, match=r"optim\.lr"):
        train(tiny("trainer.max_epochs=1", "optim.lr=0.5", f"run_dir={tmp_path / 'mine'}"))


@pytest.mark.parametrize("resume", ["auto", "never"])
def test_a_directory_in_use_is_refused(tiny, resume: str) -> None:
    config = tiny(f"resume={resume}")
    run = RunDir(Path(config["run_dir"]))
    with run.claim():
        run.mark("running")
        with pytest.raises(ConfigError, match="in use"):
            train(config)
    assert run.path.is_dir() and not list(run.path.parent.glob("*.old-*"))


def test_a_multirun_leaves_test_alone(tiny) -> None:
    config = tiny("trainer.max_epochs=1", multirun=True)
    train(config)
    assert list(RunDir(Path(config["run_dir"])).metrics()["scores"]) == ["val"]
    assert tiny("test=true", multirun=True)["test"] is True


SWITCHES = [
    ("ema=0.9",),
    ("deep_supervision=true", "loss=focal_tversky"),
    ("channels_last=true", "trainer.precision=bf16-mixed"),
    ("optim=sgd", "schedule=poly", "trainer.gradient_clip_val=0.5", "data.crop=mixed"),
    ("ema=0.9", "deep_supervision=true", "channels_last=true", "loss=lovasz"),
    ("model=fpn", "model.encoder_name=tu-mobilenetv3_small_050", "data.augment.color=1", "data.augment.scale=1"),
]


@pytest.mark.parametrize("overrides", quick(SWITCHES, SWITCHES[2:]), ids="+".join)
def test_switches_train(tiny, overrides: tuple[str, ...]) -> None:
    config = tiny("trainer.max_epochs=1", *overrides)
    train(config)
    metrics = RunDir(Path(config["run_dir"])).metrics()
    assert 0 <= metrics["scores"]["test"]["dice"] <= 1 and metrics["best"]["epoch"] == 0


@pytest.mark.slow
def test_compile_keeps_the_names_of_the_weights(tmp_path: Path) -> None:
    # a process of its own: torch.compile cannot look through the shape checks that pytest puts on forward
    two_levels = (
        "model.channels=[4,4]",
        "model.encoder_depths=[1,1]",
        "model.decoder_depths=[1]",
        "model.icm_levels=[1]",
    )
    arguments = ("model=emisnet_tiny", *two_levels, *TINY, "trainer.max_epochs=1")
    for name in ("plain", "compiled"):  # two levels: compiling the whole network takes minutes on two cores
        command = [
            sys.executable,
            "-m",
            "src.train",
            *arguments,
            f"compile={name == 'compiled'}",
            f"run_dir={tmp_path / name}",
        ]
        subprocess.run(command, cwd=REPO, check=True, timeout=PATIENCE)
    plain, compiled = weights(tmp_path / "plain"), weights(tmp_path / "compiled")
    assert plain.keys() == compiled.keys()
    # 1e-3 is the learning rate: a bias before BatchNorm has no gradient but rounding, of which AdamW makes whole steps
    assert all(torch.allclose(plain[key].float(), compiled[key].float(), atol=5e-3) for key in plain)


def test_with_ema_the_averaged_weights_are_scored(tiny) -> None:
    config = tiny("ema=0.9")
    train(config)
    checkpoint = read_checkpoint(Path(config["run_dir"]) / "checkpoints" / "last.ckpt")
    averaged, raw = checkpoint["state_dict"], checkpoint["current_model_state"]
    assert not same(averaged, raw)
    net = open_trained(config["run_dir"]).segmenter().net.state_dict()
    best = read_checkpoint(Path(config["run_dir"]) / "checkpoints" / "best.ckpt")["state_dict"]
    assert all(torch.equal(net[key.removeprefix("net.")], best[key]) for key in best if key.startswith("net."))


def test_deep_supervision_needs_auxiliary_heads(tiny) -> None:
    with pytest.raises(ConfigError, match="auxiliary heads"):
        train(tiny("model=unet", "model.encoder_name=tu-mobilenetv3_small_050", "deep_supervision=true"))


def test_a_loss_that_is_not_finite_fails_the_run_and_names_the_images(tiny) -> None:
    config = tiny("optim.lr=1e30", "trainer.gradient_clip_val=null")
    with pytest.raises(FloatingPointError, match=r"(lesion|polyp|gland)_0000"):
        train(config)
    run = RunDir(Path(config["run_dir"]))
    assert run.status()["state"] == "failed" and "FloatingPointError" in run.status()["reason"]
    assert "training_step" in (run.path / "traceback.txt").read_text()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("monitor=val/dcie", "val/dice"),
        ("resume=sometimes", "auto, must, never"),
        ("model.match_params=10", "2 %"),
        ("test=no", "neither true nor false"),
        ("schedule.shape=cosin", "cosine"),
        ("seed=-1", "a whole number from 0"),
        ("ema=1.5", "below 1"),
        ("optim.lr=fast", "above 0"),
        ("trainer.max_epochs=0", "from 1"),
        ("trainer.devices=0", "number of devices"),
        ("trainer.limit_val_batches=0", "validates after every epoch"),
    ],
)
def test_bad_values_are_answered_with_the_possible_ones(tiny, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(override)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [(("model.in_channels=1",), "3 channels"), (("model.num_classes=2",), "binary")],
)
def test_a_network_that_does_not_fit_the_data_is_refused_before_training(tiny, overrides, message: str) -> None:
    config = tiny(*overrides)
    with pytest.raises(ConfigError, match=message):
        train(config)
    assert not Path(config["run_dir"]).exists()


def test_a_folder_without_its_root_is_asked_for(tiny_on) -> None:
    with pytest.raises(ConfigError, match=r"data\.root needs a value"):
        tiny_on("folder")


def test_other_folders_are_other_runs_and_moved_datasets_are_not(tiny_on) -> None:
    one, other = tiny_on("folder", "data.root=a"), tiny_on("folder", "data.root=b")
    assert one["run_dir"] != other["run_dir"]
    assert tiny_on("glas", "data.root=a")["run_dir"] == tiny_on("glas", "data.root=b")["run_dir"]


def test_images_that_changed_sides_are_noticed(tiny) -> None:
    config = tiny("trainer.max_epochs=1")
    train(config)
    split = Path(config["run_dir"]) / "split.json"
    content = json.loads(split.read_text())
    content["parts"]["val"], content["parts"]["test"] = content["parts"]["test"], content["parts"]["val"]
    content["sha256"] = Split("generated", "synthetic", content["parts"]).sha256
    split.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="changed sides"):
        train(config)


def test_match_params_ends_in_the_config(tiny) -> None:
    config = tiny("model.match_params=20000")
    assert config["model"]["match_params"] is None
    train(config | {"trainer": config["trainer"] | {"max_epochs": 1}})
    params = RunDir(Path(config["run_dir"])).metrics()["cost"]["params"]
    assert params == pytest.approx(20000, rel=0.02)


def test_what_wandb_recorded_of_a_run(tiny) -> None:
    config = tiny("logger=wandb", "study=mine", "tags=[a,b]")
    train(config)
    (file,) = run_files(Path(config["run_dir"]))
    (run,) = [record["run"] for record in map(json.loads, read(file).splitlines()) if record["type"] == "run"]
    kept = summary(file)["summary"]
    assert run["run_group"] == "mine" and run["tags"] == ["emisnet_intended", "synthetic", "bce_dice", "a", "b"]
    assert kept["cost/params"] == RunDir(Path(config["run_dir"])).metrics()["cost"]["params"]
    assert "val/dice" in kept and "test_native/dice" in kept
