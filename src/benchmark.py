"""Models side by side on this machine: what they cost, how fast they are in which engine, and what bounds them.

python -m src.benchmark models=[emisnet,emisnet_tiny,unet] size=256
python -m src.benchmark 'models=[emisnet,"emisnet stem_stride=2 act=relu"]'   # a variant: a name and its arguments
"""

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from src.cli import entry_point
from src.config import plain, user_errors

if TYPE_CHECKING:  # imported inside functions otherwise, so that --help does not wait for torch
    from src.benchmarking.contender import Contender
    from src.benchmarking.request import Request

EXPORT, COMPILE, MEMORY = 6.0, 45.0, 12.0  # s for each network, on a slow core


def _run(cfg: DictConfig) -> None:
    from src.benchmarking.request import make_request

    with user_errors():
        request = make_request(plain(cfg))
    benchmark(request)


def benchmark(request: "Request") -> Path:
    """Measures, writes table.md, benchmark.csv, models.csv and pareto.png into `request.out`, prints the tables; the
    folder."""
    import torch

    from src.benchmarking import machine, tables
    from src.benchmarking.contender import make_contender
    from src.benchmarking.engines import Exports
    from src.benchmarking.latencies import time_setting, time_training
    from src.benchmarking.profiles import write_profiles
    from src.benchmarking.training import peaks_apart
    from src.files import write_csv, write_text
    from src.progress import progress
    from src.provenance import provenance

    most_threads, own_threads = max(request.threads), torch.get_num_threads()
    watch = machine.Watch()
    told = machine.conditions(request.device, request.size, provenance()["commit"])
    rates = [machine.sgemm_rate()]
    floor = machine.measure_floor()
    try:
        with progress(len(request.models), "building", unit=" networks") as bar:
            contenders = []
            for name, config in request.models.items():
                with user_errors():  # a size that a network cannot take
                    contenders.append(make_contender(name, config, request.size))
                bar.update()
        for contender in contenders:
            for net in filter(None, (contender.net, contender.fused)):
                net.to(request.device)
        minutes = expected_minutes(request, contenders)
        print(f"expected: about {max(1, round(minutes))} min", file=sys.stderr)
        rows: list[dict[str, Any]] = []
        for batch in request.batches:
            with tempfile.TemporaryDirectory() as folder:
                exports = Exports(Path(folder))
                for threads in request.threads:
                    rows += time_setting(
                        contenders, request.engines, batch=batch, threads=threads, size=request.size,
                        seconds=request.seconds, exports=exports, reference=request.reference, device=request.device,
                    )  # fmt: skip
                    rates.append(machine.sgemm_rate())
                if request.profile and batch == request.batches[0]:
                    write_profiles(contenders, request, exports)
        speeds = time_training(
            contenders, batch=request.train_batch, threads=most_threads, size=request.size, seconds=request.seconds,
            device=request.device,
        )  # fmt: skip
        rates.append(machine.sgemm_rate())
        others = watch.others()
        told |= {"load_after": round(machine.load(), 2), "cores_of_others": others and round(others, 2)}
        peaks: dict[str, Any] = {}
        if request.memory:
            found = peaks_apart(
                list(request.models.values()), request.size, request.train_batch, most_threads, request.device
            )
            with progress(len(request.models), "memory", unit=" networks") as bar:
                for name, peak in zip(request.models, found, strict=True):
                    peaks[name] = peak
                    bar.update()
    finally:
        torch.set_num_threads(own_threads)
    spreads = [row["p95_ms"] / row["median_ms"] for row in rows if not row["error"]]
    doubts = machine.doubts(told["load_before"], others, os.cpu_count() or 1, rates, spreads)
    for row in rows:
        alone = row["gmac_per_s"] is not None and row["threads"] == 1 and request.device == "cpu"
        row["sgemm_share"] = row["gmac_per_s"] / floor.gmac_per_s if alone else None
    models = [model_row(each, request, speeds[each.name], peaks.get(each.name)) for each in contenders]
    constant = {**told, "doubts": "; ".join(doubts)}
    write_csv(request.out / "benchmark.csv", [row | constant for row in rows])
    write_csv(request.out / "models.csv", [row | constant for row in models])
    text = tables.markdown(models, rows, floor, told, doubts, request.reference)
    write_text(request.out / "table.md", text)
    draw(request, models, rows, tables.told(told) + "".join(f"; WARNING: {doubt}" for doubt in doubts))
    print(text)
    print(f"written: {request.out}/table.md  benchmark.csv  models.csv  pareto.png")
    for doubt in doubts:
        print(f"warning: do not use these times: {doubt}", file=sys.stderr)
    return request.out


