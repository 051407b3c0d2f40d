"""ONNX files: the one call of torch's exporter, and what a file says of itself."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from src.files import replacing

if TYPE_CHECKING:  # not installed without the extra `engines`
    import onnx

IMAGE, LOGITS = "image", "logits"  # names of the input and the output


def to_onnx(net: nn.Module | ExportedProgram, image: Tensor | None = None) -> "onnx.ModelProto":
    """The graph of `net`, weights inside: of a module for images of exactly the shape of `image`, of a program for the
    shapes that it was traced for.

    The exporter's errors are of every kind.
    """
    with quiet_exporters(), torch.no_grad():
        args = () if image is None else (image,)
        program = torch.onnx.export(
            net, args, dynamo=True, external_data=False, verbose=False, input_names=[IMAGE], output_names=[LOGITS]
        )
    assert program is not None
    return _anonymous(program.model_proto)


def write_onnx(model: "onnx.ModelProto", path: Path, texts: Mapping[str, str] | None = None) -> None:
    """Whole or not at all; `texts` are its metadata."""
    del model.metadata_props[:]
    for key, value in (texts or {}).items():
        model.metadata_props.add(key=key, value=value)
    with replacing(path) as file:
        file.write(model.SerializeToString())


def export_onnx(net: nn.Module, image: Tensor, path: Path) -> None:
    """Writes `net` for images of exactly this shape, weights inside the file, without metadata."""
    write_onnx(to_onnx(net, image), path)


def opset(model: "onnx.ModelProto") -> int:
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """Without the lines that torch's exporter, onnxscript and the quantiser write about themselves."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)  # a line for every constant that it folds or does not
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning)  # torch's exporter about torch's own calls
            warnings.filterwarnings("ignore", category=FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _anonymous(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Without stack traces, which hold the paths of the machine that exported it (and a third of a small file)."""
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    return model
