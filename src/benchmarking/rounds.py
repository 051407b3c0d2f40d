"""Timing in turns: A B A B ..., so that a machine that slows down slows all of them, and ratios of a round hold."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

WARM_UP, FEWEST, MOST = 3, 10, 100  # calls of each


@dataclass(frozen=True)
class Latency:
    """Median and 95th percentile of `n` calls, ms."""

    median: float
    p95: float
    n: int


def in_turns(
    calls: Sequence[Callable[[], Any]],
    seconds: float,
    *,
    warm_up: int = WARM_UP,
    fewest: int = FEWEST,
    most: int = MOST,
    settle: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
    after_round: Callable[[], Any] = lambda: None,
) -> list[list[float]]:
    """The times (ms) of each call, one a round: `warm_up` untimed calls of each, then rounds of one call of each.

    Rounds end when `seconds` are over, but there are at least `fewest` and at most `most`. A call that took less than
    `settle` seconds when warm is made once untimed before each timed one: the turn before was another's, which leaves
    its own weights in the caches and, for a moment, its threads on the cores.
    """
    times: list[list[float]] = [[] for _ in calls]
    if not calls:
        return times
    quick = []
    for call in calls:
        taken = 0.0
        for _ in range(warm_up):
            begun = clock()
            call()
            taken = clock() - begun
        quick.append(taken < settle)
    end = clock() + seconds
    while len(times[-1]) < fewest or (len(times[-1]) < most and clock() < end):
        for call, kept, is_quick in zip(calls, times, quick, strict=True):
            if is_quick:
                call()
            begun = clock()
            call()
            kept.append(1000 * (clock() - begun))
        after_round()
    return times


def latency_of(times: Sequence[float]) -> Latency:
    return Latency(float(np.median(times)), float(np.quantile(times, 0.95)), len(times))


def ratio(times: Sequence[float], reference: Sequence[float]) -> float:
    """Median over rounds of time / the reference's time in the same round."""
    return float(np.median(np.divide(times, reference)))
