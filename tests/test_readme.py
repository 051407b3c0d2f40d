"""What the README and the experiment files tell people to type works."""

import re
import resource
import shlex
import subprocess
import sys

import pytest

from src.preflight import preflight

from .conftest import REPO

README = (REPO / "README.md").read_text()
EXPERIMENTS = sorted((REPO / "conf" / "experiment").rglob("*.yaml"))
STUDIES = sorted((REPO / "experiments").glob("*/README.md"))
SPOKEN = "".join(file.read_text() for file in (REPO / "README.md", REPO / "Makefile", *STUDIES))
ENTRIES = ("train", "evaluate", "predict", "report", "dashboard", "audit", "data.preview", "benchmark", "export", "app")
COMMANDS = sorted(
    {
        (entry, arguments)
        for entry, arguments in re.findall(rf"python -m src\.({'|'.join(map(re.escape, ENTRIES))}) ([^`\n]*)", SPOKEN)
        if "my_glands" not in arguments  # test_new_dataset.py runs these
    }
)


@pytest.mark.parametrize(("entry", "arguments"), COMMANDS, ids=[" ".join(command) for command in COMMANDS])
def test_every_command_composes(entry: str, arguments: str) -> None:
    words = shlex.split(re.sub(r"\s+#.*", "", arguments).replace("<hash>", "0").replace("<n>", "0"))
    preflight(words, entry.removeprefix("data."))  # raises ConfigError for a key, group or option that does not exist


def test_the_readme_is_covered() -> None:
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("file", EXPERIMENTS, ids=[file.stem for file in EXPERIMENTS])
def test_an_experiment_starts_with_question_command_and_expected_result(file) -> None:
    head = file.read_text().split("defaults:")[0]
    assert all(word in head for word in ("# @package _global_", "Question:", "Command:", "Expected:"))
    preflight([f"experiment={file.stem}"], "train")


def test_no_placeholder_is_left() -> None:
    assert re.findall(r"^[A-Z_]{6,}$", README, re.MULTILINE) == []


def test_every_make_target_of_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (REPO / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z]+)", README)) <= targets


@pytest.mark.parametrize("entry", ENTRIES)
def test_help_is_quick_and_lists_the_choices(entry: str) -> None:
    choice = {"benchmark": "emisnet_no_ca", "app": "coarse_to_fine"}.get(entry, "kvasir_seg")
    command = [sys.executable, "-m", f"src.{entry}", "--help"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # of the processor, not of the clock: other tests run beside this one
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 6
    assert choice in shown and "Examples" in shown and "${" not in shown
