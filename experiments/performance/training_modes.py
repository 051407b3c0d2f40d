"""Forward and backward of one in-memory batch: channels_last, bfloat16 and torch.compile, each alone and together.

python -m experiments.performance.training_modes [compile] [network ...]     # writes training_modes.md beside this file

Without the word `compile` the modes that compile, minutes for each network, are left out.

All modes of all networks take turns. Beside the speed stands how far a mode's gradient is from that of plain float32,
as the relative distance of all gradients in one vector; channels_last shows what other rounding alone does.
"""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from src.benchmarking.contender import random_images
from src.benchmarking.machine import conditions, load
from src.benchmarking.request import model_config
from src.benchmarking.rounds import in_turns, latency_of
from src.benchmarking.tables import told
from src.build import build_net
from src.losses import BCELoss, TverskyLoss, WeightedSum
from src.provenance import provenance

SIZE, BATCH, SECONDS = 128, 8, 15.0
NETWORKS = ("emisnet", "emisnet stem_stride=2", "emisnet_tiny", "unext", "unet")
MODES = [(layout, half, compiled) for compiled in (False, True) for layout in (False, True) for half in (False, True)]


def mode_name(channels_last: bool, bfloat16: bool, compiled: bool) -> str:
    parts = [("channels_last", channels_last), ("bfloat16", bfloat16), ("compile", compiled)]
    return " + ".join(name for name, on in parts if on) or "float32"


def make_step(
    line: str, channels_last: bool, bfloat16: bool, compiled: bool, device: str
) -> tuple[nn.Module, Callable[[], None]]:
    torch.manual_seed(0)
    net = build_net(model_config(line, SIZE), quiet=True).train().to(device)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = net.to(memory_format=layout)
    image = random_images(BATCH, 3, SIZE).to(device).contiguous(memory_format=layout)
    mask = (random_images(BATCH, 1, SIZE) > 0).to(device, torch.uint8)
    loss = WeightedSum(losses=[BCELoss(), TverskyLoss()], weights=[1.0, 1.0])
    if compiled:
        net.compile()

    def step() -> None:
        net.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            logits = net(image)
        loss(logits.float(), mask).backward()
        if device == "cuda":
            torch.cuda.synchronize()

    return net, step


def gradient(net: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten().float() for p in net.parameters() if p.grad is not None])


def main() -> None:
    warnings.simplefilter("ignore")  # networks announce dilated 1x1 kernels, the compiler its plans
    device = "cuda" if torch.cuda.is_available() else "cpu"
    words = sys.argv[1:]
    modes = MODES if "compile" in words else [mode for mode in MODES if not mode[2]]
    lines = [word for word in words if word != "compile"] or list(NETWORKS)
    before, rows = load(), []
    for line in lines:
        steps, distances, plain = {}, {}, None
        for mode in modes:
            net, step = make_step(line, *mode, device)
            step()
            found = gradient(net)
            plain = found if plain is None else plain
            distances[mode] = float((found - plain).norm() / plain.norm())
            steps[mode] = step
        taken = dict(zip(steps, in_turns(list(steps.values()), SECONDS, warm_up=1, fewest=5), strict=True))
        base = latency_of(taken[MODES[0]]).median
        for mode, times in taken.items():
            median = latency_of(times).median
            speed = f"{1000 * BATCH / median:.1f} | {base / median:.2f}"
            rows.append(f"| {line} | {mode_name(*mode)} | {speed} | {distances[mode]:.0e} |")
            print(rows[-1], flush=True)
    head = "| network | mode | img/s | speed-up | gradient differs by |\n| --- | --- | --- | --- | --- |\n"
    sentence = told(conditions(device, SIZE, provenance()["commit"]))
    table = head + "\n".join(rows)
    text = (
        f"{table}\n\nForward and backward, batch {BATCH}, {torch.get_num_threads()} threads; {sentence}; load before "
    )
    (Path(__file__).parent / "training_modes.md").write_text(f"{text}{before:.1f}; modes in turns, medians.\n")


if __name__ == "__main__":
    main()
