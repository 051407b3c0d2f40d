"""Cost: against hand-made numbers, a second counter, and the networks that a budget asks for."""

import copy
import functools
import warnings
from collections.abc import Callable
from typing import Any

import jaxtyping
import pytest
import torch
from torch import nn

from src.build import build_net, solve_width
from src.models.cost import match_macs, match_params, measure_cost
from src.models.fuse import fuse
from tests.nets import BASELINES, EMISNETS, build, meta, model_config

PARAMS, MACS = 438105, 742449152  # of the full network, at 3x256x256
WITHIN = 0.02


def tiny_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),  # 10x12 -> 5x6
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8, bias=False),
        nn.Conv2d(8, 4, 1),
        nn.Flatten(),
        nn.Linear(4 * 5 * 6, 2),
    )


def test_a_tiny_network_costs_what_the_hand_computes() -> None:
    cost = measure_cost(tiny_net(), (1, 3, 10, 12))
    macs = {"0": 30 * 8 * 3 * 9, "1": 0, "3": 30 * 8 * 9, "4": 30 * 4 * 8, "6": 2 * 120}  # a MAC is one multiply-add
    params = {"0": 8 * 3 * 9 + 8, "1": 16, "3": 8 * 9, "4": 4 * 8 + 4, "6": 2 * 120 + 2}
    assert cost.by_module == {name: (params[name], macs[name]) for name in macs}
    assert (cost.params, cost.macs, cost.flops) == (sum(params.values()), sum(macs.values()), 2 * sum(macs.values()))
    assert cost.input_shape == (1, 3, 10, 12)


def test_a_batch_costs_as_many_times_an_image() -> None:
    assert measure_cost(tiny_net(), (5, 3, 10, 12)).macs == 5 * measure_cost(tiny_net(), (1, 3, 10, 12)).macs


def test_counting_leaves_the_network_as_it_was() -> None:
    net = tiny_net().train()
    before = copy.deepcopy(net.state_dict())
    measure_cost(net, (1, 3, 10, 12))
    assert net.training and not any(module._forward_hooks for module in net.modules())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def children_of(names: list[str], parent: str) -> list[str]:
    return [name for name in names if name.startswith(f"{parent}.") and name.count(".") == parent.count(".") + 1]


@pytest.mark.parametrize("folded", [False, True], ids=["whole", "fused"])
@pytest.mark.parametrize("name", ["emisnet", "emisnet_intended", "emisnet_no_efam"])
def test_parts_sum_to_stages_and_stages_to_the_total(name: str, folded: bool) -> None:
    net = meta(name)
    cost = measure_cost(fuse(net) if folded else net)
    rows = cost.rows()
    assert {"stem", "encoder", "icm", "decoder"} <= {row[0] for row in rows}
    assert sum(row[1] for row in rows) == cost.params
    assert sum(row[2] for row in rows) == cost.macs
    names = list(cost.by_module)
    assert len(children_of(names, "encoder.2")) == 3
    for parent in ("encoder", "decoder", "encoder.2", "decoder.0", "encoder.2.1", "stem", "icm"):
        parts = [cost.by_module[child] for child in children_of(names, parent)]
        assert tuple(map(sum, zip(*parts, strict=True))) == cost.by_module[parent]
    assert [row[0] for row in cost.rows(2) if row[0].startswith("encoder.")] == [f"encoder.{i}" for i in range(5)]
    assert "encoder.2.2" in {row[0] for row in cost.rows(3)}


@pytest.mark.parametrize("name", BASELINES)
def test_a_rivals_parts_sum_to_its_total(name: str) -> None:
    cost = measure_cost(rival(name), (1, 3, 64, 64))
    parts = [row for row in cost.rows(2) if row[0].count(".") == 1]
    assert sum(row[1] for row in parts) == cost.params
    assert sum(row[2] for row in parts) == cost.macs


def test_every_convolution_costs_its_formula() -> None:
    """MACs = H_out W_out C_out C_in / groups k^2, read off the real forward pass."""
    net, expected = build("emisnet_intended", "model.fusion_kernel_size=3").eval(), {}  # 1x1 ones are computed as one

    def note(name: str, conv: nn.Conv2d, _: Any, out: torch.Tensor) -> None:
        expected[name] = out[0].numel() * conv.in_channels // conv.groups * conv.kernel_size[0] * conv.kernel_size[1]

    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(functools.partial(note, name))
    net(torch.randn(1, 3, 64, 96))
    for module in net.modules():
        module._forward_hooks.clear()
    cost = measure_cost(net, (1, 3, 64, 96))
    assert {name: cost.by_module[name][1] for name in expected} == expected
    assert cost.macs == sum(expected.values())


