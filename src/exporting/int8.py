"""Static quantisation by ONNX Runtime: the inputs and weights of dense convolutions in 8 bits, the rest float32."""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from src.exporting.onnx_file import IMAGE

if TYPE_CHECKING:  # not installed without the extra `engines`
    import onnx

# Channels that a convolution must have on either side. Those with fewer weigh nothing and are slower in int8; on 44 val
# images of `make train` (Dice 0.923): all convolutions -0.002, worst mask 0.94, 3.9 ms; from 16 -0.0006, 0.96, 3.8;
# from 32 -0.0005, 0.99, 3.1; from 128 -0.0001, 1.00, 2.7; float32 2.8. With 32 the file is as small as it gets.
LEAST = 32


def quantised(model: "onnx.ModelProto", images: Sequence[np.ndarray]) -> tuple["onnx.ModelProto", str]:
    """`model` in int8 (QDQ: unsigned activations, signed weights per channel, ranges from least to largest; weights of
    seven bits, since sums of eight saturate on processors without VNNI), and in words what of it stays float32.

    `images`: what the network is shown, each (1, C, H, W) float32, normalised; the ranges of activations are theirs.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder, _quiet():
        whole, ready, file = (Path(folder) / name for name in ("whole.onnx", "ready.onnx", "int8.onnx"))
        onnx.save(model, whole)
        quant_pre_process(str(whole), str(ready), skip_symbolic_shape=True)
        chosen, convolutions = dense_convolutions(onnx.load(ready).graph)
        if not chosen:
            raise ValueError(
                f"no dense convolution of this network has {LEAST} channels on either side, so there is nothing to "
                "quantise. Leave onnx_int8 out."
            )
        quantize_static(
            str(ready), str(file), _Images(images), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, op_types_to_quantize=["Conv"],
            nodes_to_quantize=chosen, calibrate_method=CalibrationMethod.MinMax, reduce_range=True,
        )  # fmt: skip
        made = onnx.load(file)
    kept = convolutions - len(chosen)
    told = (
        f"int8: {len(chosen)} of {convolutions} convolutions; float32: the other {kept} (depthwise, or over or to "
        f"fewer than {LEAST} channels, as the first and those that give logits) and all that is no convolution"
    )
    return made, told


def dense_convolutions(graph: "onnx.GraphProto") -> tuple[list[str], int]:
    """Names of those to quantise, and the number of all convolutions."""
    weights = {weight.name: tuple(weight.dims) for weight in graph.initializer if len(weight.dims) == 4}
    convolutions = [node for node in graph.node if node.op_type == "Conv" and node.input[1] in weights]
    chosen = []
    for node in convolutions:
        outputs, summed, *_ = weights[node.input[1]]  # of a depthwise convolution 1 is summed over
        if summed >= LEAST and outputs >= LEAST:
            chosen.append(node.name)
    return chosen, len(convolutions)


class _Images:
    """What the quantiser asks for, one image after another (onnxruntime's CalibrationDataReader, by its methods)."""

    def __init__(self, images: Sequence[np.ndarray]):
        self.left = list(images)[::-1]

    def get_next(self) -> dict[str, Any] | None:
        return {IMAGE: self.left.pop()} if self.left else None


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser speaks through the root logger, and advises to preprocess what is preprocessed."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
