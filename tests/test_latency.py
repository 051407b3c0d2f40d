"""Times of forward passes: taken in turns, kept by network, never mixed with those of others."""

from pathlib import Path

import pytest
import torch
from torch import nn

from src.benchmarking.rounds import FEWEST, WARM_UP
from src.comparison import Table, compare
from src.reporting.latency import Latency, kept_latencies, measure_latencies, time_nets
from src.results import read_results
from src.study import StudyRun


class Watched(nn.Module):
    def __init__(self, name: str, seen: list[str]):
        super().__init__()
        self.name, self.seen = name, seen

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        assert torch.get_num_threads() == 1 and not self.training and torch.is_inference_mode_enabled()
        self.seen.append(self.name)
        return image


def test_networks_take_turns_after_a_warm_up() -> None:
    seen: list[str] = []
    threads = torch.get_num_threads()
    found = time_nets([Watched("a", seen), Watched("b", seen)], (1, 3, 8, 8), seconds=0)
    assert seen == ["a"] * WARM_UP + ["b"] * WARM_UP + ["a", "b"] * FEWEST
    assert [latency.n for latency in found] == [FEWEST] * 2 and torch.get_num_threads() == threads
    assert all(0 < latency.median <= latency.p95 for latency in found)


@pytest.fixture
def table(study: tuple[Path, list[StudyRun]]) -> Table:
    results, part = read_results(*study)
    return compare(results, part=part, metrics=["dice"])


def test_what_was_measured_is_kept_for_these_networks_alone(table: Table, tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    assert kept_latencies(table, path) is None
    measured = measure_latencies(table, path, seconds=0)
    assert set(measured.by_variant) == {"plain", "bold"} and isinstance(measured.by_variant["bold"], Latency)
    assert measured.by_variant["plain"] == measured.by_variant["bold"]  # copies of one run: one network, timed once
    assert all(word in measured.conditions for word in ("32x32", "one thread", "not fused", "load before"))
    assert kept_latencies(table, path) == measured
    wider = table.variants["bold"][0]
    wider.config["model"]["channels"] = [8, 8, 16, 16, 16]  # type: ignore[index]
    assert kept_latencies(table, path) is None