def second_count(net: nn.Module, side: int, monkeypatch: pytest.MonkeyPatch) -> float:
    """fvcore's count of convolutions and matrix products, which it traces from a real forward pass."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # in a trace, sizes are tensors rather than ints
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit", category=FutureWarning)  # fvcore scripts at its import
        from fvcore.nn import FlopCountAnalysis
        from fvcore.nn.jit_handles import get_shape

        def matmul(inputs: list[Any], _: list[Any]) -> float:
            left, right = (get_shape(value) for value in inputs)  # fvcore's own knows no vectors
            return float(torch.Size(left).numel() * (right[-1] if len(right) > 1 else 1))

        counter = FlopCountAnalysis(net.eval(), torch.randn(1, 3, side, side)).set_op_handle("aten::matmul", matmul)
        counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        counts = counter.by_operator()
    return sum(counts[kind] for kind in ("conv", "linear", "matmul"))


@functools.cache
def rival(name: str) -> nn.Module:
    return build(name)


@pytest.mark.parametrize("name", ["emisnet", "emisnet_intended", "emisnet_plus", "emisnet_no_ghost", *BASELINES])
def test_a_second_counter_agrees(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = rival(name)
    # 5 % is what is asked; they count the same operations, up to the product of EFAM's weights with a vector.
    assert measure_cost(net, (1, 3, 64, 64)).macs == pytest.approx(second_count(net, 64, monkeypatch), rel=1e-3)


def test_a_second_counter_agrees_on_a_fused_network(monkeypatch: pytest.MonkeyPatch) -> None:
    net = fuse(rival("emisnet"))
    assert measure_cost(net, (1, 3, 64, 64)).macs == pytest.approx(second_count(net, 64, monkeypatch), rel=1e-3)


@pytest.mark.parametrize("name", EMISNETS)
def test_every_variant_can_have_the_full_networks_parameters(name: str) -> None:
    config = model_config(name, f"model.match_params={PARAMS}")
    with torch.device("meta"):
        params = sum(p.numel() for p in build_net(config, quiet=True).parameters())
    assert abs(params / PARAMS - 1) <= WITHIN
    assert config["match_params"] is None and config["match_macs"] is None  # solved: not to be solved again
    unsolved = model_config(name)
    multipliers = [new / old for new, old in zip(config["channels"], unsolved["channels"], strict=True)]
    assert max(multipliers) - min(multipliers) < 0.1, "one multiplier for all widths, but for rounding"
    assert {**config, "channels": unsolved["channels"]} == unsolved  # nothing but the widths has changed


def test_a_variant_can_have_the_full_networks_macs_at_the_size_that_is_asked() -> None:
    """One variant, since it takes seconds. A solver that forgot the size would end with a quarter of the target."""
    config = model_config("emisnet_no_context", "data.size=128", f"model.match_macs={MACS}")
    with torch.device("meta"):
        net = build_net(config, quiet=True)
    assert measure_cost(net, (1, 3, 128, 128)).macs == pytest.approx(MACS, rel=WITHIN)


@pytest.mark.parametrize("target", [50, 0])
def test_a_budget_that_no_width_meets_is_refused(target: int) -> None:
    with pytest.raises(ValueError, match=rf"no width multiplier.*2 % of {target} params.*nearest is channels="):
        model_config("emisnet", f"model.match_params={target}")


def test_a_budget_between_two_widths_is_refused() -> None:
    def build_steps(channels: tuple[int, ...] = (1,)) -> nn.Module:
        return nn.Linear(channels[0], 100, bias=False)  # 100 parameters a step

    assert match_params(build_steps, 295) == (3,)  # 1.7 % off
    with pytest.raises(ValueError, match=r"2 % of 290 params; the nearest is channels=\(3,\) with 300"):
        match_params(build_steps, 290)


@pytest.mark.parametrize(
    "make", [lambda: nn.Linear(2, 2), lambda channels: nn.Linear(2, channels[0])], ids=["no channels", "no default"]
)
def test_a_network_without_channels_is_refused(make: Callable[..., nn.Module]) -> None:
    with pytest.raises(ValueError, match="takes no `channels` with a default"):
        match_params(make, 1000)
    with pytest.raises(ValueError, match="takes no `channels` with a default"):
        match_macs(make, 1000, (1, 2))


@pytest.mark.parametrize("name", BASELINES)
def test_a_rival_cannot_be_matched(name: str) -> None:
    with pytest.raises(ValueError, match="takes no `channels`"):
        model_config(name, "+model.match_params=1000000")


def test_two_budgets_are_refused() -> None:
    with pytest.raises(ValueError, match=r"match_params=400000 and model.match_macs=5 are both set"):
        model_config("emisnet", "model.match_params=400000", "model.match_macs=5")


def test_without_a_budget_the_config_is_left_as_it_is() -> None:
    for config in (model_config("emisnet_tiny"), model_config("unet")):
        before = copy.deepcopy(config)
        assert solve_width(config, 256) == before == config
