"""That training need not fill memory that nobody has written: `src.assemble.make_trainer` turns the filling off."""

import pytest
import torch
from torch.utils import deterministic

from src.train import train

from .conftest import quick
from .nets import MODELS, build


@pytest.fixture(autouse=True)
def as_found():
    filled = deterministic.fill_uninitialized_memory
    yield
    deterministic.fill_uninitialized_memory = filled
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    "name", quick(MODELS, ("emisnet_intended", "emisnet_plus", "emisnet_lite0", "egeunet", "unet"))
)
def test_filled_with_nan_or_not_the_gradients_are_the_same(name: str) -> None:
    """Gradients of every weight, and what batch normalization keeps, to the bit: else something reads what it finds."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    found = []
    for filled in (True, False):
        deterministic.fill_uninitialized_memory = filled
        torch.manual_seed(0)
        net = build(name, "deep_supervision=true" if name.startswith("emisnet") else "deep_supervision=false").train()
        net = net.to(memory_format=torch.channels_last)
        out = net(torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last))
        sum(logits.square().mean() for logits in (out if isinstance(out, list) else [out])).backward()
        found.append([weight.grad for weight in net.parameters()] + [buffer.clone() for buffer in net.buffers()])
    assert all((a is b) if a is None or b is None else torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_training_does_not_fill(tiny) -> None:
    deterministic.fill_uninitialized_memory = True
    train(tiny("trainer.max_epochs=1"))
    assert not deterministic.fill_uninitialized_memory
    assert torch.are_deterministic_algorithms_enabled()
