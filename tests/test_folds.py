"""Folds are whole groups of equal size and lesion area; over them every image is scored once, by a fair network."""

import json
import random
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from src.data import folds as folds_module
from src.data.folds import Folds, available_folds, fold_split, kfold, lesion_areas, load_folds, read_folds
from src.data.groups import NEAR_DUPLICATES, near_duplicates
from src.data.pairs import Pair
from src.data.splits import MANIFESTS, available_splits, drawn_order, load_split, read_split

PINNED = {  # a new drawing would be another experiment under an old name
    "kvasir_seg": ("69bb42940f8f", [176] * 5),
    "isic2018": ("a9dabe69be4b", [400] * 5),
    "glas": ("377d1bba86a6", [16, 17, 17, 18, 17]),
}


def _skewed_areas(n: int, seed: int = 0) -> dict[str, float]:
    """Mostly small lesions and a few large ones, as in Kvasir-SEG."""
    drawn = np.random.default_rng(seed).beta(1, 5, n)
    return {f"id{number:04}": float(area) for number, area in enumerate(drawn)}


def _of_patients(n: int, seed: int = 0) -> tuple[dict[str, float], dict[str, str]]:
    """1 to 9 images for each of n patients, whose lesions resemble each other."""
    rng = np.random.default_rng(seed)
    areas, groups = {}, {}
    for patient in range(n):
        usual = rng.beta(1, 5)
        for number in range(rng.integers(1, 10)):
            areas[f"p{patient}_{number}"] = float(np.clip(usual + rng.normal(scale=0.03), 0, 1))
            groups[f"p{patient}_{number}"] = f"patient {patient}"
    return areas, groups


def _spread(values: list[float]) -> float:
    return max(values) - min(values)


def _means(folds: list[tuple[str, ...]], areas: dict[str, float]) -> list[float]:
    return [fmean(areas[id_] for id_ in members) for members in folds]


def _dealt(areas: dict[str, float], groups: dict[str, str], n_folds: int, seed: int) -> list[tuple[str, ...]]:
    """Whole groups in random order, one fold after the other."""
    drawn = drawn_order(list(areas), groups, seed)
    return [tuple(id_ for group in drawn[n::n_folds] for id_ in group) for n in range(n_folds)]


# ---- drawing


@pytest.mark.parametrize("n_folds", [3, 5, 10])
@pytest.mark.parametrize("seed", range(3))
def test_folds_of_single_images_agree_in_size_mean_and_every_decile(n_folds: int, seed: int) -> None:
    areas = _skewed_areas(403, seed)
    folds = kfold(areas, n_folds=n_folds, seed=seed)
    assert sorted(id_ for members in folds for id_ in members) == sorted(areas)
    assert _spread([len(members) for members in folds]) <= 1
    by_chance = fmean(_spread(_means(_dealt(areas, {}, n_folds, draw), areas)) for draw in range(20))
    assert _spread(_means(folds, areas)) < by_chance / 4
    edges = np.quantile(list(areas.values()), np.linspace(0, 1, 11))
    histograms = np.stack([np.histogram([areas[id_] for id_ in members], edges)[0] for members in folds])
    assert np.ptp(histograms, axis=0).max() <= 4


@pytest.mark.parametrize("seed", range(5))
def test_folds_of_whole_patients_are_nearer_than_by_chance(seed: int) -> None:
    areas, groups = _of_patients(60, seed)
    folds = kfold(areas, n_folds=5, seed=seed, groups=groups)
    assert all(
        len({n for n, members in enumerate(folds) if group in {groups[id_] for id_ in members}}) == 1
        for group in set(groups.values())
    )
    dealt = [_dealt(areas, groups, 5, draw) for draw in range(20)]
    assert _spread([len(members) for members in folds]) <= min(
        3, fmean(_spread([len(m) for m in one]) for one in dealt) / 4
    )
    assert _spread(_means(folds, areas)) < fmean(_spread(_means(one, areas)) for one in dealt) / 2


