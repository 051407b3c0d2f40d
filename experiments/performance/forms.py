"""EMIS-Net in four forms of the same function, in three engines: what folding and rearranging buy, by operator.

python -m experiments.performance.forms [network ...]     # writes forms.md beside this file; two minutes

as written: EFAM computed as the method says, on the concatenation of all scales at full resolution. as trained: the
same by linearity at each scale's own resolution (src.models.emisnet.ScaleFusion). fused: src.models.fuse. blocked:
src.models.blocked. One thread, one image, all in turns.
"""

import copy
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import nn

from experiments.performance.int8 import in_onnxruntime, in_openvino, shares
from src.benchmarking.contender import random_images, settled
from src.benchmarking.counts import count_traffic
from src.benchmarking.machine import conditions, measure_floor
from src.benchmarking.request import model_config
from src.benchmarking.rounds import in_turns, latency_of, ratio
from src.benchmarking.tables import table, told
from src.build import build_net
from src.exporting.onnx_file import export_onnx
from src.models.blocked import blocked
from src.models.cost import measure_cost
from src.models.emisnet import EMISNet
from src.models.fuse import fuse
from src.provenance import provenance

SIZE, SECONDS, OPERATORS = 256, 25.0, 9
NETWORKS = ("emisnet", "emisnet_tiny")
COPIES = ("ReorderInput", "ReorderOutput", "Concat", "Transpose", "Split")


def forms(line: str) -> dict[str, nn.Module]:
    net = settled(build_net(model_config(line, SIZE), quiet=True), (2, 3, SIZE, SIZE))
    assert isinstance(net, EMISNet) and net.fusion is not None
    written = copy.deepcopy(net)
    written.fusion.pointwise = False  # type: ignore[union-attr]
    fused = fuse(net)
    return {"as written": written, "as trained": net, "fused": fused, "blocked": blocked(fused)}


def optimised(file: Path) -> Counter[str]:
    """The operators of a file once ONNX Runtime has optimised it."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(file.with_suffix(".optimised.onnx")), 3
    onnxruntime.InferenceSession(file.read_bytes(), options, ["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def eager(net: nn.Module, image: torch.Tensor) -> Callable[[], object]:
    def call() -> object:
        with torch.inference_mode():
            return net(image)

    return call


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    lines, image = sys.argv[1:] or list(NETWORKS), random_images(1, 3, SIZE)
    floor = measure_floor()
    sentence = told(conditions("cpu", SIZE, provenance()["commit"]))
    rows: list[list[str]] = []
    told_shares: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for line in lines:
            calls, counts, nets = {}, {}, forms(line)
            for form, net in nets.items():
                file = Path(folder) / f"{len(rows)}-{form}.onnx"
                export_onnx(net, image, file)
                counts[form] = optimised(file)
                calls[form, "onnxruntime"] = in_onnxruntime(file, image)
                calls[form, "openvino"] = in_openvino(file, image)
                calls[form, "eager"] = eager(net, image)
                last = image.contiguous(memory_format=torch.channels_last)
                calls[form, "channels_last"] = eager(copy.deepcopy(net).to(memory_format=torch.channels_last), last)
                if form in ("as trained", "blocked"):
                    told_shares.append(f"- {line}, {form}: {shares(file, image, OPERATORS)}")
            taken = dict(zip(calls, in_turns(list(calls.values()), SECONDS), strict=True))
            for form, net in nets.items():
                ort = taken[form, "onnxruntime"]
                macs, traffic = measure_cost(net, (1, 3, SIZE, SIZE)).macs / 1e9, count_traffic(net, image)
                median = latency_of(ort).median
                kinds = ("openvino", "eager", "channels_last")
                rows.append(
                    [line, form, f"{macs:.3f}", str(counts[form].total()), str(sum(counts[form][c] for c in COPIES))]
                    + [f"{median:.2f}", f"{ratio(ort, taken['as trained', 'onnxruntime']):.2f}"]
                    + [f"{ratio(ort, taken['as written', 'onnxruntime']):.2f}"]
                    + [f"{1000 * macs / median:.1f} ({1000 * macs / median / floor.gmac_per_s:.0%})"]
                    + [f"{latency_of(taken[form, kind]).median:.1f}" for kind in kinds]
                    + [str(traffic.kernels), f"{traffic.bytes / 1e6:.0f}"]
                )
    columns = ["network", "form", "GMACs", "operators", "of them copies", "ONNX Runtime (ms)", "/ as trained"]
    columns += ["/ as written", "GMAC/s (of matrix product)", "OpenVINO (ms)", "eager (ms)", "channels_last (ms)"]
    text = table([*columns, "eager kernels", "eager traffic (MB)"], rows)
    text += "\n\nWhere the time goes in ONNX Runtime:\n\n" + "\n".join(told_shares)
    text += f"\n\nOne thread: matrix product {floor.gmac_per_s:.1f} GMAC/s, copies {floor.cached_gb_per_s:.1f} GB/s in "
    text += f"cache, {floor.dram_gb_per_s:.1f} GB/s from memory. {sentence}, one thread, medians, all in turns.\n"
    (Path(__file__).parent / "forms.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
