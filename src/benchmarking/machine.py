"""What numbers were measured on: the processor, its floor (what no network on it beats), and whether it was quiet.

Nothing here is about networks.
"""

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from src.progress import available_cores
from src.provenance import processor

SIDE = 1024  # of the matrices whose product is timed: 1.07 GMACs
CACHED, DRAM = 2**18, 2**27  # bytes copied: 0.25 MB stays in a core's own cache, 128 MB do not fit a usual last one
OTHERS = 0.1  # of all cores, taken by other processes meanwhile
BUSY = 0.8  # load, in processes that run, above which another one did: a time then says little
DRIFT = 1.15  # fastest to slowest product of matrices during the measurement
SPREAD, MANY = 1.5, 0.25  # a time whose p95 is SPREAD medians is noisy; more than this share of them is too many


@dataclass(frozen=True)
class Floor:
    """One thread: matrix product in GMAC/s (float32), copies in GB/s, read and written bytes both counted."""

    gmac_per_s: float
    cached_gb_per_s: float
    dram_gb_per_s: float


def load() -> float:
    """Processes that ran or waited to, on average of the last minute."""
    return os.getloadavg()[0]


class Watch:
    """How many cores other processes took since it was made, on average; None where the system does not tell.

    A better witness than the load, which holds this process too. The time that a hypervisor took away counts.
    """

    def __init__(self) -> None:
        self.begun, self.busy, self.own = time.perf_counter(), *_busy_and_own()

    def others(self) -> float | None:
        busy, own = _busy_and_own()
        if busy is None or self.busy is None:
            return None
        return max(0.0, busy - self.busy - (own - self.own)) / (time.perf_counter() - self.begun)


def _busy_and_own() -> tuple[float | None, float]:
    """Seconds of work of all cores since the machine began, and of this process and the children that ended."""
    own = sum(os.times()[:4])
    file = Path("/proc/stat")
    if not file.is_file():
        return None, own
    user, nice, system, _, _, interrupt, soft, steal = map(int, file.read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + interrupt + soft + steal) / os.sysconf("SC_CLK_TCK"), own


def free_memory() -> float | None:
    """Bytes that a process may take without another's swapping; None where the system does not tell."""
    file = Path("/proc/meminfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((int(line.split()[1]) * 1024.0 for line in lines if line.startswith("MemAvailable:")), None)


def conditions(device: str, size: int, commit: str) -> dict[str, Any]:
    """Where and when; `load_after` is the caller's to add."""
    return {
        "processor": processor(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "cores": available_cores(),
        **{name: _version(name) for name in ("torch", "onnxruntime", "openvino")},
        "size": size,
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "commit": commit,
        "load_before": round(load(), 2),
    }


def sgemm_rate(repeats: int = 5) -> float:
    """GMAC/s of one thread in a product of matrices; the median of `repeats`, a fraction of a second in all."""
    a, b = torch.rand(SIDE, SIDE), torch.rand(SIDE, SIDE)
    return SIDE**3 / 1e9 / _seconds(lambda: torch.mm(a, b), repeats)


def measure_floor() -> Floor:
    return Floor(sgemm_rate(), _copy_rate(CACHED, 200), _copy_rate(DRAM, 5))


def doubts(
    load_before: float, others: float | None, cores: int, rates: Sequence[float], spreads: Sequence[float]
) -> list[str]:
    """Why the times may mean nothing, in words; an empty list where nothing speaks against them.

    Args:
        others: cores that other processes took meanwhile, of `Watch`, of `cores` that there are.
        rates: of `sgemm_rate`, before, between and after the settings.
        spreads: p95 / median of every time.
    """
    found = []
    if load_before > BUSY:
        found.append(f"the machine was busy before (load {load_before:.1f})")
    if others is not None and others > OTHERS * cores:
        found.append(f"other processes took {others:.1f} of {cores} cores meanwhile")
    if rates and max(rates) > DRIFT * min(rates):
        found.append(f"one and the same matrix product ran at {min(rates):.1f} to {max(rates):.1f} GMAC/s meanwhile")
    noisy = sum(spread > SPREAD for spread in spreads)
    if noisy > MANY * len(spreads):
        found.append(f"{noisy} of {len(spreads)} times have a p95 above {SPREAD:g} medians")
    return found


def _copy_rate(size: int, repeats: int) -> float:
    source = torch.ones(size // 4)
    target = torch.empty_like(source)
    return 2 * size / 1e9 / _seconds(lambda: target.copy_(source), repeats)


def _seconds(call: Any, repeats: int) -> float:
    """Median on one thread, after a call that is not timed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        taken = []
        for _ in range(repeats + 1):
            begun = time.perf_counter()
            call()
            taken.append(time.perf_counter() - begun)
    finally:
        torch.set_num_threads(threads)
    return statistics.median(taken[1:])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
