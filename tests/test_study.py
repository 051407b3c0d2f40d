"""Studies: what their files say, which runs they plan, and what becomes of those that fail."""

import pytest

from src.build import build_net
from src.cli import ConfigError
from src.models.cost import measure_cost

from .conftest import config_of


def test_a_budget_of_reference_is_the_cost_of_the_network_with_nothing_taken_out() -> None:
    full, ablated = ("model.channels=[8,16,24,32,40]", "data.size=64"), ("model=emisnet_no_context",)
    target = measure_cost(build_net(config_of(*full)["model"], quiet=True), (1, 3, 64, 64))
    for key, cost in (("params", target.params), ("macs", target.macs)):
        config = config_of(*ablated, *full, "+reference.context=true", f"model.match_{key}=reference")
        assert not config["model"]["context"]
        found = measure_cost(build_net(config["model"], quiet=True), (1, 3, 64, 64))
        assert abs(getattr(found, key) - cost) <= 0.02 * cost


def test_the_full_network_at_its_own_budget_is_the_same_run() -> None:
    plain, matched = (config_of("+reference.context=true", f"model.match_params={m}") for m in ("null", "reference"))
    assert plain["run_dir"] == matched["run_dir"]


def test_a_budget_of_reference_without_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs to know which network"):
        config_of("model.match_params=reference")
