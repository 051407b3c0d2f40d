"""int8 in ONNX Runtime and OpenVINO against float32, whole networks and single convolutions, one thread, in turns.

python -m experiments.performance.int8 [network ...]     # writes int8.md beside this file; two minutes

Static quantisation (QDQ, unsigned activations, signed weights per channel) of the folded network, calibrated on random
images: the times are real, the masks mean nothing.
"""

import io
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

from src.benchmarking.contender import random_images, settled
from src.benchmarking.machine import conditions
from src.benchmarking.profiles import onnxruntime_operators
from src.benchmarking.request import model_config
from src.benchmarking.rounds import in_turns, latency_of
from src.benchmarking.tables import table, told
from src.build import build_net
from src.exporting.onnx_file import export_onnx
from src.models.blocked import blocked
from src.models.fuse import fuse
from src.provenance import provenance

SIZE, SECONDS = 256, 15.0
OPERATORS = 6  # told of each network
LEAST = 128  # channels that a convolution sums over
NETWORKS = ("emisnet_tiny", "emisnet", "emisnet_base", "unext", "unet")
CONVS = [  # kind, channels, side of the map
    *[("1x1", *shape) for shape in ((16, 256), (64, 128), (128, 64), (256, 32), (512, 32))],
    *[("depthwise 5x5", *shape) for shape in ((16, 256), (64, 128), (256, 32))],
    *[("3x3", *shape) for shape in ((16, 256), (64, 128), (256, 32))],
]


class Calibration(CalibrationDataReader):
    def __init__(self, name: str, image: np.ndarray):
        self.left = [{name: image}]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.left.pop() if self.left else None


def quantised(
    net: nn.Module, image: torch.Tensor, folder: Path, operators: list[str] | None = None, least: int = 0
) -> Path:
    """The file of `net` in int8: all that can be, `operators` alone, or convolutions that sum over `least` channels."""
    whole, ready, file = (folder / name for name in ("whole.onnx", "ready.onnx", "int8.onnx"))
    export_onnx(net, image, whole)
    quant_pre_process(str(whole), str(ready), skip_symbolic_shape=True)
    graph = onnx.load(ready).graph
    name = graph.input[0].name
    summed = {weight.name: weight.dims[1] for weight in graph.initializer if len(weight.dims) == 4}
    dense = [n.name for n in graph.node if n.op_type == "Conv" and summed.get(n.input[1], 0) >= least]
    quantize_static(
        str(ready), str(file), Calibration(name, image.numpy()), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, op_types_to_quantize=operators,
        nodes_to_quantize=dense if least else None,
    )  # fmt: skip
    return file


def in_onnxruntime(file: Path, image: torch.Tensor) -> Callable[[], object]:
    """A run on one thread; the file is read whole, as the next network takes its name."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file.read_bytes(), options, ["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: image.numpy()}
    return lambda: session.run(None, feed)


def in_openvino(file: Path, image: torch.Tensor) -> Callable[[], object]:
    """As `in_onnxruntime`."""
    how = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    core = openvino.Core()
    request = core.compile_model(core.read_model(io.BytesIO(file.read_bytes())), "CPU", how).create_infer_request()
    return lambda: request.infer([image.numpy()])


def shares(file: Path, image: torch.Tensor, most: int) -> str:
    """The operators that take the most of a run in ONNX Runtime, in words."""
    found = onnxruntime_operators(file, image, 1)[:most]
    return ", ".join(f"{row['operator']} {row['share']:.0%}" for row in found)


def networks(names: list[str], folder: Path) -> str:
    calls, shares_of = {}, {}
    image = random_images(1, 3, SIZE)
    for name in names:
        net = fuse(settled(build_net(model_config(name, SIZE), quiet=True), (2, 3, SIZE, SIZE)))
        kept = blocked(net)
        export_onnx(kept, image, folder / "float.onnx")
        calls[name, "float32"] = in_onnxruntime(folder / "float.onnx", image)
        file = quantised(kept, image, folder)
        calls[name, "int8"] = in_onnxruntime(file, image)
        shares_of[name] = shares(file, image, OPERATORS)
        calls[name, "int8, convolutions alone"] = in_onnxruntime(quantised(kept, image, folder, ["Conv"]), image)
        calls[name, f"int8, those over {LEAST}+ channels"] = in_onnxruntime(
            quantised(kept, image, folder, least=LEAST), image
        )
        export_onnx(net, image, folder / "float.onnx")
        calls[name, "OpenVINO float32"] = in_openvino(folder / "float.onnx", image)
        calls[name, "OpenVINO int8"] = in_openvino(quantised(net, image, folder, ["Conv"]), image)
    taken = dict(zip(calls, in_turns(list(calls.values()), SECONDS), strict=True))
    kinds = list(dict.fromkeys(kind for _, kind in calls))
    rows = [[name, *(f"{latency_of(taken[name, kind]).median:.2f}" for kind in kinds)] for name in names]
    lines = "\n".join(f"- {name}: {text}" for name, text in shares_of.items())
    return f"{table(['ms, 1x3x256x256', *kinds], rows)}\n\nWhere the int8 time goes in ONNX Runtime:\n\n{lines}\n"


def convolutions(folder: Path) -> str:
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for kind, channels, side in CONVS:
        kernel = int(kind[-1])
        groups = channels if kind.startswith("depthwise") else 1
        conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=groups)
        net = nn.Sequential(*[conv] * 4).eval()  # in a row, so that converting to and from int8 weighs less
        image = torch.randn(1, channels, side, side)
        export_onnx(net, image, folder / "conv.onnx")
        name = f"{kind}, {channels} channels, {side} px"
        calls[name, "float32"] = in_onnxruntime(folder / "conv.onnx", image)
        calls[name, "int8"] = in_onnxruntime(quantised(net, image, folder), image)
    taken = dict(zip(calls, in_turns(list(calls.values()), SECONDS), strict=True))
    rows = []
    for name in dict.fromkeys(name for name, _ in calls):
        slow, fast = (latency_of(taken[name, kind]).median / 4 for kind in ("float32", "int8"))
        rows.append([name, f"{slow:.3f}", f"{fast:.3f}", f"{fast / slow:.2f}"])
    return table(["ms a convolution, ONNX Runtime", "float32", "int8", "int8 / float32"], rows)


def main() -> None:
    logging.disable(logging.WARNING)  # the quantiser advises to preprocess what is preprocessed
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    sentence = told(conditions("cpu", SIZE, provenance()["commit"]))
    with tempfile.TemporaryDirectory() as name:
        text = networks(sys.argv[1:] or list(NETWORKS), Path(name)) + "\n" + convolutions(Path(name))
    text = f"{text}\n\n{sentence}, one thread, medians, all in turns.\n"
    (Path(__file__).parent / "int8.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
