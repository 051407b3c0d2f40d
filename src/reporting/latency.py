"""How long a forward pass of each variant takes on this machine: measured when asked for, kept beside the report.

Eager PyTorch, float32, one image, one CPU thread, the network as it was trained (not fused). The variants take turns,
so that a machine that slows down slows all of them: their ratios are worth more than their milliseconds.
"""

import functools
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from src.benchmarking.machine import BUSY, load
from src.benchmarking.rounds import Latency, in_turns, latency_of
from src.comparison import Table
from src.files import write_json
from src.provenance import processor
from src.results import Result

if TYPE_CHECKING:
    from torch import nn

FILE = "latency.json"
SECONDS = 30.0  # of measuring


@dataclass(frozen=True)
class Latencies:
    """`by_variant`, and in words what they were measured on."""

    by_variant: Mapping[str, Latency]
    conditions: str


def time_nets(nets: Sequence["nn.Module"], shape: tuple[int, int, int, int], seconds: float = SECONDS) -> list[Latency]:
    """One forward pass of each in turn, on one thread, until `seconds` are over; `shape` is that of the image."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        calls = [functools.partial(net.eval(), image) for net in nets]
        with torch.inference_mode():
            times = in_turns(calls, seconds)
    finally:
        torch.set_num_threads(threads)
    return [latency_of(taken) for taken in times]


def measure_latencies(table: Table, path: Path, seconds: float = SECONDS) -> Latencies:
    """Times every variant of a table and keeps that in the file `path`."""
    from src.build import build_net

    load_before = load()
    keys = _keys(table)
    distinct = {key: table.variants[name][0] for name, key in keys.items()}
    shapes = {_shape(result) for result in distinct.values()}
    by_key: dict[str, Latency] = {}
    for shape in shapes:
        alike = {key: result for key, result in distinct.items() if _shape(result) == shape}
        nets = [build_net(result.config["model"], started=False, quiet=True) for result in alike.values()]
        by_key |= zip(alike, time_nets(nets, shape, seconds / len(shapes)), strict=True)
    import torch

    sizes = " / ".join(sorted(f"{height}x{width}" for _, _, height, width in shapes))
    conditions = (
        f"one image of {sizes} px, eager PyTorch {torch.__version__}, "
        f"float32, not fused, one thread of {processor()}, load before {load_before:.1f}, {time.strftime('%Y-%m-%d')}"
    )
    if load_before > BUSY:
        conditions += " (the machine was busy: measure again when it is idle)"
    write_json(path, {"conditions": conditions, "networks": {key: asdict(value) for key, value in by_key.items()}})
    return Latencies({name: by_key[key] for name, key in keys.items()}, conditions)


def kept_latencies(table: Table, path: Path) -> Latencies | None:
    """What an earlier call measured; None if nothing, or not all of these networks."""
    if not path.is_file():
        return None
    kept = json.loads(path.read_text(encoding="utf-8"))
    keys = _keys(table)
    if not set(keys.values()) <= kept["networks"].keys():
        return None
    return Latencies({name: Latency(**kept["networks"][key]) for name, key in keys.items()}, kept["conditions"])


def _shape(result: Result) -> tuple[int, int, int, int]:
    batch, channels, height, width = result.metrics["cost"]["input_shape"]
    return batch, channels, height, width


def _keys(table: Table) -> dict[str, str]:
    """By variant the key of its network: networks of one config are one network, whatever a study calls them."""
    told = {name: [found[0].config["model"], list(_shape(found[0]))] for name, found in table.variants.items()}
    texts = {name: json.dumps(network, sort_keys=True, default=str) for name, network in told.items()}
    return {name: hashlib.sha256(text.encode()).hexdigest()[:12] for name, text in texts.items()}
