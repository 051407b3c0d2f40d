"""Committed splits are what their hash and their sources say; drawn ones depend on the ids and the seed alone."""

import json
import os
import random
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from src.data import folds, recipes, splits
from src.data.groups import NEAR_DUPLICATES, glas_patients, near_duplicates
from src.data.pairs import glas_pairs, isic2018_pairs, isic2018_parts, kvasir_seg_pairs
from src.data.recipes import (
    glas_splits,
    isic2018_holdout,
    kvasir_seg_splits,
    main,
    remade,
)
from src.data.splits import (
    MANIFESTS,
    Split,
    available_splits,
    find_absent,
    holdout,
    isic2018_official,
    load_split,
    read_split,
)
from tests.layouts import example_pairs, write_isic2018, write_kvasir_seg

SIZES = {
    ("kvasir_seg", "official"): {"train": 792, "val": 88, "test": 120},
    ("kvasir_seg", "holdout"): {"train": 704, "val": 88, "test": 88},
    ("glas", "official"): {"train": 68, "val": 17, "testA": 60, "testB": 20},
    ("glas", "holdout"): {"train": 51, "val": 17, "test": 17},
    ("isic2018", "holdout"): {"train": 1600, "val": 200, "test": 200},
}
IDS = [f"id{n:03}" for n in range(100)]


@pytest.fixture
def real_data() -> Iterator[Path]:
    if "EMISNET_DATA" not in os.environ:
        pytest.skip("EMISNET_DATA does not say where the real datasets are")
    yield Path(os.environ["EMISNET_DATA"])


def _sides(split: Split, groups: dict[str, str]) -> dict[str, set[str]]:
    """group -> the parts its members lie in."""
    sides: dict[str, set[str]] = {}
    for part, ids in split.parts.items():
        for id_ in ids:
            if id_ in groups:
                sides.setdefault(groups[id_], set()).add(part)
    return sides


# ---- the committed splits


def test_the_committed_splits_are_these_and_no_others() -> None:
    committed = {*SIZES, *((dataset, "kfold5") for dataset in ("kvasir_seg", "isic2018", "glas"))}
    assert {tuple(path.stem.rsplit("_", 1)) for path in MANIFESTS.glob("*.json")} == committed
    assert available_splits("kvasir_seg") == ["holdout", "official"]
    assert available_splits("nothing") == []


@pytest.mark.parametrize(("dataset", "name"), list(SIZES))
def test_sizes_and_disjoint_parts(dataset: str, name: str) -> None:
    split = load_split(dataset, name)
    assert (split.dataset, split.name) == (dataset, name)
    assert {part: len(ids) for part, ids in split.parts.items()} == SIZES[dataset, name]
    assert len({id_ for ids in split.parts.values() for id_ in ids}) == sum(SIZES[dataset, name].values())
    assert split.description


def test_the_authors_test_images_are_in_no_holdout() -> None:
    official, drawn = load_split("kvasir_seg", "official"), load_split("kvasir_seg", "holdout")
    authors_train = {*official.parts["train"], *official.parts["val"]}
    assert {id_ for ids in drawn.parts.values() for id_ in ids} == authors_train
    for dataset in ("kvasir_seg", "glas"):  # what one split has chosen by, the other must not be scored on
        assert load_split(dataset, "official").parts["val"] == load_split(dataset, "holdout").parts["val"]


@pytest.mark.parametrize(("dataset", "name"), [key for key in SIZES if key[0] != "glas"])
def test_near_duplicates_lie_on_one_side(dataset: str, name: str) -> None:
    sides = _sides(load_split(dataset, name), near_duplicates(dataset))
    assert len(sides) == len(NEAR_DUPLICATES[dataset])
    assert all(len(parts) == 1 for parts in sides.values())


def test_kvasir_seg_and_isic2018_splits_follow_from_their_ids() -> None:
    official = load_split("kvasir_seg", "official")
    train = [*official.parts["val"], *official.parts["train"]]
    assert kvasir_seg_splits(train, official.parts["test"]) == [official, load_split("kvasir_seg", "holdout")]
    subset = load_split("isic2018", "holdout")
    assert isic2018_holdout([id_ for ids in subset.parts.values() for id_ in ids]) == subset


