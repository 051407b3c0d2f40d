"""The learning rate of every step, against each schedule's closed form."""

import math
from collections.abc import Callable

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.optim import SGD

from src.schedules import SHAPES, schedule

from .conftest import REPO

CONFIGS = {path.stem: path for path in sorted((REPO / "conf" / "schedule").rglob("*.yaml"))}
STEPS = 200  # 5 % of them, ten steps, warm up


def rates(
    make: Callable[..., torch.optim.lr_scheduler.LRScheduler], steps: int = STEPS, lr: float = 1.0
) -> list[float]:
    """The rate of step 0, 1, ... and, last, the one after all steps."""
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(optimizer, steps)
    seen = [optimizer.param_groups[0]["lr"]]
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        seen.append(optimizer.param_groups[0]["lr"])
    return seen


def warmed(step: int, after: Callable[[float], float]) -> float:
    return (step + 1) / 11 if step < 10 else after((step - 10) / 190)


CLOSED_FORMS: dict[str, Callable[[int], float]] = {
    "constant": lambda step: 1.0,
    "poly": lambda step: warmed(step, lambda t: (1 - t) ** 0.9),
    "step": lambda step: 1.0 if step < 120 else 0.1 if step < 170 else 0.01,
    "warmup_cosine": lambda step: warmed(step, lambda t: 0.01 + 0.99 * (1 + math.cos(math.pi * t)) / 2),
}


def test_the_shipped_schedules_are_these_four() -> None:
    assert set(CONFIGS) == set(CLOSED_FORMS)


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_follows_its_closed_form(name: str) -> None:
    expected = [CLOSED_FORMS[name](step) for step in range(STEPS + 1)]
    assert rates(instantiate(OmegaConf.load(CONFIGS[name]))) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "step", "factor"),
    [
        ("warmup_cosine", 0, 1 / 11),
        ("warmup_cosine", 10, 1.0),  # the full rate, once warm
        ("warmup_cosine", 105, 0.505),  # half way between 1 and 0.01
        ("warmup_cosine", 200, 0.01),
        ("poly", 105, 0.5**0.9),
        ("poly", 200, 0.0),
        ("step", 119, 1.0),
        ("step", 120, 0.1),
        ("step", 170, 0.01),
    ],
)
def test_known_points(name: str, step: int, factor: float) -> None:
    seen = rates(instantiate(OmegaConf.load(CONFIGS[name])), lr=0.3)
    assert seen[step] == pytest.approx(0.3 * factor, abs=1e-12)


@pytest.mark.parametrize("shape", ["cosine", "poly"])
@pytest.mark.parametrize("final", [0.0, 0.01, 0.5])
def test_falls_to_final_and_stays_there(shape: str, final: float) -> None:
    seen = rates(lambda optimizer, steps: schedule(optimizer, steps // 2, shape=shape, final=final))
    falling = seen[: STEPS // 2 + 1]
    assert falling[0] == 1.0 and falling == sorted(falling, reverse=True) and len(set(falling)) == len(falling)
    assert seen[STEPS // 2 :] == pytest.approx([final] * (STEPS // 2 + 1), abs=1e-12)  # also beyond the end


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("warmup", [0.1, 0.5, 1.0])
def test_warm_up_rises_evenly_to_the_full_rate(shape: str, warmup: float) -> None:
    steps = round(warmup * STEPS)
    seen = rates(lambda optimizer, total: schedule(optimizer, total, shape=shape, warmup=warmup))
    assert seen[: steps + 1] == pytest.approx([(step + 1) / (steps + 1) for step in range(steps + 1)])
    assert min(seen[:steps]) > 0 and max(seen) == 1.0


def test_every_group_keeps_its_own_rate() -> None:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 0.002)]
    optimizer = SGD(groups)
    scheduler = schedule(optimizer, 4, shape="cosine")
    for _ in range(2):
        optimizer.step()
        scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.001])


@pytest.mark.parametrize("shape", SHAPES)
def test_one_step_is_enough(shape: str) -> None:
    assert rates(lambda optimizer, total: schedule(optimizer, total, shape=shape, warmup=0.05), steps=1)[0] == 1.0


def test_unknown_shape() -> None:
    with pytest.raises(ValueError, match=r"schedule\.shape='linear' is not known\. Possible: cosine, poly, constant"):
        schedule(SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0), 10, shape="linear")
