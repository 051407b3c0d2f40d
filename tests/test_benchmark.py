"""The benchmark end to end on tiny networks, and what it answers to mistakes. No assertion is about a time."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from src.benchmark import benchmark, main
from src.benchmarking import machine
from src.benchmarking.engines import TOLERANCE
from src.benchmarking.request import Request, display_name, make_request, model_config
from src.files import read_csv

from .conftest import REPO, Call

NARROW = "emisnet channels=[4,4,8] encoder_depths=[1,1,1] decoder_depths=[1,1] icm_levels=[2]"
RELU = f"{NARROW} model.act=relu"
CONFIG: dict[str, Any] = {
    "models": [NARROW, RELU],
    "size": 64,
    "device": "cpu",
    "engines": ["eager", "fused", "onnxruntime"],
    "batches": [1],
    "threads": [1],
    "seconds": 0,
    "train_batch": 2,
    "reference": None,
    "memory": False,
    "profile": False,
    "scores": None,
}


def request_of(tmp_path: Path, **changes: Any) -> Request:
    return make_request({**CONFIG, "out": str(tmp_path / "out"), **changes})


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    return request_of(tmp_path)


def test_it_writes_tables_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    scores = tmp_path / "scores.csv"
    scores.write_text(f'model,dice\n"{NARROW}",0.8\n"{RELU}",0.7\n')
    threads = torch.get_num_threads()
    out = benchmark(request_of(tmp_path, scores=str(scores), profile=True))
    assert torch.get_num_threads() == threads
    printed = capsys.readouterr()
    text, rows, models = (out / "table.md").read_text(), read_csv(out / "benchmark.csv"), read_csv(out / "models.csv")
    assert text.strip() in printed.out and "expected: about" in printed.err
    names = [NARROW, display_name(RELU)]
    assert [(row["model"], row["engine"]) for row in rows] == [(name, e) for name in names for e in CONFIG["engines"]]
    for row in rows:
        assert row["error"] == "" and float(row["p95_ms"]) >= float(row["median_ms"]) > 0 and int(row["n"]) >= 3
        assert float(row["max_abs_diff"]) < TOLERANCE["cpu"]
        assert row["model"] != names[0] or float(row["ratio"]) == 1.0
        assert row["engine"] != "eager" or float(row["ratio_to_eager"]) == 1.0
    assert [row["model"] for row in models] == names
    assert float(models[0]["fused_params_m"]) < float(models[0]["params_m"])
    assert int(models[0]["fused_kernels"]) < int(models[0]["kernels"])
    for row in (*rows, *models):  # the conditions stand in every output
        assert row["processor"] and row["commit"] and torch.__version__.startswith(row["torch"]) and row["size"] == "64"
    assert all(word in text for word in ("GMAC/s", "load before", "torch", "onnxruntime", "commit", "in brackets"))
    assert (out / "pareto.png").stat().st_size > 10_000
    profiles = sorted((out / "profile").glob("*.csv"))
    assert len(profiles) == 4
    for profile in profiles:
        operators = read_csv(profile)
        assert 0 < len(operators) <= 15 and 0.3 < sum(float(row["share"]) for row in operators) <= 1.0001


def test_a_busy_machine_is_told_of(
    request_: Request, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (7.0, 7.0, 7.0))
    out = benchmark(Request(**{**vars(request_), "engines": ["eager"]}))
    assert "do not use these times: the machine was busy before (load 7.0)" in capsys.readouterr().err
    assert (out / "table.md").read_text().startswith("> **Warning: do not use these times.** the machine was busy")
    assert "load 7.0" in read_csv(out / "benchmark.csv")[0]["doubts"]


def test_what_makes_times_doubtful() -> None:
    def doubts(**changes: Any) -> list[str]:
        quiet = {"load_before": 0.1, "others": 0.05, "cores": 2, "rates": [50.0, 52.0], "spreads": [1.1] * 8}
        return machine.doubts(**{**quiet, **changes})

    assert doubts() == doubts(others=None) == []
    assert "(load 1.2)" in doubts(load_before=1.2)[0]
    assert "other processes took 0.9 of 2 cores" in doubts(others=0.9)[0]
    assert "ran at 30.0 to 50.0 GMAC/s" in doubts(rates=[50.0, 30.0])[0]
    assert "3 of 8 times" in doubts(spreads=[1.1] * 5 + [2.0] * 3)[0]
    assert doubts(spreads=[1.1] * 6 + [2.0] * 2) == []


def test_a_variant_is_a_name_with_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    assert model_config(RELU, 64)["act"] == "relu" and model_config(RELU, 64)["channels"] == [4, 4, 8]
    assert display_name(RELU) == f"{NARROW} act=relu"
    asked = []
    monkeypatch.setattr("src.benchmarking.request.composed", lambda *words: asked.extend(words) or {"model": {}})
    model_config("unet encoder_name=tu-resnet18", 128)  # data.size, since a budget of multiply-adds is met there
    assert asked == ["model=unet", "model.encoder_name=tu-resnet18", "data.size=128"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": ["emisnet_tinny"]}, "there is no model 'emisnet_tinny'. Did you mean emisnet_tiny"),
        ({"models": ["emisnet stem_strid=2"]}, "Did you mean model.stem_stride"),
        ({"models": []}, "which models?"),
        ({"engines": ["onnxruntme"]}, "Did you mean onnxruntime"),
        ({"engines": ["cuda_graphs"]}, "no cuda_graphs for device=cpu"),
        ({"device": "gpu"}, "device=gpu is not possible. Use cpu or cuda."),
        ({"device": "cuda", "engines": None}, "torch sees no GPU here"),
        ({"threads": [0]}, r"threads=\[0\] is not possible"),
        ({"batches": [None]}, "batches="),
        ({"size": 16}, "size=16 is not possible"),
        ({"train_batch": 1}, "train_batch=1"),
        ({"seconds": "long"}, "seconds=long"),
        ({"memory": "no"}, "memory=no is neither true nor false"),
        ({"reference": "unet"}, "reference=unet is none of the models"),
        ({"scores": "nowhere.csv"}, "there is no such file"),
    ],
)
def test_mistakes_are_answered(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        request_of(tmp_path, **changes)


def test_a_mistake_ends_with_exit_code_2(call: Call) -> None:
    ended = call(main, "models=[emisnet,unett]")
    assert ended.returncode == 2 and "Did you mean unet" in ended.stderr and "Traceback" not in ended.stderr


def test_the_defaults_are_a_request() -> None:
    from omegaconf import OmegaConf

    config = OmegaConf.to_container(OmegaConf.load(REPO / "conf" / "benchmark.yaml"))
    assert isinstance(config, dict) and json.dumps(config["models"])
    request = make_request({str(key): value for key, value in config.items()})
    assert request.reference == "emisnet" and "compile" not in request.engines and request.out.parts[0] == "benchmarks"
