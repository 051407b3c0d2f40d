"""Every engine computes what eager PyTorch does, or has no time; training steps and their memory."""

from pathlib import Path

import pytest
import torch
from torch import nn

from src.benchmarking import machine
from src.benchmarking.contender import make_contender, random_images
from src.benchmarking.engines import TOLERANCE, EngineError, Exports, checked, ready
from src.benchmarking.latencies import _figures, time_setting, time_training
from src.benchmarking.training import Peak, peaks_apart, training_step

from .conftest import quick
from .nets import model_config

NAME = "small"
CONFIG = {
    "_target_": "src.models.emisnet.EMISNet",
    "in_channels": 3,
    "num_classes": 1,
    "channels": [4, 4, 8],
    "encoder_depths": [1, 1, 1],
    "decoder_depths": [1, 1],
    "icm_levels": [2],
}


@pytest.mark.parametrize("engine", quick(["onnxruntime", "onnxruntime_unfused", "openvino"], ["onnxruntime"]))
def test_engines_agree_with_eager(engine: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip(engine.removesuffix("_unfused"))
    contender, image = make_contender(NAME, CONFIG, 32), random_images(2, 3, 32)
    with torch.inference_mode():
        expected = contender.net(image)
    call, difference = ready(engine, contender, image, 1, Exports(tmp_path), expected)
    assert 0 <= difference < 1e-4 * float(expected.abs().max())
    assert torch.allclose(torch.as_tensor(call()), expected, atol=1e-4)


def test_an_engine_that_computes_something_else_has_no_time(tmp_path: Path) -> None:
    contender = make_contender(NAME, CONFIG, 64)
    assert contender.fused is not None
    contender.fused.register_forward_hook(lambda net, args, logits: logits + 0.01 * logits.std())
    setting = {"batch": 1, "threads": 1, "size": 64, "seconds": 0.0, "reference": NAME}
    eager, fused = time_setting([contender], ["eager", "fused"], exports=Exports(tmp_path), **setting)  # type: ignore[arg-type]
    assert eager["error"] == "" and eager["median_ms"] > 0
    assert fused["error"].startswith("wrong output: logits differ by") and fused["median_ms"] is None


def test_outputs_are_compared_in_shape_and_value() -> None:
    logits = torch.randn(1, 1, 8, 8)
    assert checked(logits.numpy(), logits) == 0
    for wrong in (logits[..., :4], logits + 0.1, logits * torch.nan):
        with pytest.raises(EngineError, match="wrong output"):
            checked(wrong, logits)


def test_a_network_that_cannot_be_exported_gives_a_reason_and_is_tried_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contender = make_contender(NAME, CONFIG, 64)
    tried = []

    def refuse(net: nn.Module, image: torch.Tensor, path: Path) -> None:
        tried.append(path)
        raise RuntimeError("no such operator\nand more")

    monkeypatch.setattr("src.benchmarking.engines.export_onnx", refuse)
    exports, image = Exports(tmp_path), torch.randn(1, 3, 64, 64)
    for _ in range(2):
        with pytest.raises(EngineError, match=r"^export: RuntimeError: no such operator$"):
            ready("onnxruntime_unfused", contender, image, 1, exports, torch.zeros(1, 1, 64, 64))
    assert len(tried) == 1


def test_a_network_that_does_not_fold_is_timed_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(net: nn.Module) -> nn.Module:
        raise TypeError("unknown network")

    monkeypatch.setattr("src.benchmarking.contender.fuse", refuse)
    contender = make_contender(NAME, CONFIG, 64)
    setting = {"batch": 1, "threads": 1, "size": 64, "seconds": 0.0, "reference": NAME}
    eager, fused = time_setting([contender], ["eager", "fused"], exports=Exports(tmp_path), **setting)  # type: ignore[arg-type]
    assert eager["median_ms"] > 0 and fused["error"] == contender.note == "not fused: unknown network"


def test_a_training_step_leaves_the_network_as_it_was() -> None:
    contender = make_contender(NAME, CONFIG, 32)
    before = {name: value.clone() for name, value in contender.net.state_dict().items()}
    training_step(contender.net, random_images(2, 3, 32))()
    assert all(torch.equal(value, before[name]) for name, value in contender.net.state_dict().items())
    assert not contender.net.training and all(p.grad is None for p in contender.net.parameters())
    speeds = time_training([contender], batch=2, threads=1, size=32, seconds=0)
    assert speeds.keys() == {NAME} and isinstance(speeds[NAME], float)


def test_memory_is_measured_in_another_process_and_a_failure_told() -> None:
    found, failed = peaks_apart([CONFIG, {**CONFIG, "channels": []}], 128, 4, 1, "cpu")
    assert isinstance(found, Peak) and found.training > found.inference >= 0
    assert isinstance(failed, str) and "Error" in failed


def test_no_file_of_weights_is_needed_for_a_time() -> None:
    config = model_config("unet", "model.encoder_name=tu-resnet18", "model.encoder_weights=elsewhere.safetensors")
    assert make_contender("unet", config, 64).cost.params > 10_000_000
    (peak,) = peaks_apart([config], 64, 2, 1, "cpu")
    assert isinstance(peak, Peak)


def test_a_size_that_a_network_cannot_take_is_told() -> None:
    wide = {"_target_": "torch.nn.Conv2d", "in_channels": 3, "out_channels": 1, "kernel_size": 64}
    with pytest.raises(ValueError, match="wide does not run at size=32"):
        make_contender("wide", wide, 32)


def test_what_memory_does_not_hold_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contender = make_contender(NAME, CONFIG, 32)
    monkeypatch.setattr("src.benchmarking.machine.free_memory", lambda: 1e6)
    setting = {"batch": 1, "threads": 1, "size": 32, "seconds": 0.0, "reference": NAME}
    (row,) = time_setting([contender], ["eager"], exports=Exports(tmp_path), **setting)  # type: ignore[arg-type]
    assert row["error"].startswith("no memory") and row["median_ms"] is None


def test_figures_count_the_images_of_a_batch() -> None:
    contender = make_contender("tiny", CONFIG, 64)
    times = {("tiny", "eager"): [8.0, 8.0, 8.0], ("other", "eager"): [4.0, 2.0, 8.0]}
    found = _figures(("tiny", "eager"), times, contender, 4, "other")
    assert (found["median_ms"], found["n"], found["ratio"], found["ratio_to_eager"]) == (8.0, 3, 2.0, 1.0)
    assert found["img_per_s"] == pytest.approx(500)  # four in 8 ms
    assert found["gmac_per_s"] == pytest.approx(4 * contender.cost.macs / 8e6)


def test_the_tolerance_is_what_it_says() -> None:
    expected = torch.tensor([[-1.0, 1.0]]).repeat(1, 5000)  # a standard deviation of 1
    limit = TOLERANCE["cpu"]
    assert checked(expected + 0.98 * limit, expected) == pytest.approx(0.98 * limit, rel=1e-3)
    with pytest.raises(EngineError, match="wrong output"):
        checked(expected + 1.02 * limit, expected)


def test_others_are_what_is_busy_less_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([(10.0, 1.0), (16.0, 3.0)])  # s of all cores, s of our own
    monkeypatch.setattr(machine, "_busy_and_own", lambda: next(readings))
    clock = iter([100.0, 102.0])
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(clock))
    assert machine.Watch().others() == 2.0  # (6 - 2) in 2 s
