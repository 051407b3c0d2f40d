"""How two networks are told apart: by their modules, and by what they compute."""

import copy
import warnings

import pytest
import torch
from torch import nn

from src.models.compare import module_difference, same_function
from src.models.emisnet import EMISNet

SMALL = {"channels": (4, 4, 8, 8, 8), "stem_stride": 1}
SHAPE = (2, 3, 64, 64)


def net(**arguments: object) -> EMISNet:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the dilated 1x1
        return EMISNet(**(SMALL | arguments))


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        ({}, []),
        ({"channels": (8, 8, 8, 8, 8)}, []),  # widths are told elsewhere
        ({"icm_levels": ()}, ["- icm.*: ICM"]),
        ({"fusion_dilations": ()}, ["- fusion: ScaleFusion"]),
        ({"encoder_depths": (1, 1, 2, 1, 1)}, ["- encoder.*.*: LGFE"]),
        ({"encoder_depths": (2, 1, 3, 1, 1)}, ["+ encoder.*.*: LGFE"]),
        (
            {"attention": False},
            ["7x encoder.*.*.attention: CoordAttn -> Identity", "4x decoder.*.*.attention: CoordAttn -> Identity"],
        ),
    ],
    ids=["same", "wider", "icm", "efam", "less depth", "more depth", "attention"],
)
def test_module_difference_names_the_outermost_part(arguments: dict, lines: list[str]) -> None:
    assert module_difference(net(**arguments), net()) == lines


def test_a_dilation_is_told_though_a_1x1_kernel_does_not_feel_it() -> None:
    assert module_difference(net(context_dilation=1), net())[0] == (
        "7x encoder.*.*.context: Conv2d 1x1 dilation 7 -> Conv2d 1x1"
    )


def test_a_dilated_1x1_is_the_same_function_at_any_rate_and_a_dilated_3x3_is_not() -> None:
    assert same_function(net(context_dilation=1), net(context_dilation=7), SHAPE)
    three = {"context_kernel_size": 3}
    assert not same_function(net(context_dilation=1, **three), net(context_dilation=7, **three), SHAPE)


def test_networks_with_other_weights_are_not_the_same() -> None:
    assert not same_function(net(), net(attention=False), SHAPE)
    assert not same_function(net(), net(channels=(4, 4, 8, 8, 12)), SHAPE)


def test_networks_that_start_from_other_weights_are_not_the_same() -> None:
    one = net()
    other = copy.deepcopy(one)
    assert same_function(one, other, SHAPE)
    other.head.weight.data *= 2
    assert not same_function(one, other, SHAPE)


def test_what_batch_norm_makes_of_training_counts() -> None:
    one = net()
    other = copy.deepcopy(one)
    other.stem[1].momentum = 0.01
    assert not same_function(one, other, SHAPE)


def test_an_activation_changes_the_function_though_no_weight_tells() -> None:
    assert not same_function(net(), net(act="relu"), SHAPE)


def test_dropout_does_not_hide_a_twin_and_nothing_is_left_changed() -> None:
    one = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(), nn.BatchNorm2d(4)).eval()
    other = copy.deepcopy(one)
    before = {name: value.clone() for name, value in one.state_dict().items()}
    state = torch.random.get_rng_state()
    assert same_function(one, other, SHAPE)
    assert all(torch.equal(value, before[name]) for name, value in one.state_dict().items())
    assert not one.training and torch.equal(state, torch.random.get_rng_state())
