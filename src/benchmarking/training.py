"""A training step, forward and backward, and the memory that it and a forward pass take."""

import copy
import multiprocessing
import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from src.benchmarking.contender import random_images
from src.build import build_net
from src.losses import BCELoss, DeepSupervision, TverskyLoss, WeightedSum


@dataclass(frozen=True)
class Peak:
    """Peak memory, MB, of a forward pass of one image and of a training step, above that of the network at rest."""

    inference: float
    training: float


def training_step(net: nn.Module, image: torch.Tensor) -> Callable[[], None]:
    """A call that computes the gradients of BCE + Dice on `image` (B, C, H, W), for a copy of `net`."""
    net = copy.deepcopy(net).requires_grad_(True).train()
    loss = DeepSupervision(WeightedSum(losses=[BCELoss(), TverskyLoss()], weights=[1.0, 1.0]))
    planes = net.num_classes
    assert isinstance(planes, int)
    mask = (random_images(len(image), planes, image.shape[-1]) > 0).to(image.device, torch.uint8)

    def step() -> None:
        net.zero_grad(set_to_none=True)
        loss(net(image), mask).backward()
        if image.device.type == "cuda":
            torch.cuda.synchronize()

    return step


def peaks_apart(
    configs: Sequence[Mapping[str, Any]], size: int, batch: int, threads: int, device: str
) -> Iterator[Peak | str]:
    """`peak_memory` of each in a process of its own, since memory is not all given back; or why there is none."""
    for config in configs:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            try:
                yield pool.submit(peak_memory, config, size, batch, threads, device).result()
            except Exception as error:  # killed for lack of memory, or what a network raises: a cell of the table
                yield f"{type(error).__name__}: {error}"


def peak_memory(config: Mapping[str, Any], size: int, batch: int, threads: int, device: str) -> Peak:
    """For a fresh process: resident memory on the CPU, allocated memory on a GPU, of a forward pass of one image, then
    of a training step of `batch` images, each at its peak, less what was taken before the first."""
    torch.set_num_threads(threads)
    net = build_net(config, started=False, quiet=True).to(device).eval()
    few = random_images(2, config["in_channels"], 64).to(device)
    with torch.inference_mode():
        net(few)  # loads the libraries
    image = random_images(batch, config["in_channels"], size).to(device)
    before = _start(device)
    with torch.inference_mode():
        net(image[:1])
    inference = _peak(device) - before
    training_step(net, image)()
    return Peak(inference, _peak(device) - before)


def _start(device: str) -> float:
    """Forgets the peak so far, where the system lets it; MB in use now."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 1e6
    forget = Path("/proc/self/clear_refs")
    try:
        forget.write_text("5")
    except OSError:
        return _peak(device)  # then growth counts from the peak of loading
    return _status("VmRSS")


def _peak(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() / 1e6
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def _status(key: str) -> float:
    """A line of Linux's account of this process, MB; 0 where there is none."""
    file = Path("/proc/self/status")
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{key}:")), 0.0)
