"""Every shipped model config composes, builds and runs, and differs from its parent in what its name says alone."""

import re
from typing import Any

import pytest
import torch
import yaml

from tests.nets import CONF, EMISNETS, MODELS, build, meta, model_config

# What each variant changes of `emisnet`.
CHANGES: dict[str, dict[str, Any]] = {
    "emisnet_base": {"channels": [32, 64, 144, 288, 352]},
    "emisnet_no_ca": {"attention": False},
    "emisnet_no_context": {"context": False},
    "emisnet_no_efam": {"fusion_dilations": []},
    "emisnet_no_ghost": {"ghost": False},
    "emisnet_no_icm": {"icm_levels": []},
    "emisnet_ratio_1111": {"encoder_depths": [1, 1, 1, 1, 1]},
    "emisnet_ratio_1131": {},  # the default's, by its other name
    "emisnet_ratio_1311": {"encoder_depths": [1, 3, 1, 1, 1]},
    "emisnet_ratio_3111": {"encoder_depths": [3, 1, 1, 1, 1]},
    "emisnet_ratio_d1131": {"decoder_depths": [1, 1, 3, 1]},
    "emisnet_ratio_d3111": {"decoder_depths": [3, 1, 1, 1]},
    "emisnet_small": {"channels": [16, 32, 64, 136, 176]},
    "emisnet_tiny": {"channels": [16, 16, 32, 64, 64], "stem_stride": 2, "act": "hardswish"},
    "emisnet_plus": {
        "channels": [92, 122, 183, 366, 489],
        "encoder_depths": [1, 1, 1, 1, 1],
        "stem_stride": 2,
        "icm_levels": [],
        "local_kernel_size": 3,
        "fusion_dilations": [],
        "attention": False,
        "context": False,
    },
}
# What makes `emisnet_intended` the network as intended; its sizes and other options are tuned, so they may differ too.
INTENDED = {"context_kernel_size": 3, "icm_inner_act": True}
TUNED = {
    "channels",
    "encoder_depths",
    "decoder_depths",
    "stem_stride",
    "act",
    "icm_levels",
    "ghost_ratio",
    "ca_reduction",
}
TUNED |= {"context_dilation", "fusion_dilations", "local_kernel_size"}


def changes(name: str) -> dict[str, Any]:
    parent, config = model_config("emisnet"), model_config(name)
    assert config.keys() == parent.keys()
    return {key: value for key, value in config.items() if value != parent[key]}


def test_there_are_so_many_model_configs() -> None:
    assert len(MODELS) == 35
    assert {*CHANGES, "emisnet", "emisnet_intended"} == set(EMISNETS)


@pytest.mark.parametrize("name", MODELS)
def test_every_config_composes_builds_and_runs(name: str) -> None:
    net = build(name).eval()
    with torch.no_grad():
        logits = net(torch.randn(1, 3, 64, 64))
    assert logits.shape == (1, 1, 64, 64) and logits.isfinite().all()


@pytest.mark.parametrize("name", CHANGES)
def test_a_variant_changes_what_its_comment_says_and_nothing_else(name: str) -> None:
    assert changes(name) == CHANGES[name]


def test_intended_has_real_dilation_and_icm_with_activations() -> None:
    changed = changes("emisnet_intended")
    assert INTENDED.items() <= changed.items()
    assert changed.keys() - INTENDED.keys() <= TUNED


@pytest.mark.parametrize("name", [name for name in EMISNETS if "_ratio_" in name])
def test_a_ratio_is_in_the_name_the_comment_and_the_depths(name: str) -> None:
    side, digits = re.fullmatch(r"emisnet_ratio_(d?)(\d{4})", name).groups()
    ratio = [int(digit) for digit in digits]
    config = model_config(name)
    assert (config["decoder_depths"] if side else config["encoder_depths"][:4]) == ratio
    assert side or config["encoder_depths"][4] == 1  # one block in the bottleneck
    comment = (CONF / "model" / f"{name}.yaml").read_text().splitlines()[0]
    assert digits in comment or (side and "decoder" in comment)


@pytest.mark.parametrize("name", [*CHANGES, "emisnet_intended"])
def test_a_variant_is_a_comment_its_parent_and_what_differs(name: str) -> None:
    text = (CONF / "model" / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    content = yaml.safe_load(text)
    assert content.pop("defaults") == ["emisnet", "_self_"]
    config = model_config(name)
    assert content and content == {key: config[key] for key in content}


@pytest.mark.parametrize(("name", "params"), [("emisnet_tiny", 0.1e6), ("emisnet_small", 0.5e6), ("emisnet_base", 2e6)])
def test_a_size_is_what_its_name_promises(name: str, params: float) -> None:
    assert sum(p.numel() for p in meta(name).parameters()) == pytest.approx(params, rel=0.1)


def test_deep_supervision_is_one_switch_for_network_and_loss() -> None:
    assert model_config("emisnet_tiny", "deep_supervision=true")["deep_supervision"] is True
    assert model_config("emisnet_tiny")["deep_supervision"] is False
