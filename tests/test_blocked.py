"""blocked(): the same function as what fuse() returns, in a graph that ONNX Runtime keeps in blocks of channels."""

import collections
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from src.models.blocked import BlockedCoordAttn, CheapOnly, ProductHead, blocked
from src.models.fuse import fuse
from tests.nets import build, max_diff, seeded, unsettle

EXACT = 1e-9  # in float64

OPTIONS: list[dict[str, Any]] = [
    {},
    {"channels": (16, 32, 40), "encoder_depths": (1, 2, 1), "decoder_depths": (2, 1), "icm_levels": (2,)},
    {"stem_stride": 2, "act": "relu", "num_classes": 3},
    {"ghost_ratio": 3},
    {"ghost": False},
    {"attention": False},
    {"context": False},
    {"context_kernel_size": 3, "icm_inner_act": True, "fusion_kernel_size": 3},
    {"fusion_dilations": ()},
]


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_same_logits(options: dict[str, Any]) -> None:
    net = seeded(**{"channels": (4, 6, 8, 10, 13)} | options)
    fused = fuse(unsettle(net).double())
    image = torch.randn(2, 3, 70, 96, dtype=torch.float64)
    logits, structure = fused(image), repr(fused)
    assert logits.std() > 0.1
    assert max_diff(blocked(fused)(image), logits) <= EXACT
    assert repr(fused) == structure and torch.equal(fused(image), logits)


def test_every_part_is_rearranged() -> None:
    kinds = collections.Counter(type(part) for part in blocked(fuse(build("emisnet"))).modules())
    # eleven blocks; only at full resolution, in the encoder and in the decoder, are Ghost halves (8) no multiple of 16
    assert kinds[BlockedCoordAttn] == 11 and kinds[ProductHead] == 1
    assert kinds[CheapOnly] == 2


def test_other_networks_pass_and_a_trained_one_is_refused() -> None:
    other = nn.Conv2d(3, 1, 1)
    assert blocked(other) is other
    with pytest.raises(ValueError, match="Fuse the network first"):
        blocked(seeded(channels=(4, 6), encoder_depths=(1, 1), decoder_depths=(1,), icm_levels=()))


def optimised(net: nn.Module, folder: Path) -> collections.Counter:
    """The operators that ONNX Runtime runs for one 64x64 image, once it has optimised the graph."""
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its own future
        logging.disable(logging.WARNING)
        try:
            program = torch.onnx.export(net, (torch.zeros(1, 3, 64, 64),), dynamo=True, verbose=False)
        finally:
            logging.disable(logging.NOTSET)
    options = runtime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(folder / "optimised.onnx"), 3
    runtime.InferenceSession(program.model_proto.SerializeToString(), options, ["CPUExecutionProvider"])
    return collections.Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


@pytest.mark.slow
def test_in_onnx_runtime_maps_stay_in_blocks(tmp_path: Path) -> None:
    overrides = ["model.stem_stride=2", "model.act=relu"]
    fused = fuse(build("emisnet_tiny", *overrides))
    plain, kept = optimised(fused, tmp_path), optimised(blocked(fused), tmp_path)
    if not plain["ReorderOutput"]:
        pytest.skip("ONNX Runtime has no blocked layout on this processor")
    # Eleven blocks, each with copies out of the layout for attention's means and gates, and back for what follows.
    # How many depends on the processor: its blocks are of 16 channels with AVX-512, of 8 without.
    copies_out = 60 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 40
    assert plain["ReorderInput"] >= 30 and kept["ReorderInput"] <= 2
    # of gates, a row or a column, and of the head
    assert plain["ReorderOutput"] >= copies_out and kept["ReorderOutput"] <= 30
    assert kept["ReduceMean"] == 0 and kept["Concat"] < plain["Concat"]
    assert kept.total() < 0.85 * plain.total()
