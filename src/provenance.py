"""What a run was made with: code, packages, machine. Numbers may differ where these do."""

import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    *("torch", "torchvision", "lightning", "torchmetrics", "timm", "segmentation-models-pytorch", "albumentations"),
    *("numpy", "scipy", "pillow", "opencv-python-headless", "hydra-core", "omegaconf"),
)


def provenance() -> dict[str, Any]:
    """`commit` of the code (with "+dirty" when files differ from it), `versions` of Python and the packages that
    matter."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD") + ("+dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        commit = "unknown"
    return {"commit": commit, "versions": {"python": platform.python_version(), **dict(_versions(PACKAGES))}}


def short_commit(commit: str) -> str:
    """A commit as git shortens it; what was not committed stays visible."""
    return commit[:7] + ("+dirty" if commit.endswith("+dirty") else "")


def cpuinfo(key: str) -> list[str]:
    """What Linux tells of each core under `key`, such as "model name"; elsewhere nothing."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    told = (line.partition(":") for line in lines)
    return [value.strip() for name, _, value in told if name.strip() == key]


def processor() -> str:
    """The processor's name and cores, as Linux tells them."""
    names = cpuinfo("model name")
    return f"{names[0]} ({len(names)} cores)" if names else platform.processor() or platform.machine()


def machine(accelerator: str) -> dict[str, str]:
    """`processor`, and the GPU's name as `device` where the Trainer's `accelerator` takes one, "mps" for Apple's, else
    "cpu".

    Not the machine's name, nor anything else of whose it is.
    """
    import torch

    device = "cpu"
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    elif accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        device = "mps"
    return {"processor": processor(), "device": device}


def _versions(packages: Iterable[str]) -> Iterable[tuple[str, str]]:
    for package in packages:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            yield package, "absent"
