"""Which images a report shows, and what it draws on them."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib.path import Path as Outline

from src.comparison import Table, compare
from src.config import composed
from src.files import read_csv, write_json, write_text
from src.masks import FILE, Packed, write_masks
from src.reporting.gallery import IMAGES, _choose, for_page, make_gallery, outline_path
from src.results import read_results
from src.study import StudyRun

SHAPE = (48, 56)  # of the generated images: small masks are whole ones


def give_masks(table: Table, seeds: dict[str, list[dict[str, np.ndarray]]]) -> None:
    """Masks by variant, seed and id; what is not named is empty."""
    for variant, of_seeds in seeds.items():
        for result, named in zip(table.variants[variant], of_seeds, strict=True):
            rows = read_csv(result.path / "per_image.csv")
            masks = [Packed.of(named.get(row["id"], np.zeros(SHAPE, bool))) for row in rows]
            write_masks(result.path / FILE, rows, masks)


def square(side: int, at: int = 0) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[at : at + side, at : at + side] = True
    return mask


@pytest.fixture
def table(study: tuple[Path, list[StudyRun]]) -> Table:
    results, part = read_results(*study)
    return compare(results, part=part, metrics=["dice"])


def test_images_are_chosen_where_a_variant_changes_more_than_a_seed(table: Table) -> None:
    ids = sorted({row["id"] for row in table.results[0].rows})
    # all six seeds disagree wholly on the first image; `bold` always halves the mask on the third
    half = square(10)
    half[5:] = False
    plain = [{ids[0]: square(6, 6 * seed), ids[2]: square(10)} for seed in range(3)]
    give_masks(table, {"plain": plain, "bold": [{ids[0]: square(6, 18 + 6 * seed), ids[2]: half} for seed in range(3)]})
    gallery = make_gallery(table, ["plain", "bold"])
    assert not gallery.missing and len(gallery.pictures) == 6  # all there are
    first = gallery.pictures[0]
    assert (first.id, first.chosen_for) == (ids[2], "bold")
    assert first.change == pytest.approx(0.5) and first.between_seeds == 0
    unstable = next(picture for picture in gallery.pictures if picture.id == ids[0])
    assert unstable.change == pytest.approx(0) and unstable.between_seeds == 1
    assert gallery.between_seeds == pytest.approx(1 / 6) and gallery.changes["bold"] == pytest.approx(0.5 / 6)
    assert first.image.shape == (*SHAPE, 3) and np.array_equal(first.preds["plain"], square(10))
    assert np.array_equal(first.preds["bold"], half)


def test_every_variant_gets_its_strongest_images_in_turn() -> None:
    chosen = _choose({"a": np.array([3.0, 2.0, 1.0, 0.0]), "b": np.array([9.0, 0.0, 8.0, 1.0])}, 4)
    assert chosen == {0: "a", 2: "b", 1: "a", 3: "b"}
    assert len(_choose({"a": np.arange(100.0)}, 100)) == IMAGES


def test_a_study_of_one_variant_shows_its_worst(table: Table) -> None:
    alone = compare(table.variants["plain"], part=table.part, metrics=["dice"])
    gallery = make_gallery(alone, ["plain"])
    lowest = min(
        alone.variants["plain"][1].rows, key=lambda row: row["dice"]
    )  # not of the median seed, but as simulated
    assert gallery.pictures[0].id == lowest["id"] and gallery.pictures[0].chosen_for == "plain"
    assert gallery.changes == {}


def test_runs_without_masks_are_left_out_and_told(table: Table) -> None:
    for result in table.variants["bold"][:2]:
        (result.path / FILE).unlink()
    gallery = make_gallery(table, ["plain", "bold"])
    assert gallery.pictures and "2 runs keep no readable masks of test" in gallery.missing
    for result in table.variants["plain"]:
        (result.path / FILE).unlink()
    gallery = make_gallery(table, ["plain", "bold"])
    assert not gallery.pictures and "python -m src.evaluate run=" in gallery.missing


def test_a_damaged_file_or_masks_of_other_images_cost_only_their_pictures(table: Table) -> None:
    first, second, _ = table.variants["bold"]
    (first.path / FILE).write_bytes(b"no masks")
    rows = [row for row in read_csv(second.path / "per_image.csv") if row["part"] == "test"][:-1]
    write_masks(second.path / FILE, rows, [Packed.of(square(3)) for _ in rows])
    gallery = make_gallery(table, ["plain", "bold"])
    assert gallery.pictures and "2 runs keep no readable masks" in gallery.missing


def test_with_one_seed_the_whole_change_counts(table: Table) -> None:
    single = compare([table.results[0], table.results[3]], part=table.part, metrics=["dice"])
    ids = sorted({row["id"] for row in single.results[0].rows})
    give_masks(single, {"plain": [{}], "bold": [{ids[1]: square(5)}]})
    gallery = make_gallery(single, ["plain", "bold"])
    assert gallery.pictures[0].id == ids[1] and gallery.pictures[0].change == 1 and gallery.between_seeds is None


def test_a_variant_with_one_seed_does_not_head_the_ranking_for_that(table: Table) -> None:
    """All masks are noise of the same kind: neither variant changes anything, whatever its number of seeds."""
    generator = np.random.default_rng(0)
    ids = [row["id"] for row in table.results[0].rows]
    for variant in ("plain", "bold"):
        give_masks(table, {variant: [{id_: generator.random(SHAPE) > 0.5 for id_ in ids} for _ in range(3)]})
    single = compare([*table.variants["plain"], table.variants["bold"][0]], part=table.part, metrics=["dice"])
    found = make_gallery(single, ["plain", "bold"])
    assert abs(found.changes["bold"]) < 0.02 < (found.between_seeds or 0)


def test_masks_of_a_later_evaluation_count_if_it_had_the_same_protocol(table: Table) -> None:
    for result, same in zip(table.variants["bold"][:2], (True, False), strict=True):
        later = result.path / "evaluations" / "later"
        later.mkdir(parents=True)
        (result.path / FILE).rename(later / FILE)
        write_json(
            later / "metrics.json", {"protocol": {"id": result.metrics["protocol"]["id"] if same else "another"}}
        )
    assert "1 runs keep no readable masks" in make_gallery(table, ["plain", "bold"]).missing


def test_images_that_are_gone_leave_a_message(table: Table) -> None:
    elsewhere = composed("data=kvasir_seg", "data.split=holdout", "data.root=nowhere")["data"]
    write_text(table.results[0].path / "config.yaml", yaml.safe_dump({**table.results[0].config, "data": elsewhere}))
    assert "the images cannot be read" in make_gallery(table, ["plain", "bold"]).missing


def test_the_page_gets_outlines_that_enclose_the_mask(table: Table) -> None:
    generator = np.random.default_rng(0)
    blob = generator.random((9, 12)) > 0.4
    ring = square(20)
    ring[5:9, 5:9] = False
    for mask in (blob, ring, square(1), np.zeros(SHAPE, bool)):
        inside = np.zeros(mask.shape, bool)
        rows, columns = np.indices(mask.shape)
        centres = np.stack([columns.ravel(), rows.ravel()], axis=1) + 0.5
        for part in outline_path(mask).split("M")[1:]:
            points = np.array([[float(v) for v in point.split()] for point in part.rstrip("Z").split("L")])
            inside ^= Outline(points).contains_points(centres).reshape(mask.shape)  # the even-odd rule
        assert np.array_equal(inside, mask)
    shown = for_page(make_gallery(table, ["plain", "bold"]))
    assert {"truth", "preds", "url", "size"} <= shown["pictures"][0].keys()
    assert shown["pictures"][0]["url"].startswith("data:image/jpeg;base64,")
