"""Everything that weights may lie in, and what is refused."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from src.data.datasets import Synthetic
from src.evaluate import evaluate_run
from src.models.emisnet import EMISNet
from src.rundir import BUNDLED, RunDir
from src.trained import PRETRAINED, open_trained
from src.weights import check_sha256, checksum_path, sha256, write_safetensors

from .test_inference import small_net


@pytest.fixture
def bundle(trained_run: Path, tmp_path: Path) -> Path:
    """A run whose weights are handed on as safetensors."""
    path = tmp_path / "handed_on"
    shutil.copytree(trained_run, path, ignore=shutil.ignore_patterns("checkpoints"))
    write_safetensors(open_trained(trained_run).net, path / BUNDLED)
    return path


def images() -> list[np.ndarray]:
    source = Synthetic(size=32, counts=[2, 2, 2], native_size=[48, 56])
    return [source.load(id_)[0] for id_ in source.require("val")]


def test_a_run_its_checkpoint_and_its_bundle_are_one_network(trained_run: Path, bundle: Path) -> None:
    run = open_trained(trained_run)
    expected = run.segmenter().probabilities(images())
    for source in (trained_run / "checkpoints" / "best.ckpt", bundle, bundle / BUNDLED):
        other = open_trained(source)
        assert other.thresholds == run.thresholds and (other.size, other.mean) == (run.size, run.mean)
        for one, two in zip(expected, other.segmenter().probabilities(images()), strict=True):
            assert (one == two).all()


def test_what_a_user_must_know_comes_along(trained_run: Path) -> None:
    trained, metrics = open_trained(trained_run), RunDir(trained_run).metrics()
    assert trained.name == trained_run.name
    assert trained.told["trained_on"] == "synthetic"
    assert trained.told["scores"]["val"]["dice"] == metrics["scores"]["val"]["dice"]
    assert trained.tile == round((48 * 56) ** 0.5)  # the side that its images usually have
    assert trained.segmenter(mode="tiled").tile == trained.tile


def test_thresholds_are_those_of_the_way_of_looking(trained_run: Path, bundle: Path) -> None:
    file = bundle / "threshold.json"
    told = json.loads(file.read_text())
    told["threshold"], told["modes"] = 0.3, {"full+d4": {"threshold": 0.7}, "coarse_to_fine": {"threshold": 0.6}}
    file.write_text(json.dumps(told))
    trained = open_trained(bundle)
    assert trained.segmenter().threshold == 0.3
    assert trained.segmenter(tta="d4").threshold == 0.7
    assert trained.segmenter(tta="flips").threshold == 0.3  # none was chosen for it
    fine = trained.segmenter(mode="coarse_to_fine")
    assert (fine.threshold, fine.coarse_threshold) == (0.6, 0.3)
    assert trained.segmenter(threshold=0.9).threshold == 0.9
    with pytest.raises(ValueError, match="threshold=2"):
        trained.segmenter(threshold=2)


def test_one_changed_byte_is_refused(bundle: Path) -> None:
    weights = bundle / BUNDLED
    assert check_sha256(weights)
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.safetensors is not the file that .* was written for"):
        open_trained(bundle)
    checksum_path(weights).unlink()  # as its message says, for who trusts it
    assert not check_sha256(weights)
    open_trained(bundle)


def test_the_checksum_is_one_that_sha256sum_reads(bundle: Path) -> None:
    said = subprocess.run(
        ["sha256sum", "-c", f"{BUNDLED}.sha256"], cwd=bundle, capture_output=True, text=True, check=True
    )
    assert said.stdout == f"{BUNDLED}: OK\n" and len(sha256(bundle / BUNDLED)) == 64


PAYLOAD = {"_target_": "pathlib.Path.touch", "self": "mark"}  # Hydra's own list of what is refused does not have it
HIDDEN = {
    "whole": lambda part: part | PAYLOAD,
    "nested": lambda part: part | {"channels": PAYLOAD},
    "listed": lambda part: part | {"channels": [[{"a": [PAYLOAD]}]]},
    "resolved": lambda part: part | {"act": "${oc.create:{_target_:pathlib.Path.touch,self:mark}}"},
    "arguments": lambda part: part | {"_args_": ["mark"]},
    "imported": lambda part: part | {"_target_": "src.models.cost.inspect.os.makedirs"},
    "another": lambda part: part | {"_target_": "torch.nn.Linear"},
}


@pytest.mark.parametrize("part", ["model", "data"])
@pytest.mark.parametrize("how", HIDDEN)
@pytest.mark.parametrize("disguise", ["bundle", "with a checkpoint", "run directory"])
def test_a_stranger_s_config_runs_nothing(
    bundle: Path, part: str, how: str, disguise: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained_run: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    if disguise != "bundle":
        shutil.copytree(trained_run / "checkpoints", bundle / "checkpoints")
    if disguise == "run directory":
        (bundle / BUNDLED).unlink()
    config = yaml.safe_load((bundle / "config.yaml").read_text())
    config[part] = HIDDEN[how](config[part])
    (bundle / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=r"config\.yaml: (model|data) (is|holds) "):
        evaluate_run(bundle)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("part", ["model", "data"])
def test_a_module_that_lies_in_a_run_directory_is_not_imported(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """`python -m` has the working directory on its path, and a stranger's run may lie in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    run = shutil.copytree(trained_run, tmp_path / "theirs")
    (run / "evil.py").write_text("import pathlib; pathlib.Path('mark').touch()\nclass Net: pass\n")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config[part]["_target_"] = "theirs.evil.Net"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=rf"{part} is 'theirs.evil.Net'; .* of a package named in EMISNET_TRUST"):
        evaluate_run(run)
    assert not (tmp_path / "mark").exists()


