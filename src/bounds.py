"""What each number of a config may be, so that one out of range is answered before anything is built.

Above all what a library would accept in silence or answer with a traceback. Constructors of ours check what they are
given besides, since they are called without a config, too.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


class Bound(NamedTuple):
    """From `least` to `most`, without them where `over` or `under` says so; None only where it is `optional`."""

    whole: bool = False
    least: float = -math.inf
    most: float = math.inf
    over: bool = False
    under: bool = False
    optional: bool = False

    def allows(self, value: Any) -> bool:
        if value is None:
            return self.optional
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        above = value > self.least if self.over else value >= self.least
        return bool(math.isfinite(value) and above and (value < self.most if self.under else value <= self.most))

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        least = f"{'above' if self.over else 'from'} {self.least:g}"
        parts = [least] if self.least > -math.inf else []
        if self.most < math.inf:
            parts.append(f"{'below' if self.under else 'up to'} {self.most:g}")
        return f"{kind} {' and '.join(parts)}{', or null' if self.optional else ''}"


PROBABILITY = Bound(least=0, most=1)
BOUNDS = {
    "seed": Bound(whole=True, least=0),
    "ema": Bound(least=0, most=1, under=True),
    "teacher_weight": PROBABILITY,
    "threads": Bound(whole=True, least=1, most=512, optional=True),  # of thousands the OpenMP library ends the process
    "optim.lr": Bound(least=0, over=True),
    "optim.weight_decay": Bound(least=0),
    "optim.momentum": Bound(least=0, most=1, under=True),
    "schedule.warmup": Bound(least=0, most=1, under=True),
    "schedule.final": PROBABILITY,
    "trainer.max_epochs": Bound(whole=True, least=1),
    "trainer.accumulate_grad_batches": Bound(whole=True, least=1),
    "trainer.gradient_clip_val": Bound(least=0, over=True, optional=True),
    "trainer.log_every_n_steps": Bound(whole=True, least=1),
    "trainer.limit_train_batches": Bound(least=0, over=True),
    "data.size": Bound(whole=True, least=32, most=65_536),
    "data.batch_size": Bound(whole=True, least=1),
    "data.num_workers": Bound(whole=True, least=0, optional=True),
    "data.fold": Bound(whole=True, least=0, optional=True),
    "data.n_folds": Bound(whole=True, least=2),
    "data.split_seed": Bound(whole=True, least=0),
    "data.data_seed": Bound(whole=True, least=0),
    "data.mix": PROBABILITY,
    **{f"data.augment.{name}": PROBABILITY for name in ("flip", "rotate", "scale", "distort", "color", "blur")},
    "data.augment.rotate_limit": Bound(least=0, most=180),
    "data.augment.scale_limit": Bound(least=0, most=1, under=True),
    "data.augment.distort_limit": PROBABILITY,
    "data.augment.color_limit": PROBABILITY,
    "data.augment.blur_limit": Bound(least=0.1, most=100),
}


def check_bounds(config: Mapping[str, Any]) -> None:
    """ValueError that names the first key whose value is out of BOUNDS, or an accelerator or precision that is none."""
    for key, bound in BOUNDS.items():
        there, value = _find(config, key)
        if there and not bound.allows(value):
            raise ValueError(f"{key}={value} is not possible; it is {bound}.")
    for key, names in (("trainer.accelerator", ACCELERATORS), ("trainer.precision", PRECISIONS)):
        there, value = _find(config, key)
        if there and value not in names:
            raise ValueError(f"{key}={value} is not possible. Use {', '.join(names)}.")


def _find(config: Mapping[str, Any], key: str) -> tuple[bool, Any]:
    node: Any = config
    for name in key.split("."):
        if not isinstance(node, Mapping) or name not in node:
            return False, None
        node = node[name]
    return True, node