def test_committed_files_are_the_ones_their_sources_make(real_data: Path) -> None:
    made = [manifest for manifest in remade(real_data) if not isinstance(manifest, str)]
    if len(made) < (committed := len(list(MANIFESTS.glob("*.json")))):
        pytest.skip(f"only {len(made)} of {committed} manifests have their sources in EMISNET_DATA")
    for manifest in made:
        path = MANIFESTS / f"{manifest.dataset}_{manifest.name}.json"
        assert path.read_text(encoding="utf-8") == manifest.to_json()


def test_no_glas_patient_trains_and_scores(real_data: Path) -> None:
    patients = glas_patients(real_data / "glas")
    drawn = load_split("glas", "holdout")
    official = load_split("glas", "official")
    inside = Split("inside", "glas", {part: official.parts[part] for part in ("train", "val")})
    for split in (drawn, inside):
        sides = _sides(split, patients)
        assert len(sides) == 15  # patient 12 has test images only
        assert all(len(parts) == 1 for parts in sides.values())
    in_folds = [{patients[id_] for id_ in members} for members in folds.load_folds("glas", 5)]
    assert sum(map(len, in_folds)) == 15


def test_ids_of_the_splits_are_on_disk(real_data: Path) -> None:
    here = {
        "kvasir_seg": kvasir_seg_pairs(real_data / "kvasir_seg"),
        "glas": glas_pairs(real_data / "glas"),
        "isic2018": isic2018_pairs(real_data / "isic2018"),
    }
    for dataset, name in SIZES:
        split = load_split(dataset, name)
        for part in ("train", "val") if name == "official" else ("train", "val", "test"):
            assert find_absent(split, part, here[dataset]) == []


# ---- reading


def test_a_changed_manifest_is_refused(tmp_path: Path) -> None:
    fields = json.loads((MANIFESTS / "glas_holdout.json").read_text())
    fields["parts"]["train"].append(fields["parts"]["test"].pop())
    changed = tmp_path / "glas_holdout.json"
    changed.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"glas_holdout\.json: the ids give hash .* the file says e3d1a6c43059"):
        read_split(changed)
    changed.write_text('{"name": "x"}')
    with pytest.raises(ValueError, match="not such a manifest"):
        read_split(changed)


def test_load_split_verifies_the_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "MANIFESTS", tmp_path)
    split = holdout(IDS, dataset="mine")
    (tmp_path / "mine_holdout.json").write_text(split.to_json())
    assert load_split("mine", "holdout") == split
    (tmp_path / "mine_holdout.json").write_text(split.to_json().replace("id007", "id700"))
    with pytest.raises(ValueError, match="so it was changed"):
        load_split("mine", "holdout")


@pytest.mark.parametrize(
    ("dataset", "name"), [("glas", "oficial"), ("glas", "../manifests/glas_official"), ("x", "holdout")]
)
def test_an_unknown_split_lists_the_known_ones(dataset: str, name: str) -> None:
    with pytest.raises(ValueError, match=r"possible: .*kfold"):
        load_split(dataset, name)


def test_isic2018_official_says_where_it_comes_from() -> None:
    with pytest.raises(ValueError, match="read from the archive folders"):
        load_split("isic2018", "official")


def test_find_absent() -> None:
    split = Split("s", "d", {"train": ("c", "a", "b"), "val": ()})
    assert find_absent(split, "train", ["b", "z"]) == ["a", "c"]
    with pytest.raises(ValueError, match="no part 'test'; it has train, val"):
        find_absent(split, "test", [])


# ---- a split


def test_the_hash_is_of_the_ids_alone() -> None:
    split = Split("one", "d", {"train": ("b", "a"), "val": ("c",)})
    assert split.hash == Split("two", "e", {"val": ("c",), "train": ("a", "b")}, "about").hash == split.sha256[:12]
    assert len(split.sha256) == 64
    assert split.hash != Split("one", "d", {"train": ("a",), "val": ("b", "c")}).hash
    with pytest.raises(FrozenInstanceError):
        split.name = "other"  # type: ignore[misc]


