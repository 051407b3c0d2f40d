"""Who may import whom: models, losses, metrics and data know neither each other nor Hydra."""

import ast
from pathlib import Path

import pytest

from .conftest import REPO

ROOMS = {
    "models": {"src.models"},
    "metrics": {"src.metrics"},
    "data": {"src.data", "src.files", "src.progress"},
    "data/preview.py": {
        "src.cli",
        "src.config",
        "src.data",
        "src.figures",
        "src.trusted",
    },  # an entry point that shows this room
    "losses.py": set(),
    "schedules.py": set(),
    "inference.py": {"src.data.transforms", "src.progress", "src.tiling"},
    "tiling.py": set(),
    "weights.py": {"src.files"},
    "onnx_net.py": {"src.weights"},
    "trusted.py": set(),
    "bounds.py": set(),
    "trained.py": {
        *("src.build", "src.files", "src.inference", "src.onnx_net", "src.rundir", "src.thresholds", "src.weights"),
        *("src.bounds", "src.trusted"),
    },
    "rois.py": set(),
    "outputs.py": {"src.files", "src.rois"},
    "scoring.py": {"src.files", "src.masks", "src.metrics", "src.lens"},
    "masks.py": {"src.files"},
    "lens.py": {"src.metrics", "src.scoring"},
    "subject.py": {"src.data", "src.rundir", "src.trusted"},
    "thresholds.py": {"src.files", "src.inference", "src.progress", "src.rundir", "src.scoring"},
    "runlog.py": set(),
    "task.py": {"src.distillation", "src.inference", "src.metrics"},
    "distillation.py": {"src.inference"},
    "lineage.py": {"src.data.splits", "src.rundir", "src.trained", "src.weights"},
    "files.py": set(),
    "progress.py": set(),
    "statistics.py": set(),
    "rundir.py": {"src.files"},
    "provenance.py": set(),
    "process.py": set(),
    "ranks.py": {"src.process"},
    "resume.py": {"src.rundir", "src.data", "src.inference", "src.provenance", "src.weights"},
    "figures.py": {"src.files"},
    "audit_print.py": {"src.audit", "src.data"},
    "audit_page.py": {"src.audit", "src.data", "src.figures"},
    "loggers.py": {"src.secret"},
    "secret.py": set(),
    "callbacks.py": {"src.files", "src.rundir"},
    "study.py": {"src.files", "src.rundir"},
    "reporting": {
        *("src.comparison", "src.figures", "src.files", "src.masks", "src.reporting", "src.results", "src.rundir"),
        *("src.scoring", "src.statistics", "src.study", "src.subject", "src.loggers", "src.provenance"),
    },
    "reporting/latency.py": {
        *("src.benchmarking", "src.build", "src.comparison", "src.files", "src.provenance", "src.results"),
    },
    "benchmarking": {
        *("src.benchmarking", "src.build", "src.losses", "src.models", "src.progress", "src.statistics"),
    },
    "benchmarking/engines.py": {"src.benchmarking.contender", "src.exporting.onnx_file", "src.models"},
    "benchmarking/profiles.py": {"src.benchmarking", "src.files"},
    "benchmarking/request.py": {"src.benchmarking", "src.build", "src.cli", "src.config", "src.files", "src.preflight"},
    "benchmarking/figure.py": {"src.figures", "src.statistics"},
    "benchmarking/rounds.py": set(),
    "benchmarking/machine.py": {"src.progress", "src.provenance"},
    "benchmarking/counts.py": set(),
    "exporting": {
        *(
            "src.benchmarking",
            "src.data.source",
            "src.data.splits",
            "src.exporting",
            "src.trusted",
            "src.files",
            "src.inference",
            "src.lineage",
            "src.metrics",
        ),
        *("src.models", "src.progress", "src.rundir", "src.scoring", "src.statistics", "src.trained", "src.weights"),
    },
    "exporting/onnx_file.py": {"src.files"},
    "exporting/int8.py": {"src.exporting.onnx_file"},
    "exporting/card.py": {"src.lineage", "src.rundir", "src.scoring", "src.statistics"},
    "comparison.py": {"src.results", "src.statistics"},
    "results.py": {"src.data.splits", "src.rundir", "src.scoring", "src.study"},
    "timing.py": {"src.build", "src.losses"},
    "webapp": {
        *("src.data.decode", "src.data.pictures", "src.data.synthetic", "src.figures", "src.inference"),
        *("src.outputs", "src.provenance", "src.rois", "src.tiling", "src.trained", "src.webapp"),
    },
    "job.py": {"src.cli", "src.files", "src.process", "src.rundir", "src.train"},
}
# besides the entry points
LIGHTNING = {"task.py", "callbacks.py", "loggers.py", "ranks.py", "data/datamodule.py", "data/samples.py"}
HYDRA = {"build.py", "cli.py", "config.py", "preflight.py", "train.py", "evaluate.py", "subject.py", "audit.py"}
HYDRA |= {"data/preview.py", "assemble.py", "follow.py", "plan.py", "job.py", "timing.py", "report.py", "dashboard.py"}
HYDRA |= {"benchmark.py", "predict.py", "export.py", "app.py"}
FILES = sorted((REPO / "src").rglob("*.py"))


def imports(file: Path) -> set[str]:
    tree = ast.walk(ast.parse(file.read_text()))
    names = set()
    for node in tree:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(REPO / "src")))
def test_imports_follow_the_arrows(file: Path) -> None:
    name, found = str(file.relative_to(REPO / "src")), imports(file)
    room = name if name in ROOMS else name.split("/")[0]
    if room in ROOMS:
        strangers = {i for i in found if i.startswith("src") and not any(i.startswith(ok) for ok in ROOMS[room])}
        assert not strangers, f"{name} may not import {strangers}"
    if name not in HYDRA:
        assert not {i for i in found if i.split(".")[0] in ("hydra", "omegaconf")}, f"{name} may not read configs"
    if name not in LIGHTNING | HYDRA:
        assert not {i for i in found if i.split(".")[0] == "lightning"}, f"{name} may not import lightning"


def test_only_the_decoder_opens_images() -> None:
    openers = {f.name for f in FILES if "Image.open" in f.read_text() or "imread" in f.read_text()}
    assert openers == {"decode.py"}


def test_nothing_loads_pickles() -> None:
    words = (
        "weights_only=False",
        "allow_pickle=True",
        "pickle.load",
        "joblib.load",
        "shelve.",
        "marshal.",
        "torch.hub",
    )
    for file in FILES:
        text = file.read_text()
        assert not [word for word in words if word in text], file
        for line in text.splitlines():
            if "torch.load(" in line and "#" not in line.partition("torch.load(")[0]:
                assert "weights_only=True" in line, f"{file}: {line}"
            assert "yaml.load(" not in line or "YAML_LOADER" in line, f"{file}: {line}"