def test_folds_depend_on_ids_areas_and_seed_alone() -> None:
    areas, groups = _of_patients(30)
    shuffled = dict(random.Random(1).sample(list(areas.items()), len(areas)))
    renamed = {id_: f"another {group[::-1]}" for id_, group in reversed(groups.items())}
    assert kfold(areas, n_folds=4, groups=groups) == kfold(shuffled, n_folds=4, groups=renamed)
    single = _skewed_areas(50)
    assert len({tuple(kfold(single, n_folds=5, seed=seed)) for seed in range(10)}) == 10
    assert Folds("", "", kfold(single, n_folds=5)).hash == "5fa65bd171ec"


def test_equal_areas_can_be_folded() -> None:
    assert [len(members) for members in kfold(dict.fromkeys("abcdefg", 0.0), n_folds=3)] == [3, 2, 2]


GROUPED = st.lists(
    st.lists(st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=6), min_size=3, max_size=30
)  # the areas of each group's images


@given(grouped=GROUPED, n_folds=st.integers(3, 8), seed=st.integers(0, 3))
def test_whatever_the_areas_every_id_lies_in_one_fold_with_its_group(
    grouped: list[list[float]], n_folds: int, seed: int
) -> None:
    areas = {f"{group}_{n}": area for group, members in enumerate(grouped) for n, area in enumerate(members)}
    groups = {id_: id_.split("_")[0] for id_ in areas}
    if n_folds > len(grouped):
        with pytest.raises(ValueError, match=f"in {len(grouped)} groups cannot fill {n_folds} folds"):
            kfold(areas, n_folds=n_folds, groups=groups)
        return
    folds = kfold(areas, n_folds=n_folds, seed=seed, groups=groups)
    assert len(folds) == n_folds and all(folds)
    assert sorted(id_ for members in folds for id_ in members) == sorted(areas)
    assert sum(len({groups[id_] for id_ in members}) for members in folds) == len(grouped)
    if all(len(members) == 1 for members in grouped):
        assert _spread([len(members) for members in folds]) <= 1


@pytest.mark.parametrize("n_folds", [-1, 0, 1, 2])
def test_fewer_than_three_folds_are_refused(n_folds: int) -> None:
    with pytest.raises(ValueError, match=rf"{n_folds} folds are too few, .* set 3 or more"):
        kfold(_skewed_areas(9), n_folds=n_folds)
    with pytest.raises(ValueError, match="2 folds are too few"):
        fold_split([("a",), ("b",)], 0, "mine")


# ---- one fold as a split


@pytest.mark.parametrize("n_folds", [3, 5])
def test_over_the_folds_every_image_is_tested_once_and_chosen_by_once(n_folds: int) -> None:
    areas = _skewed_areas(31)
    folds = kfold(areas, n_folds=n_folds)
    splits = [fold_split(folds, fold, "mine") for fold in range(n_folds)]
    for part, shift in (("test", 0), ("val", 1)):
        assert [split.parts[part] for split in splits] == [folds[(n + shift) % n_folds] for n in range(n_folds)]
    for fold, split in enumerate(splits):
        assert (split.name, split.dataset) == (f"kfold{n_folds}-{fold}", "mine")
        assert split.description == f"Fold {fold} of {n_folds} is test, fold {(fold + 1) % n_folds} val."
        assert sorted(id_ for ids in split.parts.values() for id_ in ids) == sorted(
            areas
        )  # no id twice: Split sees to it
    assert len({split.hash for split in splits}) == n_folds


@pytest.mark.parametrize("fold", [-1, 5, 17])
def test_a_fold_that_is_not_there_is_refused(fold: int) -> None:
    folds = kfold(_skewed_areas(10), n_folds=5)
    with pytest.raises(ValueError, match=f"mine: there is no fold {fold} of 5; set data.fold to one of 0 to 4"):
        fold_split(folds, fold, "mine")


def test_folds_that_share_an_id_make_no_split() -> None:
    with pytest.raises(ValueError, match="1 ids stand twice"):
        fold_split([("a",), ("b",), ("a",)], 0, "mine")


