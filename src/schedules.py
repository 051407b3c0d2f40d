"""Learning-rate schedules, stepped once per optimizer step: a factor on the optimizer's rate."""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

# Each takes t in 0..1, the part of training that lies behind after the warm-up, and gives a factor from 1 down.
SHAPES: dict[str, Callable[[float], float]] = {
    "cosine": lambda t: 0.5 * (1 + math.cos(math.pi * t)),
    "poly": lambda t: (1 - t) ** 0.9,
    "constant": lambda t: 1.0,
    "step": lambda t: 0.1 ** ((t >= 0.6) + (t >= 0.85)),
}


def schedule(
    optimizer: Optimizer, total_steps: int, *, shape: str, warmup: float = 0.0, final: float = 0.0
) -> LambdaLR:
    """`warmup` (part of all steps) rises linearly to the full rate, then `shape` falls to `final` (factor) at the end.

    `step` divides by ten at 60 % and at 85 %. Raises ValueError for a shape that is not among SHAPES.
    """
    if shape not in SHAPES:
        raise ValueError(f"schedule.shape={shape!r} is not known. Possible: {', '.join(SHAPES)}.")
    warmup_steps = round(warmup * total_steps)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        t = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return final + (1 - final) * SHAPES[shape](min(1.0, t))

    return LambdaLR(optimizer, factor)
