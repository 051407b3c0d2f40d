"""What the READMEs and the experiment files tell people to type works, and where they point there is something."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from src.preflight import preflight

from .conftest import REPO

README = (REPO / "README.md").read_text()
EXPERIMENTS = sorted((REPO / "conf" / "experiment").rglob("*.yaml"))
PAGES = sorted(
    [REPO / "README.md", *(page for room in ("src", "experiments") for page in (REPO / room).rglob("README.md"))]
)
SPOKEN = "".join(file.read_text() for file in (*PAGES, REPO / "Makefile"))
ENTRIES = ("train", "evaluate", "predict", "report", "dashboard", "audit", "data.preview", "benchmark", "export", "app")
COMMANDS = sorted(
    {
        (entry, arguments)
        for entry, arguments in re.findall(rf"python -m src\.({'|'.join(map(re.escape, ENTRIES))}) ([^`\n]*)", SPOKEN)
        if not re.search("my_glands|my_net|sweep_decay", arguments)  # whose files the reader writes first
    }
)


@pytest.mark.parametrize(("entry", "arguments"), COMMANDS, ids=[" ".join(command) for command in COMMANDS])
def test_every_command_composes(entry: str, arguments: str) -> None:
    words = shlex.split(re.sub(r"\s+#.*", "", arguments).replace("<hash>", "0").replace("<n>", "0"))
    preflight(words, entry.removeprefix("data."))  # raises ConfigError for a key, group or option that does not exist


def test_what_the_reader_writes_composes(tmp_path: Path) -> None:
    """A study and a model, as the pages say; the datasets are in test_new_dataset.py."""
    (study,) = re.findall(r"```yaml\n(.*?)```", (REPO / "experiments" / "README.md").read_text(), re.DOTALL)
    (model,) = re.findall(r"with `(_target_: my_package.*?)`, `(\w+: 3)` and `(\w+: 1)`", README)
    for group, name, text in (("experiment", "sweep_decay", study), ("model", "my_net", "\n".join(model))):
        (tmp_path / group).mkdir()
        (tmp_path / group / f"{name}.yaml").write_text(text)
        preflight([f"--config-dir={tmp_path}", f"{group}={name}"], "train")


def test_the_readme_is_covered() -> None:
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("file", EXPERIMENTS, ids=[file.stem for file in EXPERIMENTS])
def test_an_experiment_starts_with_question_command_and_expected_result(file) -> None:
    head = file.read_text().split("defaults:")[0]
    assert all(word in head for word in ("# @package _global_", "Question:", "Command:", "Expected:"))
    preflight([f"experiment={file.stem}"], "train")


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of a page's headings: small letters, blanks to hyphens, other signs left out."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    }


@pytest.mark.parametrize("page", PAGES, ids=[str(page.parent.relative_to(REPO)) for page in PAGES])
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def test_the_readme_is_read_in_ten_minutes() -> None:
    assert len(README.split()) <= 3300


def test_no_placeholder_is_left() -> None:
    assert re.findall(r"^[A-Z_]{6,}$", README, re.MULTILINE) == []


def test_every_make_target_of_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", README)) <= targets


# `python -m MODULE --help`, which may not wait for what takes seconds to import
HELP = """
import runpy, sys
module = sys.argv[1]
sys.argv[1:] = ["--help"]
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as stop:
    assert not stop.code
heavy = {"torch", "cv2", "scipy", "pandas", "matplotlib", "plotly", "wandb", "gradio", "onnx", "onnxruntime"}
assert not heavy & sys.modules.keys()
"""


@pytest.mark.parametrize("entry", ENTRIES)
def test_help_is_quick_and_lists_the_choices(entry: str) -> None:
    choice = {"benchmark": "emisnet_no_ca", "app": "coarse_to_fine"}.get(entry, "kvasir_seg")
    command = [sys.executable, "-c", HELP, f"src.{entry}"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = done.stdout
    assert choice in shown and "Examples" in shown and "${" not in shown
