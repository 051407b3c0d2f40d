"""ONNX files that somebody might send: none reads other files, and what they say of themselves is not believed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from src.onnx_net import OnnxNet
from src.trained import open_trained

onnx = pytest.importorskip("onnx")
SECRET = b"the words of a file that is nobody's business!!!"
SAID = {
    **{"format": 1, "name": "net", "size": [64, 64], "mean": [0.5] * 3, "std": [0.2] * 3},
    **{
        "thresholds": {"full": 0.4},
        "tile": 100,
        "classes": ["polyp"],
        "told": {"trained_on": "photographs", "split": "s", "scores": {}},
    },
}


def write_onnx(
    path: Path, said: Any = SAID, *, nodes: Any = None, weights: Any = (), sides: Any = ("h", "w"), kind: str = "FLOAT"
) -> Path:
    """A network that gives the mean of the channels, unless `nodes` say otherwise."""
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    nodes = nodes or [helper.make_node("ReduceMean", ["image"], ["logits"], axes=[1], keepdims=1)]
    image = helper.make_tensor_value_info("image", floats, ["b", 3, *sides])
    logits = helper.make_tensor_value_info("logits", getattr(onnx.TensorProto, kind), ["b", 1, "y", "x"])
    model = helper.make_model(
        helper.make_graph(nodes, "net", [image], [logits], list(weights)),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    entry = model.metadata_props.add()
    entry.key, entry.value = "emisnet", said if isinstance(said, str) else json.dumps(said)
    path.write_bytes(model.SerializeToString())
    return path


def test_a_file_of_this_form_opens(tmp_path: Path) -> None:
    trained = open_trained(write_onnx(tmp_path / "net.onnx"))
    assert (trained.name, trained.size, trained.tile, trained.thresholds) == ("net", (64, 64), 100, {"full": 0.4})
    pixels = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    (probs,) = trained.segmenter(device="cpu").probabilities([pixels])
    assert probs.shape == (50, 60)


@pytest.mark.parametrize("place", ["secret.bin", "./secret.bin", "../secret.bin", "{cwd}/secret.bin", "link.bin"])
def test_weights_in_another_file_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Read as float32 they would come out in the logits, byte for byte."""
    here, sent = tmp_path / "here", tmp_path / "sent"
    for folder in (here, sent):
        folder.mkdir()
        (folder / "secret.bin").write_bytes(SECRET)
        (folder / "link.bin").symlink_to(folder / "secret.bin")
    (tmp_path / "secret.bin").write_bytes(SECRET)
    monkeypatch.chdir(here)
    outside = onnx.TensorProto(name="taken", data_type=onnx.TensorProto.FLOAT, dims=[1, 1, 3, 4])
    outside.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", place.format(cwd=here)), ("offset", "0"), ("length", "48")):
        outside.external_data.add(key=key, value=value)
    node = onnx.helper.make_node("Identity", ["taken"], ["logits"])
    file = write_onnx(sent / "net.onnx", nodes=[node], weights=[outside])
    with pytest.raises(ValueError, match=r"net\.onnx is not an ONNX file that ONNX Runtime can run"):
        open_trained(file)


def test_logits_of_several_planes_and_of_other_kinds_are_refused(tmp_path: Path) -> None:
    same = [onnx.helper.make_node("Identity", ["image"], ["logits"])]
    with pytest.raises(ValueError, match=r"gives logits of \[\(3, 64, 64\)\]"):  # the graph says one plane
        OnnxNet(write_onnx(tmp_path / "net.onnx", nodes=same))(torch.zeros(1, 3, 64, 64))
    cast = [onnx.helper.make_node("Cast", ["image"], ["logits"], to=onnx.TensorProto.STRING)]
    with pytest.raises(ValueError, match="takes and gives other than"):
        OnnxNet(write_onnx(tmp_path / "net.onnx", nodes=cast, kind="STRING"))


def test_what_it_tells_steers_no_terminal(tmp_path: Path) -> None:
    told = SAID["told"] | {"\x1b[2J": 1, "more": {"val\x1b": {"n": 3, "\x07": ["\x1b"]}}}
    trained = open_trained(write_onnx(tmp_path / "net.onnx", SAID | {"told": told}))
    assert "\\x1b" not in repr(trained.told) and trained.told["more"] == {"val?": {"n": 3, "?": ["?"]}}


@pytest.mark.parametrize("height", [1, 63, 6400])
def test_logits_of_another_size_are_refused(tmp_path: Path, height: int) -> None:
    size = onnx.helper.make_tensor("size", onnx.TensorProto.INT64, [4], [1, 1, height, 64])
    nodes = [onnx.helper.make_node("ConstantOfShape", ["size"], ["logits"])]
    net = OnnxNet(write_onnx(tmp_path / "net.onnx", nodes=nodes, weights=[size]))
    with pytest.raises(ValueError, match=rf"gives logits of \[\(1, {height}, 64\)\] for images of 64x64"):
        net(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"size": [10**9, 10**9]},
        {"size": [0, 0]},
        {"size": [-64, 64]},
        {"size": [64]},
        {"size": [64.5, 64]},
        {"size": "64"},
        {"size": 64},
        {"tile": 10**7},
        {"tile": -1},
        {"tile": "x"},
        {"mean": []},
        {"mean": [0.5] * 4, "std": [0.2] * 4},
        {"told": {"split": "s"}},
        *({"told": SAID["told"] | {"scores": wrong}} for wrong in ([1], {"val": 3}, {"val": {"dice": "x", "n": 1}})),
        {"mean": [float("nan")] * 3},
        {"mean": [0.5] * 10**5},
        {"std": [0, 0, 0]},
        {"std": [float("inf")] * 3},
        {"std": [0.2]},
        {"std": None},
        {"thresholds": [0.5]},
        {"thresholds": "full"},
        {"thresholds": {"full": 7}},
        {"thresholds": {"full": "x"}},
        {"told": "good"},
        {"classes": 3},
    ],
    ids=str,
)
def test_what_it_says_of_itself_is_checked(tmp_path: Path, change: dict[str, Any]) -> None:
    file = write_onnx(tmp_path / "net.onnx", SAID | change)
    with pytest.raises(ValueError, match=r"net\.onnx does not say how its images are prepared .*src\.export"):
        open_trained(file)


@pytest.mark.parametrize("said", ["", "{}", "[]", "null", "[" * 200_000, '{"format": 1}', "\x00"])
def test_what_says_nothing_is_refused(tmp_path: Path, said: str) -> None:
    with pytest.raises(ValueError, match=r"net\.onnx does not say how its images are prepared"):
        open_trained(write_onnx(tmp_path / "net.onnx", said))


def test_names_do_not_steer_a_terminal(tmp_path: Path) -> None:
    steering = "\x1b]0;taken\x07net\n\r"
    trained = open_trained(
        write_onnx(tmp_path / "net.onnx", SAID | {"name": steering, "told": SAID["told"] | {"trained_on": steering}})
    )
    assert trained.name.isprintable() and trained.told["trained_on"].isprintable() and "net" in trained.name
    assert len(open_trained(write_onnx(tmp_path / "b.onnx", SAID | {"name": "x" * 10**6})).name) < 1000