def test_to_json_has_one_id_a_line() -> None:
    text = Split("s", "d", {"train": ("a", "b"), "val": ("c",)}, "about").to_json()
    assert {'   "a",', '   "b"', '   "c"'} <= set(text.splitlines())
    assert list(json.loads(text)) == ["name", "dataset", "description", "sha256", "parts"]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"train": ("a",)}, "train, val and names"),
        ({"train": ("a",), "val": (), "dev": ()}, "got .*'dev'"),
        ({"train": ("a", "b"), "val": ("b",)}, r"1 ids stand twice, \['b'\]"),
        ({"train": ("a", "a"), "val": ()}, "1 ids stand twice"),
    ],
)
def test_faulty_parts_are_refused(parts: dict[str, tuple[str, ...]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Split("s", "d", parts)


# ---- drawing


def test_holdout_depends_on_the_ids_and_the_seed_alone() -> None:
    shuffled = random.Random(0).sample(IDS, len(IDS))
    groups = {id_: f"g{int(id_[2:]) // 3}" for id_ in IDS}
    renamed = {id_: f"another {group[::-1]}" for id_, group in reversed(groups.items())}
    assert holdout(IDS, groups=groups) == holdout(shuffled, groups=renamed)
    assert holdout(IDS).hash == "ca973c1da2aa"  # frozen: a new drawing would be another split under an old name
    assert len({holdout(IDS, seed=seed).hash for seed in range(20)}) == 20


def test_every_id_can_come_into_every_part() -> None:
    drawn = [holdout(IDS[:10], seed=seed) for seed in range(200)]
    for part in ("train", "val", "test"):
        assert {id_ for split in drawn for id_ in split.parts[part]} == set(IDS[:10])


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_together_and_sizes_come_near(seed: int) -> None:
    groups = {id_: f"g{int(id_[2:]) % 7}" for id_ in IDS[:80]}  # seven groups of 11 or 12, and 20 single ids
    split = holdout(IDS, val=0.2, test=0.3, seed=seed, groups=groups)
    assert all(len(parts) == 1 for parts in _sides(split, groups).values())
    assert {part: len(ids) for part, ids in split.parts.items()} == {"train": 50, "val": 20, "test": 30}


def test_sizes_are_the_nearest_that_whole_groups_allow() -> None:
    sizes = {"a": 5, "b": 5, "c": 4, "d": 26}
    groups = {f"{name}{n}": name for name, size in sizes.items() for n in range(size)}
    assert len(holdout(IDS[:15], val=0.1, test=0).parts["val"]) == 2  # 1.5 rounds up
    for seed in range(10):
        split = holdout(groups, val=0.2, test=0, seed=seed, groups=groups)
        assert len(split.parts["val"]) == 9  # of 8 wanted: 4 + 5 is nearer than 5, 4 or 10


@pytest.mark.parametrize("seed", range(10))
def test_no_part_that_is_asked_for_stays_empty(seed: int) -> None:
    assert {part: len(ids) for part, ids in holdout(IDS[:3], seed=seed).parts.items()} == {
        "train": 1,
        "val": 1,
        "test": 1,
    }
    groups = {f"{name}{n}": name for name, size in {"a": 6, "b": 1, "c": 1}.items() for n in range(size)}
    assert all(holdout(groups, val=0.4, test=0.3, seed=seed, groups=groups).parts.values())
    assert holdout(IDS, val=0, test=0, seed=seed).parts == {"train": tuple(IDS), "val": (), "test": ()}


@pytest.mark.parametrize(
    ("ids", "options", "said"),
    [
        (IDS[:2], {}, "2 ids in 2 groups cannot fill 3 parts"),
        (IDS, {"groups": dict.fromkeys(IDS, "one patient")}, "100 ids in 1 groups"),
        ([], {"val": 0, "test": 0}, "0 ids"),
        (["a", "b", "c", "a"], {}, "1 ids are given twice"),
        (IDS, {"val": 0.5, "test": 0.5}, "leave something for train"),
        (IDS, {"val": -0.1}, "must be 0 or more"),
        (IDS, {"val": float("nan")}, "must be 0 or more"),
    ],
)
def test_what_cannot_be_drawn_is_refused(ids: list[str], options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        holdout(ids, **options)  # type: ignore[arg-type]


# ---- official lists


def _isic2018_ids(sizes: dict[str, int]) -> dict[str, list[str]]:
    return {part: [f"ISIC_{part}{n:04}" for n in range(size)] for part, size in sizes.items()}


def test_isic2018_official_takes_what_is_whole() -> None:
    whole = isic2018_official(_isic2018_ids({"train": 2594, "val": 100, "test": 1000}))
    assert {part: len(ids) for part, ids in whole.parts.items()} == {"train": 2594, "val": 100, "test": 1000}
    train_only = isic2018_official(_isic2018_ids({"train": 2594}))
    assert {part: len(ids) for part, ids in train_only.parts.items()} == {"train": 2594, "val": 0, "test": 0}


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({}, "Training has 0 of 2594"),
        ({"train": 2000}, "Training has 2000 of 2594"),
        ({"train": 2594, "val": 99, "test": 1}, "Validation has 99 of 100, Test has 1 of 1000"),
    ],
)
def test_isic2018_official_names_short_folders(sizes: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        isic2018_official(_isic2018_ids(sizes))


def test_isic2018_official_reads_what_the_pairs_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(splits.OFFICIAL_SIZES, "isic2018", {"train": 3, "val": 1, "test": 1})
    ids = [f"ISIC_000000{n}" for n in range(5)]
    split = isic2018_official(isic2018_parts(write_isic2018(tmp_path, True, example_pairs(ids))))
    assert split.parts == {"train": tuple(ids[:3]), "val": (ids[3],), "test": (ids[4],)}


def test_other_lists_than_the_authors_make_no_split() -> None:
    with pytest.raises(ValueError, match="train has 3 of 880, test has 1 of 120"):
        kvasir_seg_splits(["a", "b", "c"], ["d"])
    with pytest.raises(ValueError, match=r"164 ids of Grade\.csv and of the archive differ"):
        glas_splits({"train_1": "1"})
    with pytest.raises(ValueError, match="subset of 2000 images, got 3"):
        isic2018_holdout(["a", "b", "c"])


# ---- command line


def test_the_table_shows_every_split(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(SIZES) + 3
    glas_kfold5 = next(line for line in lines if line.split()[:2] == ["glas", "kfold5"])
    assert "16 (0.529)  17 (0.517)  17 (0.482)  18 (0.480)  17 (0.507)" in glas_kfold5
    split = load_split("glas", "official")
    assert any("testA 60  testB 20" in line and line.endswith(split.hash) for line in lines)


def test_make_skips_what_has_no_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "manifests").mkdir()
    for module in (recipes, splits, folds):
        monkeypatch.setattr(module, "MANIFESTS", tmp_path / "manifests")
    ids = [f"ISIC_{n:07}" for n in range(6)]
    write_kvasir_seg(tmp_path / "kvasir_seg", False, example_pairs(["cju1"]))
    write_isic2018(tmp_path / "isic2018", False, example_pairs(ids))
    monkeypatch.setattr(recipes, "ISIC2018_SUBSET", 6)
    assert main(["make", "--data", str(tmp_path)]) == 1
    made = sorted(path.name for path in (tmp_path / "manifests").iterdir())
    assert made == ["isic2018_holdout.json", "isic2018_kfold5.json"]
    assert sorted(id_ for members in folds.load_folds("isic2018", 5) for id_ in members) == ids
    assert sorted(id_ for part in load_split("isic2018", "holdout").parts.values() for id_ in part) == ids
    out = capsys.readouterr().out
    assert "skipped  kvasir_seg: the authors' lists are not here" in out and "skipped  glas: no Grade.csv" in out
