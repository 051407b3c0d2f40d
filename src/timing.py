"""How long a training will take, from a few timed steps on random pixels."""

import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from hydra.utils import instantiate
from torch import nn

from src.build import build_net
from src.losses import DeepSupervision

TIMED_FOR = 0.5  # s of steps, after one to warm up
FEW = 2  # images of a timed step on a CPU, where a batch takes as long as its images one after another
VALIDATION = 1 / 3  # of a training step's time an image: a forward pass alone


def seconds_apart(configs: Sequence[Mapping[str, Any]]) -> Iterator[float]:
    """`seconds_per_run` of each; on a GPU in another process, whose memory is free again before anything is trained."""
    if not torch.cuda.is_available():
        yield from map(seconds_per_run, configs)
        return
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(seconds_per_run, configs)


def seconds_per_run(config: Mapping[str, Any]) -> float:
    """Seconds that a complete config would train, without reading, augmentation and scoring.

    Raises ValueError where its data cannot be had.
    """
    net = build_net(config["model"], started=False, quiet=True)
    source = instantiate({**config["data"], "download": False})
    if not config["data"].get("download"):
        for part in ("train", "val"):
            source.require(part)
    batches, images = source.train_batches, source.batch_size
    limit = config["trainer"]["limit_train_batches"]
    batches = min(batches, limit) if isinstance(limit, int) else batches * limit
    epoch = batches + VALIDATION * len(source.parts["val"]) / images
    return config["trainer"]["max_epochs"] * epoch * step_seconds(config, net)


def step_seconds(config: Mapping[str, Any], net: nn.Module) -> float:
    """Seconds of one forward and backward pass of a batch, on the device that training would take."""
    use_cpu = config["trainer"]["accelerator"] == "cpu" or not torch.cuda.is_available()
    device, precision = "cpu" if use_cpu else "cuda", str(config["trainer"]["precision"])
    layout = torch.channels_last if config["channels_last"] else torch.contiguous_format
    net = net.to(device).to(memory_format=layout).train()
    loss = instantiate(config["loss"])
    loss = DeepSupervision(loss) if config["deep_supervision"] else loss
    size, batch = config["data"]["size"], config["data"]["batch_size"]
    timed = min(batch, FEW) if device == "cpu" else batch
    image = torch.rand(timed, len(config["data"]["mean"]), size, size, device=device).contiguous(memory_format=layout)
    mask = (torch.rand(timed, 1, size, size, device=device) > 0.5).to(torch.uint8)
    half = torch.bfloat16 if precision.startswith("bf16") else torch.float16

    def step() -> None:
        with torch.autocast(device, half, enabled="mixed" in precision):
            value = loss(net(image), mask)
        value.backward()
        if device == "cuda":
            torch.cuda.synchronize()

    step()
    begun, steps = time.perf_counter(), 0
    while not steps or time.perf_counter() - begun < TIMED_FOR:
        step()
        steps += 1
    return (time.perf_counter() - begun) / steps * batch / timed
