"""What is installed and pinned is what was found safe (RELIABILITY.md, row 34)."""

import re
from importlib.metadata import version

import pytest
from packaging.version import Version

from .conftest import REPO

LOCK = (REPO / "requirements.lock").read_text()
LEAST = {"lightning": "2.6.6", "hydra-core": "1.3.7", "torch": "2.10"}  # below: malware, or known ways to run code


@pytest.mark.parametrize("package", LEAST)
def test_no_version_with_known_holes(package: str) -> None:
    assert Version(version(package)) >= Version(LEAST[package])
    pinned = re.search(rf"^{package}==(\S+)", LOCK, re.MULTILINE)
    assert pinned and Version(pinned[1]) >= Version(LEAST[package])


def test_every_pin_has_its_hashes() -> None:
    entries = re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", LOCK, flags=re.MULTILINE).strip())
    assert len(entries) > 100
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry or "==" not in entry] == []


def test_the_lock_names_no_host() -> None:
    pins = "\n".join(line for line in LOCK.splitlines() if not line.startswith("#"))
    assert "://" not in pins and "index-url" not in pins
