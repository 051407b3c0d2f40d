"""Numbers that a change of structure must not change: each model's forward pass and the first losses of its training.

In float64: ten steps of AdamW carry float32's rounding, which is another on each processor, to 1 % of the loss.

python -m tests.golden [model ...]     writes tests/golden.json anew, or these models' entries
"""

import hashlib
import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.utils import instantiate
from torch import nn

from src.assemble import make_net, make_task
from src.callbacks import StepSeed
from src.config import composed
from src.provenance import cpuinfo, processor
from tests.nets import MODELS, WARNING, build, unsettle

FILE = Path(__file__).with_suffix(".json")
MADE_ON = "_made_on"  # besides the models' names
STEPS = 10
PLACES = [(0, 0, 0), (0, 31, 40), (0, 63, 63), (1, 5, 20), (1, 32, 32), (1, 60, 3)]  # of the logits (2, 1, 64, 64)
DATA = ("data=synthetic", "data.counts=[40,2,2]", "data.native_size=[72,80]", "data.size=64", "data.batch_size=4")
PLAIN = ("data.num_workers=0", "logger=none", "threads=1", "trainer.max_epochs=1", "runs=never_written")


class _Losses(pl.Callback):
    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, task: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.values.append(float(outputs["loss"]))


def names_of(net: nn.Module) -> str:
    """Eight digits of what a checkpoint must hold to be read: names and shapes of parameters and buffers."""
    held = [[name, list(value.shape)] for name, value in net.state_dict().items()]
    return hashlib.sha256(json.dumps(held).encode()).hexdigest()[:8]


def forward_of(name: str) -> dict[str, Any]:
    """Of fixed weights and statistics, in eval mode."""
    torch.manual_seed(0)
    net = unsettle(build(name)).double()
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        logits = net(image)
    shown = [logits[b, 0, y, x].item() for b, y, x in PLACES]
    return {"names": names_of(net), "std": logits.std().item(), "mean": logits.mean().item(), "logits": shown}


def losses_of(name: str, *, noise: float = 0.0) -> list[float]:
    """Of the first STEPS steps that `python -m src.train model=<name>` takes on generated images; `noise` is added to
    the logits, relative to each: how far rounding can carry."""
    config = composed(f"model={name}", *DATA, *PLAIN, "optim.lr=1e-3")
    source = instantiate(config["data"])
    source.setup("fit")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=WARNING)
        net, _ = make_net(config, source)
    generator = torch.Generator().manual_seed(2)
    net.register_forward_hook(
        lambda _, __, out: out * (1 + noise * torch.randn(out.shape, generator=generator, dtype=torch.float64))
    )
    losses = _Losses()
    trainer = pl.Trainer(
        accelerator="cpu",
        precision="64-true",
        devices=1,
        max_epochs=1,
        limit_train_batches=STEPS,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[StepSeed(config["seed"]), losses],
    )
    trainer.fit(make_task(config, net, source), datamodule=source)
    return losses.values


def made_on() -> dict[str, str]:
    """Where the numbers come out to the last digits that are compared: initial weights and resized images are float32
    and bytes, which another processor or torch may round otherwise. Its name is not enough: machines of one name have
    AVX-512 or not, and differ in generation."""
    kind = torch.backends.cpu.get_cpu_capability()
    return {
        "processor": processor(),
        "family and model": " ".join(cpuinfo("cpu family")[:1] + cpuinfo("model")[:1]),
        "instructions": kind,
        "torch": torch.__version__.split("+")[0],
    }


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    held = json.loads(FILE.read_text()) if names else {}
    if held.setdefault(MADE_ON, made_on()) != made_on():
        raise SystemExit(f"the other models' numbers were made on {held[MADE_ON]}: make all anew here, or these there")
    for name in names or MODELS:
        held[name] = {**forward_of(name), "losses": losses_of(name)}
        moved = max(abs(a / b - 1) for a, b in zip(losses_of(name, noise=1e-13), held[name]["losses"], strict=True))
        print(
            f"{name:24} losses {held[name]['losses'][0]:.4f} to {held[name]['losses'][-1]:.4f}; 1e-13 moves {moved:.1e}"
        )
    FILE.write_text(json.dumps({name: held[name] for name in sorted(held)}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