def expected_minutes(request: "Request", contenders: "Sequence[Contender]") -> float:
    """From one forward pass of each network: a guess, for who waits."""
    import time

    import torch

    from src.benchmarking.contender import random_images
    from src.benchmarking.latencies import FEWEST, WARM_UP

    passes = 0.0
    with torch.inference_mode():
        for contender in contenders:
            image = random_images(1, contender.in_channels, request.size).to(request.device)
            begun = time.perf_counter()
            contender.net(image)
            passes += time.perf_counter() - begun
    exported = "openvino" in request.engines or any(engine.startswith("onnx") for engine in request.engines)
    kinds, settings = len(request.engines), len(request.batches) * len(request.threads)
    seconds = EXPORT * 2 * exported * len(request.batches) * len(contenders) + MEMORY * request.memory * len(contenders)
    seconds += COMPILE * ("compile" in request.engines) * settings * len(contenders)
    for batch in request.batches:
        seconds += len(request.threads) * max(request.seconds, passes * batch * kinds * (WARM_UP + FEWEST))
    return (seconds + max(request.seconds, passes * request.train_batch * 3 * 4)) / 60


def model_row(contender: "Contender", request: "Request", speed: float | str, peak: Any) -> dict[str, Any]:
    """A row of models.csv; `speed` may say why there is none, and `peak` is a Peak, None, or says so, too."""
    cost, fused = contender.cost, contender.fused_cost
    traffic, fused_traffic = contender.traffic, contender.fused_traffic
    failures = [f"{what}: {value}" for what, value in (("training", speed), ("memory", peak)) if isinstance(value, str)]
    measured = None if isinstance(peak, str) else peak
    return {
        "model": contender.name,
        "params_m": cost.params / 1e6,
        "macs_g": cost.macs / 1e9,
        "fused_params_m": fused and fused.params / 1e6,
        "fused_macs_g": fused and fused.macs / 1e9,
        "kernels": traffic.kernels,
        "fused_kernels": fused_traffic and fused_traffic.kernels,
        "traffic_mb": traffic.bytes / 1e6,
        "fused_traffic_mb": fused_traffic and fused_traffic.bytes / 1e6,
        "train_batch": request.train_batch,
        "train_img_per_s": None if isinstance(speed, str) else speed,
        "inference_peak_mb": measured and measured.inference,
        "training_peak_mb": measured and measured.training,
        "note": "; ".join(filter(None, [contender.note, *failures])),
    }


def draw(request: "Request", models: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], note: str) -> None:
    """pareto.png, of the first setting."""
    from src.benchmarking import tables
    from src.benchmarking.figure import plot_pareto
    from src.benchmarking.latencies import BEST

    batch, threads = request.batches[0], request.threads[0]
    found = {row["model"]: tables.first_timed(rows, row["model"], BEST, batch, threads) for row in models}
    latencies = {name: row["median_ms"] for name, row in found.items() if row}
    engines = " / ".join(dict.fromkeys(row["engine"] for row in found.values() if row))
    panels: dict[str, tuple[Mapping[str, float], bool]] = {"Dice": (request.scores, True)} if request.scores else {}
    panels |= {"params (M)": ({row["model"]: row["params_m"] for row in models}, False)}
    panels |= {f"MACs (G) at {request.size} px": ({row["model"]: row["macs_g"] for row in models}, False)}
    label = f"median latency (ms), {engines}, {tables.setting(batch, threads)}"
    plot_pareto(latencies, panels, request.out / "pareto.png", label, note)


main = entry_point("benchmark", _run)

if __name__ == "__main__":
    main()
