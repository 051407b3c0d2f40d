"""An ONNX file as a network: what `src.export` wrote, computed by ONNX Runtime on the CPU."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from src.weights import check_sha256


class OnnxNet(nn.Module):
    """Image (B, C, H, W), normalised, to logits (B, 1, H, W), with as many threads as torch has.

    A file whose batch is fixed gets images one batch after another. `metadata` are its texts by key. Weights must lie
    in the file itself: one that names others could have any file that this process may read come back in a mask. What
    memory the graph takes inside is not bounded: a stranger's can ask for all there is.

    Raises:
        ValueError: no ONNX Runtime, a file that it cannot read or that is not what its checksum says, weights outside
            of it, and in `forward` a size other than the one that the file was made for, or logits of another.
    """

    def __init__(self, path: str | Path):
        super().__init__()
        try:
            import onnxruntime
        except ImportError:
            raise ValueError("onnxruntime is not installed: it comes with the extra `engines`.") from None
        check_sha256(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
        try:
            content = Path(path).read_bytes()
            with tempfile.TemporaryDirectory() as nothing:  # where it may look for weights beside the file
                options.add_session_config_entry("session.model_external_initializers_file_folder_path", nothing)
                self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except OSError as error:
            raise ValueError(f"{path} cannot be read ({error.strerror}).") from error
        except Exception as error:  # its own kinds, which it does not export
            raise ValueError(f"{path} is not an ONNX file that ONNX Runtime can run ({error}).") from error
        self.path, self.metadata = str(path), dict(self.session.get_modelmeta().custom_metadata_map)
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        shapes = [list(one.shape or []) for one in (*inputs, *outputs)]
        kinds = {one.type for one in (*inputs, *outputs)}
        if [len(shape) for shape in shapes] != [4, 4] or kinds != {"tensor(float)"}:
            raise ValueError(f"{path} takes and gives other than one image (B, C, H, W) and its logits (B, 1, H, W).")
        self.input = inputs[0]
        self.channels = shapes[0][1] if isinstance(shapes[0][1], int) else None  # None: the graph leaves it open

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h w"]:
        batch, _, *sides = self.input.shape
        height, width = image.shape[-2:]
        if any(isinstance(side, int) and side != given for side, given in zip(sides, (height, width), strict=True)):
            raise ValueError(
                f"{self.path} was made for images of {sides[0]}x{sides[1]}, and these are {height}x{width}."
            )
        pixels = image.cpu().numpy()
        step = batch if isinstance(batch, int) else len(pixels)
        parts = [self._run(pixels[start : start + step]) for start in range(0, len(pixels), step)]
        shapes = {part.shape[1:] for part in parts}
        if shapes != {(1, height, width)} or sum(map(len, parts)) != len(pixels):
            raise ValueError(f"{self.path} gives logits of {sorted(shapes)} for images of {height}x{width}.")
        return torch.from_numpy(np.concatenate(parts)).to(image.device)

    def _run(self, pixels: np.ndarray) -> np.ndarray:
        return self.session.run(None, {self.input.name: pixels})[0]
