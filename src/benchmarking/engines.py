"""The engines a network runs in, each a call of no arguments whose output is compared with eager PyTorch's first.

Everything computes in float32. Exported files hold the folded network, for ONNX Runtime arranged as it computes fastest
(`src.models.blocked`), but for `onnxruntime_unfused`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from src.benchmarking.contender import Contender
from src.exporting.onnx_file import export_onnx
from src.models.blocked import blocked

ENGINES = {
    "cpu": ("eager", "fused", "compile", "onnxruntime_unfused", "onnxruntime", "openvino"),
    "cuda": ("eager", "fused", "compile", "cuda_graphs"),
}
# torch.compile is asked for: it takes most of a minute for each network, batch and number of threads
DEFAULT = {device: tuple(name for name in names if name != "compile") for device, names in ENGINES.items()}
# max abs difference from eager, in standard deviations of eager's logits; cuDNN's convolutions use TF32, whose mantissa
# has ten bits. On the CPU eager itself was found 8e-4 off from float64 (emisnet stem_stride=2, 8 images of 256 px,
# random weights), and folded in float64 1.6e-12 off from eager in float64.
TOLERANCE = {"cpu": 5e-3, "cuda": 5e-2}

Call = Callable[[], Any]


class EngineError(Exception):
    """Why an engine has no time for a network, for the table's cell."""


class Exports:
    """ONNX files in a folder, each written once; a network that cannot be exported is not tried again."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.made: dict[tuple[str, str], Path | EngineError] = {}

    def file(self, contender: Contender, image: Tensor, engine: str) -> Path:
        key = (contender.name, engine)
        if key not in self.made:
            path = self.folder / f"{len(self.made)}.onnx"
            try:
                export_onnx(_form(contender, engine), image, path)
                self.made[key] = path
            except Exception as error:  # the exporter's are of every kind, and a benchmark goes on without this cell
                self.made[key] = EngineError(f"export: {_short(error)}")
        made = self.made[key]
        if isinstance(made, EngineError):
            raise made
        return made


def ready(
    engine: str, contender: Contender, image: Tensor, threads: int, exports: Exports, expected: Tensor
) -> tuple[Call, float]:
    """The call that runs `contender` on `image` in `engine`, and its max abs difference from `expected`.

    EngineError: the engine is not installed, cannot run this network, or computes something else.
    """
    try:
        call = _make(engine, contender, image, threads, exports)
        with torch.inference_mode():
            result = call()
    except EngineError:
        raise
    except Exception as error:  # compilers raise every kind, and a benchmark goes on without this cell
        raise EngineError(_short(error)) from error
    return call, checked(result, expected)


def checked(result: Any, expected: Tensor) -> float:
    """The max abs difference of logits from eager's. EngineError beyond TOLERANCE, for another shape and for NaN."""
    result = torch.as_tensor(result)
    if result.shape != expected.shape:
        raise EngineError(f"wrong output: shape {tuple(result.shape)}, not {tuple(expected.shape)}")
    difference = float((result - expected).abs().max())
    scale = float(expected.std())
    if not difference <= TOLERANCE[expected.device.type] * scale:
        raise EngineError(f"wrong output: logits differ by {difference:.2g}, their standard deviation is {scale:.2g}")
    return difference


def _make(engine: str, contender: Contender, image: Tensor, threads: int, exports: Exports) -> Call:
    if engine.startswith("onnxruntime"):
        return onnxruntime_call(lambda: exports.file(contender, image, engine), image, threads)
    if engine == "openvino":
        return _openvino(lambda: exports.file(contender, image, engine), image, threads)
    net = _form(contender, engine)
    if engine == "compile":
        net = torch.compile(net)  # type: ignore[assignment] # its stub promises a function
    if image.device.type == "cpu":
        return lambda: net(image)
    if engine == "cuda_graphs":
        return _cuda_graph(net, image)

    def call() -> Tensor:
        result = net(image)
        torch.cuda.synchronize()
        return result

    return call


def _cuda_graph(net: nn.Module, image: Tensor) -> Call:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), torch.inference_mode():
        for _ in range(3):  # cuDNN chooses its kernels and takes its memory, which a capture may not
            net(image)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph):
        result = net(image)

    def call() -> Tensor:
        graph.replay()
        torch.cuda.synchronize()
        return result

    return call


def onnxruntime_call(file: Callable[[], Path], image: Tensor, threads: int) -> Call:
    """A run of the file that `file` makes on `image`. EngineError without ONNX Runtime, before it is made."""
    try:
        import onnxruntime
    except ImportError:
        raise EngineError("onnxruntime is not installed: it comes with the extra `engines`") from None
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.force_spinning_stop", "1")  # its threads would spin in others' turns
    session = onnxruntime.InferenceSession(str(file()), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: image.numpy()}
    return lambda: session.run(None, feed)[0]


def _openvino(file: Callable[[], Path], image: Tensor, threads: int) -> Call:
    try:
        import openvino
    except ImportError:
        raise EngineError("openvino is not installed: it comes with the extra `engines`") from None
    core = openvino.Core()
    # unless told so, it would compute in bfloat16 where the processor can, and take cores for its own
    how = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    how["ENABLE_CPU_PINNING"] = False
    request = core.compile_model(core.read_model(str(file())), "CPU", how).create_infer_request()
    pixels = image.numpy()
    return lambda: request.infer([pixels], share_inputs=True, share_outputs=True)[0]


def _form(contender: Contender, engine: str) -> nn.Module:
    """The form of a network that an engine is given."""
    if engine in ("eager", "onnxruntime_unfused"):
        return contender.net
    return blocked(_fused(contender)) if engine == "onnxruntime" else _fused(contender)


def _fused(contender: Contender) -> nn.Module:
    if contender.fused is None:
        raise EngineError(contender.note)
    return contender.fused


def _short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]
