"""Where the time of a forward pass goes: operators by share, in ONNX Runtime and in eager PyTorch."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from src.benchmarking.contender import Contender, random_images
from src.benchmarking.engines import EngineError, Exports
from src.benchmarking.request import Request
from src.files import write_csv

TOP, RUNS, WARM_UP = 15, 20, 3


def write_profiles(contenders: Sequence[Contender], request: Request, exports: Exports) -> None:
    """<out>/profile/<model>-<engine>.csv for each network, of the first batch and number of threads."""
    threads = request.threads[0]
    torch.set_num_threads(threads)
    for contender in contenders:
        image = random_images(request.batches[0], contender.in_channels, request.size)
        stem = request.out / "profile" / re.sub(r"[^\w.=,-]+", "_", contender.name)
        write_csv(stem.with_name(f"{stem.name}-eager.csv"), eager_operators(contender.net, image))
        if "onnxruntime" in request.engines:
            try:
                file = exports.file(contender, image, "onnxruntime")
            except EngineError:
                continue  # the table says why
            write_csv(stem.with_name(f"{stem.name}-onnxruntime.csv"), onnxruntime_operators(file, image, threads))


def onnxruntime_operators(file: Path, image: Tensor, threads: int) -> list[dict[str, Any]]:
    """Rows of operator, calls and ms of a run and share of the time, of an ONNX file on `image`; the TOP by time."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.enable_profiling, options.profile_file_prefix = True, str(file.with_suffix(""))
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: image.numpy()}
    for _ in range(RUNS):
        session.run(None, feed)
    written = Path(session.end_profiling())
    events = json.loads(written.read_text(encoding="utf-8"))
    written.unlink()
    kernels = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    return by_share(((event["args"]["op_name"], event["dur"] / 1000) for event in kernels), RUNS)


def eager_operators(net: nn.Module, image: Tensor) -> list[dict[str, Any]]:
    """The same of eager PyTorch: time in an operator itself, without those that it calls."""
    with torch.inference_mode():
        for _ in range(WARM_UP):
            net(image)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            for _ in range(RUNS):
                net(image)
    operators = [event for event in profile.key_averages() if event.key.startswith("aten::")]
    rows = [(event.key.removeprefix("aten::"), event.self_cpu_time_total / 1000, event.count) for event in operators]
    return _ranked(rows, RUNS)


def by_share(timed: Iterable[tuple[str, float]], runs: int) -> list[dict[str, Any]]:
    """Sums (operator, ms) of `runs` runs."""
    times: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for name, taken in timed:
        times[name] += taken  # type: ignore[assignment]  # a Counter of floats
        calls[name] += 1
    return _ranked([(name, times[name], calls[name]) for name in times], runs)


def _ranked(rows: list[tuple[str, float, int]], runs: int) -> list[dict[str, Any]]:
    total = sum(taken for _, taken, _ in rows) or 1.0
    ranked = sorted(rows, key=lambda row: -row[1])[:TOP]
    return [
        {"operator": name, "calls": calls / runs, "ms": taken / runs, "share": taken / total}
        for name, taken, calls in ranked
    ]
