"""From a resolved config to its parts: the only place that solves `match_params` and `match_macs`."""

import functools
import json
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from torch import nn

from src.models.cost import match_macs, match_params, measure_cost

TORCHS_CHOICE = torch.get_num_threads()  # read once: what is set here would be read back as the choice
MOST_PLANES = 1000  # of a network that cannot be measured before it is built
REFERENCE = "reference"  # as a budget: what the network costs with the arguments of `reference:`


def solve_width(model: Mapping[str, Any], size: int, reference: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The model config with `channels` solved for `match_params` or `match_macs` (at size x size), both then null.

    A budget is a number, or the word `reference`: the cost of the same network with the arguments in `reference`, which
    undo what an ablation took out.

    Raises ValueError when both are set, there is no reference, or no width meets the budget within 2 %.
    """
    return json.loads(_solved(json.dumps(dict(model)), size, json.dumps(dict(reference or {}))))


@functools.cache  # seconds each, and a study asks for the same widths at every seed
def _solved(model: str, size: int, reference_arguments: str) -> str:
    config, reference = json.loads(model), json.loads(reference_arguments)
    budgets = "match_params" in config
    params, macs = config.pop("match_params", None), config.pop("match_macs", None)
    if params is not None and macs is not None:
        raise ValueError(f"model.match_params={params} and model.match_macs={macs} are both set. Choose one.")
    if params is not None or macs is not None:
        arguments = {key: value for key, value in config.items() if not key.startswith("_")}
        build = functools.partial(get_class(config["_target_"]), **arguments)
        shape = (1, config["in_channels"], size, size)
        if REFERENCE in (params, macs):
            if not reference:
                raise ValueError(
                    "a budget of `reference` needs to know which network that is: reference={ghost: true, ...}, the "
                    "arguments that differ from it, as in conf/experiment/ablation_modules.yaml."
                )
            with torch.device("meta"):
                net = build_net(config | reference, started=False, quiet=True)
            cost = measure_cost(net, shape)  # outside of the context, in which every operation takes longer
            params, macs = (None, cost.macs) if params is None else (cost.params, None)
        solved = match_macs(build, int(macs), shape) if params is None else match_params(build, int(params))
        config["channels"] = list(solved)
    return json.dumps(config | {"match_params": None, "match_macs": None} if budgets else config)


def build_net(model: Mapping[str, Any], *, started: bool = True, quiet: bool = False) -> nn.Module:
    """The network of a solved model config, with fresh weights; `quiet` for one that was announced before.

    `started=False`: all weights will come from elsewhere, or do not matter, so no encoder's are downloaded or read.
    """
    config = {key: value for key, value in model.items() if key not in ("match_params", "match_macs")}
    if not started and "encoder_weights" in config:
        config["encoder_weights"] = None
    with warnings.catch_warnings():
        if quiet:
            warnings.simplefilter("ignore")
        net = instantiate(config)
    assert isinstance(net, nn.Module)
    return net


def weights_file(model: Mapping[str, Any]) -> str | None:
    """The file that its encoder starts from, if it is one."""
    started = model.get("encoder_weights")
    return started if isinstance(started, str) and started.endswith(".safetensors") else None


def build_within(model: Mapping[str, Any], most_bytes: int, whose: str) -> nn.Module:
    """`build_net`, not started and quiet, once it is known that its parameters take no more than `most_bytes`: a
    stranger's config may ask for more than there is memory. ValueError says so, or why it cannot be built; `whose`
    names it there."""
    try:
        needed = sum(parameter.numel() * parameter.element_size() for parameter in _shapes(model).parameters())
        if needed > most_bytes:
            raise ValueError(f"its config asks for {needed / 1e6:,.1f} MB of parameters, the file has less")
        return build_net(model, started=False, quiet=True)
    except (ValueError, RuntimeError, OverflowError, MemoryError, InstantiationException) as error:
        raise ValueError(f"the network of {whose} cannot be built: {error}.") from error


def _shapes(model: Mapping[str, Any]) -> nn.Module:
    """The network without memory behind it; with, where its constructor asks for values, as those of smp's encoders do
    that are called mit_b0 to mit_b5 (below 200 M parameters with the widest decoder)."""
    try:
        with torch.device("meta"):
            return build_net(model, started=False, quiet=True)
    except (RuntimeError, InstantiationException) as error:
        if "on meta tensors" not in str(error):
            raise
        if max(model.get("num_classes", 1), model.get("in_channels", 1)) > MOST_PLANES:
            raise ValueError(f"num_classes and in_channels are at most {MOST_PLANES} here") from error
        return build_net(model, started=False, quiet=True)


def pin_threads(threads: int | None, *, processes: int = 1) -> int:
    """Sets torch's CPU threads, or shares its choice among the processes; returns the number of this one.

    Results are bit-identical for one number of threads.
    """
    torch.set_num_threads(int(threads) if threads else max(1, TORCHS_CHOICE // processes))
    return torch.get_num_threads()
