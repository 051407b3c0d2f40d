"""The formats: a trained network as files, each opened again as whoever gets it would, and ready to be compared."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from src.benchmarking.engines import onnxruntime_call
from src.exporting.bundle import write_bundle
from src.exporting.executorch_file import PteNet, write_pte
from src.exporting.int8 import quantised
from src.exporting.onnx_file import IMAGE, opset, to_onnx, write_onnx
from src.exporting.parity import AS_TRAINED, FOLDED, Call, Candidate, in_pytorch
from src.exporting.program import ProgramNet, Traced, check_any, short, traced, write_program
from src.files import write_json
from src.inference import Segmenter
from src.models.blocked import blocked
from src.models.emisnet import EMISNet
from src.models.fuse import fuse
from src.trained import Trained, onnx_metadata, open_trained
from src.weights import write_sha256

if TYPE_CHECKING:  # not installed without the extra `engines`
    from onnx import ModelProto

FILES = {"onnx": "model.onnx", "onnx_int8": "model_int8.onnx", "pt2": "model.pt2", "executorch": "model.pte"}
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
    forms = _Forms(folded, trained.size, dynamic)
    found = [
        Candidate(
            AS_TRAINED,
            trained.segmenter(device="cpu"),
            tolerance,
            call=in_pytorch(trained.net, image),
            exact=True,
        ),
        Candidate(FOLDED, _with(trained, folded), tolerance, call=in_pytorch(folded, image), notes=note),
    ]
    for name, path in files.items():
        print(f"writing {name}: {path}", file=sys.stderr)
        if name == BUNDLE:
            write_bundle(trained, path)
            opened = open_trained(path).segmenter(device="cpu")
            found.append(Candidate(name, opened, tolerance, path=path, exact=True))
        elif name == "pt2":
            write_program(forms.general.program, path, json.dumps(_about(trained, precision="float32")))
            write_sha256(path)
            net = ProgramNet(path)
            found.append(_candidate(name, _with(trained, net), tolerance, in_pytorch(net, image), path, forms.general))
        elif name == "executorch":
            form, left = forms.fixed, write_pte(forms.fixed.program, path)
            write_sha256(path)
            write_json(Path(f"{path}.json"), _about(trained, precision="float32", takes=form.shapes))
            pte = PteNet(path)
            found.append(_candidate(name, _with(trained, pte), tolerance, in_pytorch(pte, image), path, form))
            found[-1].notes.append(f"its number of threads is its own; {left} operators are not XNNPACK's")
        else:
            allowed = tolerance_int8 if name == "onnx_int8" else tolerance
            form, told = _write_onnx(trained, forms, path, shown if name == "onnx_int8" else None)
            opened = open_trained(path).segmenter(device="cpu")  # with the constants that it holds itself
            found.append(_candidate(name, opened, allowed, partial(_in_onnxruntime, path, image), path, form))
            found[-1].notes += told
    return found


def _candidate(
    name: str, segmenter: Segmenter, tolerance: float, call: Callable[[int], Call], path: Path, form: Traced
) -> Candidate:
    return Candidate(name, segmenter, tolerance, call, path, form.shapes, [form.note] if form.note else [])


class _Forms:
    """The graphs of a folded network that the files are made of, each traced once."""

    def __init__(self, folded: nn.Module, size: tuple[int, int], dynamic: bool):
        self.folded, self.size, self.dynamic = folded, size, dynamic

    @cached_property
    def general(self) -> Traced:
        """For any batch and size, if that is asked for and can be."""
        return traced(self.folded, self.size, dynamic=self.dynamic)

    @cached_property
    def fixed(self) -> Traced:
        """For one image of the network's size."""
        return traced(self.folded, self.size, dynamic=False)

    @cached_property
    def onnx(self) -> "tuple[ModelProto, Traced]":
        """In ONNX, where more may stand in the way of any size; computes as the network does, or ValueError."""
        if self.general.least is not None:
            try:
                model = to_onnx(self.general.program)
                check_any(_runner(model), self.folded, self.general.least)
                return model, self.general
            except Exception as error:  # the exporter's and the runtime's are of every kind
                form = traced(self.folded, self.size, dynamic=False)
                form = replace(form, note=f"cannot be written for any size, so it takes one image ({short(error)})")
                return self._fixed(form), form
        return self._fixed(self.general), self.general

    @cached_property
    def blocked(self) -> "tuple[ModelProto, Traced]":
        form = traced(blocked(self.folded), self.size, dynamic=False)
        form = replace(form, note="arranged by src.models.blocked, which suits ONNX Runtime")
        return self._fixed(form), form

    def _fixed(self, form: Traced) -> "ModelProto":
        try:
            return to_onnx(form.program)
        except Exception as error:  # the exporter's are of every kind
            raise ValueError(f"{type(self.folded).__name__} cannot be written as ONNX: {short(error)}") from error


def _write_onnx(
    trained: Trained, forms: _Forms, path: Path, shown: Sequence[np.ndarray] | None
) -> tuple[Traced, list[str]]:
    """In int8 if images are `shown`, else in float32; the form that it has, and what there is to tell."""
    is_blocked = shown is None and not forms.dynamic and isinstance(forms.folded, EMISNet)
    model, form = forms.blocked if is_blocked else forms.onnx
    precision, told = "float32", []
    if shown is not None:
        model, precision = quantised(model, shown)
        told = [f"{precision}; calibrated on {len(shown)} train images"]
    version = opset(model)
    about = _about(trained, precision=precision, opset=version, takes=form.shapes)
    write_onnx(model, path, {"emisnet": json.dumps(about)})
    write_sha256(path)
    return form, [*told, f"opset {version}"]


def _runner(model: "ModelProto") -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(None, {IMAGE: image.numpy()})[0])


def _in_onnxruntime(path: Path, image: Tensor, threads: int) -> Call:
    return onnxruntime_call(lambda: path, image, threads)


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
