"""ExecuTorch's .pte files: one image of one size, its operators delegated to XNNPACK where that has them."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.export import ExportedProgram

from src.exporting.onnx_file import quiet_exporters
from src.files import replacing
from src.weights import check_sha256


def write_pte(program: ExportedProgram, path: Path) -> int:
    """Writes a program traced for one image; returns how many of its operators XNNPACK does not have, which
    ExecuTorch's own, slower kernels compute.

    ExecuTorch's errors are of every kind.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    with quiet_exporters(), torch.no_grad():
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        left = sum(
            node.op == "call_function" and "aten" in str(node.target)
            for node in lowered.exported_program().graph_module.graph.nodes
        )
        made = lowered.to_executorch()
    with replacing(path) as file:
        file.write(made.buffer)
    return left


class PteNet(nn.Module):
    """A .pte file as a network: images (B, C, H, W) of its size, normalised, one after another, to logits.

    Raises ValueError for a file that is not what its checksum says.
    """

    def __init__(self, path: Path):
        super().__init__()
        from executorch.runtime import Runtime

        check_sha256(path)
        self.program = Runtime.get().load_program(str(path))  # keeps what the method runs on
        self.method = self.program.load_method("forward")

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h w"]:
        answers = [self.method.execute([one[None].contiguous()])[0].clone() for one in image]
        return torch.cat(answers)
