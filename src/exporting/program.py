"""torch.export of a folded network: the graph that ONNX files and .pt2 files are made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config

from src.exporting.onnx_file import quiet_exporters
from src.files import replacing
from src.models.anysize import AnySize
from src.weights import check_sha256

SMALLEST, LARGEST = 32, 8192  # sides, px
MOST = 4096  # images of a batch
TRIED = (
    (1, 0, 0),
    (1, 40, 72),
    (3, 64, 13),
)  # batch, and what height and width have above the least, of what a graph is tried on
CLOSE = 1e-3  # of the largest logit
TEXT = "emisnet"  # a file inside the .pt2, with what the metadata of an ONNX file holds


@dataclass(frozen=True)
class Traced:
    """`program` takes images (B, C, H, W) of `shapes`, in words: of any batch with sides from `least` px on, or where
    that is None one image of one size; `note` says why, or is empty."""

    program: ExportedProgram
    shapes: str
    note: str = ""
    least: int | None = None


def traced(net: nn.Module, size: Sequence[int], *, dynamic: bool) -> Traced:
    """`net` for any batch and size or, where it cannot be traced so or asked otherwise, for one image of `size`.

    Raises ValueError for a network that cannot be traced at all.
    """
    note = ""
    for least in _leasts(net, min(size)) if dynamic else ():
        try:
            return _for_any(net, least)
        except Exception as error:  # the tracer's are of every kind
            note = f"cannot be traced for any size, so it takes one image of one size ({short(error)})"
    image = torch.zeros(1, _channels(net), *size)
    try:
        with quiet_exporters(), torch.no_grad():
            program = torch.export.export(net, (image,), strict=False)
    except Exception as error:  # likewise: the tracer's are of every kind
        raise ValueError(f"{type(net).__name__} cannot be traced, so it cannot be exported: {short(error)}") from error
    return Traced(_anonymous(program), f"one image of {size[0]}x{size[1]}", note)


def check_any(run: Callable[[Tensor], Tensor], net: nn.Module, least: int) -> None:
    """ValueError where `run` gives other logits than `net` for some sizes from `least` px on."""
    generator = torch.Generator().manual_seed(0)
    for batch, *more in TRIED:
        height, width = (least + side for side in more)
        image = torch.randn(batch, _channels(net), height, width, generator=generator)
        with torch.inference_mode():
            expected, found = net(image), run(image)
        worst = float((found - expected).abs().max()) if found.shape == expected.shape else float("inf")
        if not worst <= CLOSE * float(expected.abs().max()):
            raise ValueError(f"other logits for {batch} images of {height}x{width}: they differ by {worst:.2g}")


def _leasts(net: nn.Module, side: int) -> list[int]:
    """Smallest sides to try: SMALLEST, or what leaves two pixels on the lowest level where a side of one pixel would be
    another function to the tracer; none that `side`, of the images that it is for, falls short of."""
    return [least for least in sorted({SMALLEST, getattr(net, "divisor", 0) + 1}) if SMALLEST <= least <= side]


def _for_any(net: nn.Module, least: int) -> Traced:
    model = AnySize(net)
    sides = {axis: Dim(name, min=least, max=LARGEST) for axis, name in ((2, "height"), (3, "width"))}
    example = torch.zeros(2, _channels(net), 3 * model.divisor + 1, 4 * model.divisor + 1)
    shapes = ({0: Dim("batch", min=1, max=MOST), **sides},)
    one_as_others = _config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    with quiet_exporters(), torch.no_grad(), one_as_others:
        program = torch.export.export(model, (example,), dynamic_shapes=shapes, strict=False)
    # What is left beside the ranges asks for more than one image, where the tracer looked at the layout of memory. The
    # numbers do not depend on it, as is checked next; kept, the guard would refuse a single image.
    program._guards_code = []
    check_any(program.module(), net, least)
    return Traced(_anonymous(program), f"any batch, sides of {least} to {LARGEST} px", least=least)


def _channels(net: nn.Module) -> int:
    channels = getattr(net, "in_channels", 3)
    assert isinstance(channels, int)
    return channels


def _anonymous(program: ExportedProgram) -> ExportedProgram:
    """Without where each node came from: paths of the machine that traced it, and most of a small file."""
    for node in program.graph.nodes:
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node"):
            node.meta.pop(key, None)
    return program


def short(error: Exception) -> str:
    """An error of a tracer in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


# ---- .pt2 files


def write_program(program: ExportedProgram, path: Path, text: str) -> None:
    """As torch.export.load reads it; `text` stands in it as TEXT."""
    with replacing(path) as file:
        torch.export.save(program, file, extra_files={TEXT: text})


class ProgramNet(nn.Module):
    """A .pt2 file as a network: image (B, C, H, W), normalised, to logits; `text` is what it says of itself.

    torch.export.load unpickles: only for files of one's own. Raises ValueError for a file that is not what its checksum
    says.
    """

    def __init__(self, path: Path):
        super().__init__()
        check_sha256(path)
        held = {TEXT: ""}
        self.program = torch.export.load(path, extra_files=held).module()
        self.text = held[TEXT]

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h w"]:
        return self.program(image)

    def train(self, mode: bool = True) -> "ProgramNet":
        return self  # what torch.export made is in eval mode, and refuses to be told so
