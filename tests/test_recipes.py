"""Recipes: every one composes, changes what it says, and is a run of its own."""

from typing import Any

import pytest

from src.config import composed
from src.data.transforms import make_augment
from src.rundir import differences, run_hash
from src.study import config_labels

from .conftest import REPO

RECIPES = sorted(file.stem for file in (REPO / "conf" / "recipe").glob("*.yaml"))
# what each changes of `base`
CHANGES = {
    "published": {"data.augment.scale", "data.augment.color"},
    "no_ema": {"ema"},
    "lr_low": {"optim.lr"},
    "lr_high": {"optim.lr"},
    "distort": {"data.augment.distort"},
    "blur": {"data.augment.blur"},
    "rescale": {"data.augment.scale_limit"},
    "recolor": {"data.augment.color", "data.augment.color_limit"},
    "mix": {"data.mix"},
    "crop_mixed": {"data.crop"},
    "deep": {"deep_supervision", "model.deep_supervision"},
    "batch_8": {"data.batch_size"},
    "long": {
        *("ema", "data.mix", "data.augment.scale", "data.augment.scale_limit", "data.augment.color"),
        *("data.augment.color_limit", "data.augment.distort", "data.augment.blur"),
    },
}


def recipe(name: str) -> dict[str, Any]:
    return composed(f"recipe={name}", "model=emisnet_intended", "data=kvasir_seg", "threads=1")


def test_there_are_so_many_recipes() -> None:
    assert sorted([*CHANGES, "base"]) == RECIPES


@pytest.mark.parametrize("name", CHANGES)
def test_a_recipe_is_base_and_what_it_changes(name: str) -> None:
    assert set(differences(recipe(name), recipe("base"))) == CHANGES[name]


def test_every_recipe_is_a_run_of_its_own() -> None:
    assert len({run_hash(recipe(name)) for name in RECIPES}) == len(RECIPES)


def test_a_recipe_gives_way_to_what_is_typed() -> None:
    assert composed("recipe=lr_high", "optim.lr=0.5")["optim"]["lr"] == 0.5


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"distort_limit": 1.5}, "distort_limit=1.5 must be from 0 to 1"),
        ({"blur_limit": 0}, "blur_limit=0 must be at least 0.1"),
    ],
)
def test_limits_out_of_range(limits: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_augment(**limits)


def test_runs_are_named_by_what_differs_and_defaults_by_their_value() -> None:
    """A key that came later is left out of a run's identity at its default, and is still named where others differ."""
    plain = composed("model=emisnet_intended", "threads=1")
    mixed = composed("model=emisnet_intended", "threads=1", "data.mix=0.5")
    assert config_labels([plain, mixed]) == ["emisnet_intended, data.mix=0.0", "emisnet_intended, data.mix=0.5"]
    earlier = {**plain, "choices": {key: name for key, name in plain["choices"].items() if key != "recipe"}}
    assert len(set(config_labels([plain, earlier]))) == 1  # of before there were recipes
    assert config_labels([plain, recipe("lr_low")])[1].startswith("emisnet_intended, data=kvasir_seg, recipe=lr_low")