# ---- the committed folds


@pytest.mark.parametrize("dataset", list(PINNED))
def test_the_committed_folds_are_these(dataset: str) -> None:
    manifest = read_folds(MANIFESTS / f"{dataset}_kfold5.json")
    assert (manifest.name, manifest.dataset) == ("kfold5", dataset) and manifest.description
    assert (manifest.hash, [len(members) for members in manifest.folds]) == PINNED[dataset]
    assert available_folds(dataset) == [5] and load_folds(dataset, 5) == manifest.folds
    assert _spread(list(manifest.mean_areas)) < {"glas": 0.05}.get(dataset, 0.002)


def test_committed_folds_lie_beside_the_splits() -> None:
    assert available_splits("glas") == ["holdout", "official"]
    with pytest.raises(ValueError, match="no split 'kfold5' of 'glas'; possible: holdout, official, kfold"):
        load_split("glas", "kfold5")
    with pytest.raises(ValueError, match="not such a manifest"):
        read_split(MANIFESTS / "glas_kfold5.json")
    with pytest.raises(ValueError, match="not such a manifest"):
        read_folds(MANIFESTS / "glas_holdout.json")
    assert available_folds("nothing") == []


@pytest.mark.parametrize(
    ("dataset", "n_folds", "known"), [("glas", 4, r"\[5\]"), ("folder", 5, "nor any other number")]
)
def test_other_folds_than_the_committed_are_refused(dataset: str, n_folds: int, known: str) -> None:
    with pytest.raises(ValueError, match=rf"no {n_folds} folds of '{dataset}' are committed, {known}; choose .* kfold"):
        load_folds(dataset, n_folds)


def test_committed_folds_are_of_the_images_that_may_train() -> None:
    official = load_split("kvasir_seg", "official").parts
    assert _ids("kvasir_seg") == sorted({*official["train"], *official["val"]})
    assert _ids("isic2018") == sorted(id_ for ids in load_split("isic2018", "holdout").parts.values() for id_ in ids)
    assert _ids("glas") == sorted(f"train_{n}" for n in range(1, 86))


def _ids(dataset: str) -> list[str]:
    return sorted(id_ for members in load_folds(dataset, 5) for id_ in members)


@pytest.mark.parametrize("dataset", list(NEAR_DUPLICATES))
def test_near_duplicates_lie_in_one_fold(dataset: str) -> None:
    group_of, folds = near_duplicates(dataset), load_folds(dataset, 5)
    held = [{group_of[id_] for id_ in members if id_ in group_of} for members in folds]
    assert sum(map(len, held)) == len(NEAR_DUPLICATES[dataset])


def test_changed_folds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folds_module, "MANIFESTS", tmp_path)
    manifest = Folds("kfold3", "mine", [("b", "a"), ("c",), ("d",)], "about", (0.1, 0.2, 0.3))
    path = tmp_path / "mine_kfold3.json"
    path.write_text(manifest.to_json())
    assert load_folds("mine", 3) == [("a", "b"), ("c",), ("d",)] and read_folds(path) == manifest
    fields = json.loads(manifest.to_json())
    fields["folds"] = [fields["folds"][n] for n in (1, 0, 2)]  # another order is another experiment
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"mine_kfold3\.json: the ids give hash .*so it was changed"):
        load_folds("mine", 3)


# ---- areas


def test_areas_are_fractions_of_the_image(tmp_path: Path) -> None:
    pairs = {}
    for name, values in {"a": [0, 255, 255, 0], "b": [0, 0, 0, 255]}.items():
        mask = tmp_path / f"{name}.png"
        Image.fromarray(np.array([values], dtype=np.uint8)).save(mask)
        pairs[name] = Pair(name, mask, mask)
    assert lesion_areas(pairs, "binary") == {"a": 0.5, "b": 0.25}
    assert lesion_areas(pairs, {0: 1, 255: 0}) == {"a": 0.5, "b": 0.75}