def test_a_run_may_build_a_network_of_a_package_that_is_trusted(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is handed on may not."""
    shutil.copytree(trained_run, tmp_path / "run")
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    config["model"]["_target_"] = "tests.test_trained.Own"
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=r"'tests\.test_trained\.Own'; .* EMISNET_TRUST"):
        open_trained(tmp_path / "run")
    monkeypatch.setenv("EMISNET_TRUST", "another, tests")
    assert type(open_trained(tmp_path / "run").net).__name__ == "Own"
    write_safetensors(open_trained(trained_run).net, tmp_path / "run" / BUNDLED)
    with pytest.raises(ValueError, match=r"'tests\.test_trained\.Own'; .* only build the classes of src\.models"):
        open_trained(tmp_path / "run")


class Own(EMISNet):
    pass


def test_another_checkpoint_has_neither_scores_nor_thresholds(trained_run: Path) -> None:
    last = open_trained(trained_run / "checkpoints" / "last.ckpt")
    best = open_trained(trained_run / "checkpoints" / "best.ckpt")
    assert last.told == {} and last.thresholds == {} and best.told and best.thresholds
    assert last.sha256 == sha256(trained_run / "checkpoints" / "last.ckpt")


def test_small_images_are_seen_whole(bundle: Path) -> None:
    """Such as those of MedMNIST: smaller than any window."""
    (bundle / "per_image.csv").write_text("id,height,width\na,28,28\n")
    trained = open_trained(bundle)
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    whole = trained.segmenter().probabilities([image])[0]
    tiled = trained.segmenter(mode="tiled")
    assert tiled.tile == 32 and (tiled.probabilities([image])[0] == whole).all()
    with pytest.raises(ValueError, match="tile=16"):
        trained.segmenter(mode="tiled", tile=16)
    assert trained.segmenter(tile=16).probabilities([image])[0].shape == (28, 28)  # of no account without windows


def _text(path: Path) -> None:
    path.write_text("weights")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def _others(path: Path) -> None:
    write_safetensors(small_net(), path)


@pytest.mark.parametrize(
    ("damage", "said"), [(_text, "not a readable safetensors"), (_cut, "not a readable"), (_others, "another network")]
)
def test_damaged_weights_are_named(bundle: Path, damage, said: str) -> None:
    weights = bundle / BUNDLED
    checksum_path(weights).unlink()
    damage(weights)
    with pytest.raises(ValueError, match=f"{BUNDLED}.*{said}"):
        open_trained(bundle)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("emisnet_moon", "nor one of the weights in experiments/pretrained"),
        ("no/such/run", "is not a complete run directory"),
        ("absent.ckpt", "no such file"),
        ("absent.safetensors", "no such file"),
        ("absent.onnx", "cannot be read"),
        ("notes.txt", "neither a run directory nor"),
        (".", "is not a complete run directory"),
    ],
)
def test_what_is_nothing_of_that_kind(source: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=said):
        open_trained(source)


def test_encoders_are_not_downloaded_again(tmp_path: Path, bundle: Path) -> None:
    """A network that began from a hub's weights is filled from its own file."""
    from src.build import build_net

    model = {
        "_target_": "src.models.baselines.Baseline",
        **{"architecture": "unet", "encoder_name": "resnet18", "encoder_weights": None},
    }
    config = yaml.safe_load((bundle / "config.yaml").read_text())
    config["model"] = model | {"encoder_weights": "imagenet"}
    (bundle / "config.yaml").write_text(yaml.safe_dump(config))
    torch.manual_seed(3)
    net = build_net(model)
    write_safetensors(net, bundle / BUNDLED)
    opened = open_trained(bundle).net.state_dict()
    assert all(torch.equal(value, opened[name]) for name, value in net.state_dict().items())


def test_a_run_that_is_not_scored_yet_can_be_opened(bundle: Path) -> None:
    for name in ("metrics.json", "per_image.csv", "threshold.json"):
        (bundle / name).unlink()
    trained = open_trained(bundle)
    assert trained.told == {} and trained.tile is None and trained.segmenter().threshold == 0.5


@pytest.mark.parametrize("folder", sorted(PRETRAINED.glob("*/")), ids=lambda folder: folder.name)
def test_weights_in_the_box_are_whole(folder: Path) -> None:
    trained = open_trained(folder.name)
    assert check_sha256(folder / BUNDLED)
    assert sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) < 5_000_000
    probs = trained.segmenter(device="cpu").probabilities([np.zeros((90, 120, 3), np.uint8)])[0]
    assert probs.shape == (90, 120) and np.isfinite(probs).all()
    card = (folder / "README.md").read_text()
    dice = trained.told["scores"]["val"]["dice"]
    assert f"{dice:.4f}" in card and "Not a medical device" in card and trained.told["split_hash"][:8] in card
    from_imagenet = "encoder_weights: imagenet" in (folder / "config.yaml").read_text()
    assert from_imagenet == ("had learned imagenet" in card) == ("shown to it since" in card) != ("ever shown" in card)
    assert "/work" not in (folder / "config.yaml").read_text() and "/tmp" not in (folder / "config.yaml").read_text()


def test_there_are_weights_for_each_dataset() -> None:
    assert {folder.name for folder in PRETRAINED.glob("*/")} >= {"emisnet_kvasir", "emisnet_glas", "emisnet_isic2018"}
