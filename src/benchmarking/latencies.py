"""Times of one setting (a batch, a number of threads): every network in every engine, in turns."""

from collections.abc import Sequence
from typing import Any

import torch

from src.benchmarking import machine
from src.benchmarking.contender import Contender, random_images
from src.benchmarking.engines import Call, EngineError, Exports, ready
from src.benchmarking.rounds import in_turns, latency_of, ratio
from src.benchmarking.training import training_step
from src.progress import progress

WARM_UP = 1  # calls of each, after the one whose output was compared
FEWEST, MOST = 3, 200  # timed calls of each; FEWEST also where they take longer than they may
RESERVE = 3e9  # bytes left free: networks that take turns are in memory together
SETTLE = 0.05  # s: what is quicker is called once untimed in its turn, see in_turns
BEST = (
    "onnxruntime",
    "cuda_graphs",
    "openvino",
    "onnxruntime_unfused",
    "compile",
    "fused",
    "eager",
)  # the first with a time speaks for a net

Key = tuple[str, str]  # model, engine


def time_setting(
    contenders: Sequence[Contender],
    engines: Sequence[str],
    *,
    batch: int,
    threads: int,
    size: int,
    seconds: float,
    exports: Exports,
    reference: str,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """A row for each network and engine; one that did not run, or computed something else, says why in `error`.

    Of a single image all engines take turns, of a batch the networks in one engine after another.
    """
    torch.set_num_threads(threads)
    if "compile" in engines:
        torch.compiler.reset()  # its code is made for one number of threads
    if batch > 1 and len(engines) > 1:  # together they would not fit into memory: 1 GB each at batch 16 and 256 px
        each = seconds / len(engines)
        parts = [
            time_setting(
                contenders, [engine], batch=batch, threads=threads, size=size, seconds=each, exports=exports,
                reference=reference, device=device,
            )
            for engine in engines
        ]  # fmt: skip
        return [row for rows in zip(*parts, strict=True) for row in rows]
    told = f"batch {batch}, {threads} thread{'s' if threads > 1 else ''}"
    calls: dict[Key, Call] = {}
    differences: dict[Key, float] = {}
    errors: dict[Key, str] = {}
    with progress(len(contenders) * len(engines), f"{told}: preparing", unit=" networks") as bar:
        for contender in contenders:
            free = machine.free_memory()
            if free is not None and free < RESERVE:
                short = f"no memory: {free / 1e9:.1f} GB are free; choose fewer models, engines or images"
                errors |= dict.fromkeys([(contender.name, engine) for engine in engines], short)
                continue
            image = random_images(batch, contender.in_channels, size).to(device)
            with torch.inference_mode():
                expected = contender.net(image)
            for engine in engines:
                key = (contender.name, engine)
                try:
                    calls[key], differences[key] = ready(engine, contender, image, threads, exports, expected)
                except EngineError as error:
                    errors[key] = str(error)
                bar.update()
    with progress(None, f"{told}: timing", unit=" rounds") as bar, torch.inference_mode():
        taken = in_turns(
            list(calls.values()), seconds, warm_up=WARM_UP, fewest=FEWEST, most=MOST, settle=SETTLE,
            after_round=bar.update,
        )  # fmt: skip
    times = dict(zip(calls, taken, strict=True))
    rows = []
    for contender in contenders:
        for engine in engines:
            key = (contender.name, engine)
            row = {"model": contender.name, "engine": engine, "batch": batch, "threads": threads}
            rows.append(row | _figures(key, times, contender, batch, reference))
            rows[-1] |= {"max_abs_diff": differences.get(key), "error": errors.get(key, "")}
    return rows


def time_training(
    contenders: Sequence[Contender], *, batch: int, threads: int, size: int, seconds: float, device: str = "cpu"
) -> dict[str, float | str]:
    """By model the images per second of training steps of `batch` images, taken in turns; or why there are none."""
    torch.set_num_threads(threads)
    found: dict[str, float | str] = {}
    steps: dict[str, Call] = {}
    for each in contenders:
        step = training_step(each.net, random_images(batch, each.in_channels, size).to(device))
        try:
            step()
            steps[each.name] = step
        except RuntimeError as error:  # out of memory, most likely
            found[each.name] = f"{type(error).__name__}: {error}".splitlines()[0]
    with progress(None, f"training step, batch {batch}", unit=" rounds") as bar:
        taken = in_turns(list(steps.values()), seconds, warm_up=0, fewest=FEWEST, most=MOST, after_round=bar.update)
    return found | {name: 1000 * batch / latency_of(times).median for name, times in zip(steps, taken, strict=True)}


def _figures(
    key: Key, times: dict[Key, list[float]], contender: Contender, batch: int, reference: str
) -> dict[str, Any]:
    """What follows from the times of one network in one engine; all None where there are none."""
    names = ("median_ms", "p95_ms", "n", "ratio", "ratio_to_eager", "img_per_s", "gmac_per_s")
    if key not in times:
        return dict.fromkeys(names)
    latency = latency_of(times[key])
    _, engine = key
    unfused = engine in ("eager", "onnxruntime_unfused") or contender.fused_cost is None
    cost = contender.cost if unfused else contender.fused_cost
    assert cost is not None
    others = (times.get((reference, engine)), times.get((contender.name, "eager")))
    ratios = [ratio(times[key], other) if other else None for other in others]
    speeds = [1000 * batch / latency.median, cost.macs * batch / 1e6 / latency.median]
    return dict(zip(names, [latency.median, latency.p95, latency.n, *ratios, *speeds], strict=True))
