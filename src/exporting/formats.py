"""The formats: a trained network as files, each opened again as whoever gets it would, and ready to be compared."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from src.benchmarking.engines import onnxruntime_call
from src.exporting.bundle import write_bundle
from src.exporting.int8 import quantised
from src.exporting.onnx_file import opset, to_onnx, write_onnx
from src.exporting.parity import AS_TRAINED, FOLDED, Candidate, in_pytorch
from src.exporting.program import ProgramNet, Traced, traced, write_program
from src.inference import Segmenter
from src.models.blocked import blocked
from src.models.emisnet import EMISNet
from src.models.fuse import fuse
from src.trained import Trained, onnx_metadata, open_trained
from src.weights import write_sha256

FILES = {"onnx": "model.onnx", "onnx_int8": "model_int8.onnx", "pt2": "model.pt2"}
BUNDLE = "bundle"  # a folder of the run's name
FORMATS = (*FILES, BUNDLE)


def path_of(name: str, folder: Path, trained: Trained) -> Path:
    return folder / FILES.get(name, trained.name)


def write_formats(
    trained: Trained,
    files: Mapping[str, Path],
    *,
    dynamic: bool,
    shown: Sequence[np.ndarray],
    tolerance: float,
    tolerance_int8: float,
) -> list[Candidate]:
    """Writes each of `files` (path by format) with its checksum; PyTorch as trained and folded first, then they.

    `shown`: for int8, what the network is shown of some train images, (1, C, H, W) each. ValueError for a network that
    cannot be exported.
    """
    image = torch.randn(1, len(trained.mean), *trained.size, generator=torch.Generator().manual_seed(0))
    folded, note = _folded(trained.net)
    as_trained = trained.segmenter(device="cpu")
    found = [
        Candidate(AS_TRAINED, as_trained, tolerance, in_pytorch(trained.net, image), exact=True),
        Candidate(FOLDED, _with(trained, folded), tolerance, in_pytorch(folded, image), notes=note),
    ]
    general = traced(folded, trained.size, dynamic=dynamic) if set(files) - {BUNDLE} else None
    for name, path in files.items():
        if name == BUNDLE:
            write_bundle(trained, path)
            opened = open_trained(path).segmenter(device="cpu")
            found.append(Candidate(name, opened, tolerance, None, path, exact=True))
            continue
        assert general is not None
        form, notes = general, [*note, *filter(None, [general.note])]
        if name == "onnx" and not dynamic and isinstance(folded, EMISNet):
            form = traced(blocked(folded), trained.size, dynamic=False)
            notes.append("arranged by src.models.blocked, which suits ONNX Runtime")
        if name == "pt2":
            found.append(_pt2(trained, form, path, image, tolerance, notes))
        else:
            allowed = tolerance_int8 if name == "onnx_int8" else tolerance
            images = shown if name == "onnx_int8" else None
            found.append(_onnx(trained, name, form, path, image, allowed, notes, images))
    return found


def _pt2(
    trained: Trained, form: Traced, path: Path, image: Tensor, tolerance: float, notes: Sequence[str]
) -> Candidate:
    write_program(form.program, path, json.dumps(_about(trained, precision="float32")))
    write_sha256(path)
    net = ProgramNet(path)
    return Candidate("pt2", _with(trained, net), tolerance, in_pytorch(net, image), path, form.shapes, list(notes))


def _onnx(
    trained: Trained,
    name: str,
    form: Traced,
    path: Path,
    image: Tensor,
    tolerance: float,
    notes: Sequence[str],
    shown: Sequence[np.ndarray] | None,
) -> Candidate:
    """Of int8, for which images are shown, or float32."""
    model, told = to_onnx(form.program, image), []
    if shown is not None:
        model, precision = quantised(model, shown)
        told = [f"{precision}; calibrated on {len(shown)} train images"]
    else:
        precision = "float32"
    version = opset(model)
    about = _about(trained, precision=precision, opset=version, takes=form.shapes)
    write_onnx(model, path, {"emisnet": json.dumps(about)})
    write_sha256(path)
    opened = open_trained(path)
    call = lambda threads: onnxruntime_call(lambda: path, image, threads)  # noqa: E731
    told.append(f"opset {version}")
    return Candidate(
        name, opened.segmenter(device="cpu"), tolerance, call, path, form.shapes, [*notes, *told]
    )  # its own constants: they are compared, too


def _about(trained: Trained, **more: Any) -> dict[str, Any]:
    """What a file says of itself: enough to make the run's masks with it."""
    protocol = trained.run.metrics()["protocol"] if trained.told and trained.run else {}
    how = {
        "id": protocol.get("id"),
        **trained.segmenter(device="cpu").protocol(),
        "image": "RGB 0..255, resized to size: area averaging where it shrinks, else bilinear; (x / 255 - mean) / std",
        "mask": "logits resized to the image's size, bilinear, align_corners=False; foreground: sigmoid > threshold",
    }
    return {**onnx_metadata(trained), "protocol": how, **more}


def _folded(net: nn.Module) -> tuple[nn.Module, list[str]]:
    """`net` folded, or as it is and why."""
    try:
        return fuse(net).eval(), []
    except ValueError as error:
        return net, [f"not folded: {error}"]


def _with(trained: Trained, net: nn.Module) -> Segmenter:
    return replace(trained, net=net).segmenter(device="cpu")
