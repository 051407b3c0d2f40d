"""Kernels and bytes, against numbers worked out by hand; turns, with calls and a clock that are not real."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from src.benchmarking.contender import settled
from src.benchmarking.counts import count_traffic
from src.benchmarking.profiles import by_share
from src.benchmarking.rounds import in_turns, latency_of, ratio
from src.statistics import front

FLOAT = 4
IMAGE = torch.zeros(1, 2, 8, 8)  # 128 numbers


class Of(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]):
        super().__init__()
        self.function = function

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.function(image)


@pytest.mark.parametrize(
    ("net", "kernels", "read", "written"),
    [
        (nn.Conv2d(2, 3, 1), 1, 128 + 6 + 3, 192),
        (nn.Conv2d(2, 3, 3, padding=1, bias=False), 1, 128 + 54, 192),
        (nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU()), 2, 137 + 192, 192 + 192),
        (nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(inplace=True)), 2, 137 + 192, 192 + 192),
        (nn.BatchNorm2d(2), 1, 128 + 4 * 2, 128),  # weight, bias, mean, variance
        (nn.Identity(), 0, 0, 0),
        (nn.Flatten(), 0, 0, 0),
        (Of(lambda x: x.transpose(2, 3)[:, :1].unsqueeze(0)), 0, 0, 0),
        (Of(lambda x: x.transpose(2, 3).contiguous()), 1, 128, 128),
        (Of(lambda x: x + x), 1, 256, 128),
        (Of(lambda x: torch.cat([x, x], 1)), 1, 256, 256),
        (Of(lambda x: x + x[:, :, :1, :1].expand_as(x)), 1, 128 + 2, 128),  # what is expanded is there once
        (Of(lambda x: F.adaptive_avg_pool2d(x, 1)), 1, 128, 2),
    ],
)
def test_traffic_is_that_of_the_kernels(net: nn.Module, kernels: int, read: int, written: int) -> None:
    found = count_traffic(net, IMAGE)
    assert (found.kernels, found.read, found.written) == (kernels, FLOAT * read, FLOAT * written)
    assert found.bytes == found.read + found.written


def test_half_precision_is_half_the_traffic() -> None:
    whole = count_traffic(nn.Conv2d(2, 3, 1), IMAGE)
    assert count_traffic(nn.Conv2d(2, 3, 1).bfloat16(), IMAGE.bfloat16()).bytes == whole.bytes // 2


class Clock:
    """Stands still but while a call of `taking` seconds runs."""

    def __init__(self) -> None:
        self.now, self.calls = 0.0, list[str]()

    def __call__(self) -> float:
        return self.now

    def taking(self, name: str, *seconds: float) -> Callable[[], None]:
        left = list(seconds)

        def call() -> None:
            self.calls.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return call


def test_calls_take_turns_and_are_timed_in_ms() -> None:
    clock, rounds = Clock(), list[int]()
    calls = [clock.taking("a", 9.0, 1.0), clock.taking("b", 9.0, 2.0)]
    times = in_turns(
        calls, 0, warm_up=1, fewest=3, most=9, clock=clock, after_round=lambda: rounds.append(len(clock.calls))
    )
    assert clock.calls == ["a", "b"] + ["a", "b"] * 3 and rounds == [4, 6, 8]
    assert times == [[1000.0] * 3, [2000.0] * 3]


def test_rounds_end_with_the_time_or_with_enough_of_them() -> None:
    clock = Clock()
    assert len(in_turns([clock.taking("a", 1.0)], 5, warm_up=0, fewest=1, most=99, clock=clock)[0]) == 5
    assert len(in_turns([clock.taking("a", 1.0)], 5, warm_up=0, fewest=7, most=99, clock=clock)[0]) == 7
    assert len(in_turns([clock.taking("a", 1.0)], 5, warm_up=0, fewest=1, most=3, clock=clock)[0]) == 3
    assert in_turns([], 5, clock=clock) == []


def test_a_quick_call_settles_before_it_is_timed() -> None:
    clock = Clock()
    calls = [clock.taking("quick", 0.01), clock.taking("slow", 1.0)]
    times = in_turns(calls, 0, warm_up=1, fewest=2, settle=0.05, clock=clock)
    assert clock.calls == ["quick", "slow", *["quick", "quick", "slow"] * 2]
    assert times == [pytest.approx([10.0] * 2), pytest.approx([1000.0] * 2)]


def test_a_ratio_is_taken_round_by_round() -> None:
    slowing, reference = [2.0, 4.0, 40.0], [1.0, 2.0, 20.0]  # the machine slowed down: ratios hold, times do not
    assert ratio(slowing, reference) == 2.0
    uneven, reference = [2.0, 9.0, 3.0, 10.0], [1.0, 3.0, 3.0, 5.0]  # ratios 2, 3, 1, 2: their mean is another
    assert ratio(uneven, reference) == 2.0
    assert ratio([1.0, 8.0, 9.0], [1.0, 2.0, 9.0]) == 1.0  # of the medians: 4, mean 2
    found = latency_of([3.0, 1.0, 2.0])
    assert (found.median, found.n) == (2.0, 3) and found.p95 == pytest.approx(2.9)


def test_shares_of_operators() -> None:
    rows = by_share([("Conv", 3.0), ("Conv", 3.0), ("Relu", 2.0)], runs=2)
    assert rows[0] == {"operator": "Conv", "calls": 1.0, "ms": 3.0, "share": 0.75}
    assert rows[1] == {"operator": "Relu", "calls": 0.5, "ms": 1.0, "share": 0.25}


def test_settled_networks_keep_their_numbers_in_range_and_their_momentum() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    with torch.no_grad():
        net[0].weight.mul_(0.02)
    assert settled(net, (2, 3, 16, 16)) is net and not net.training and net[1].momentum == 0.1
    assert net(torch.randn(2, 3, 16, 16)).std() > 0.5


def test_the_front_holds_what_nothing_beats() -> None:
    assert front([1.0, 2.0, 3.0], [0.5, 0.4, 0.9], higher=True) == [0, 2]
    assert front([1.0, 2.0, 3.0], [5.0, 6.0, 1.0], higher=False) == [0, 2]
