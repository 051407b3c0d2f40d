"""The folds of a cross-validation as one result: real folds of generated images, against the rows of each."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from src.comparison import compare
from src.config import composed
from src.data.splits import read_split
from src.files import read_csv, write_csv
from src.masks import joined, read_masks
from src.plan import planned
from src.report import Request, print_status, write_report
from src.reporting.gallery import make_gallery
from src.reporting.page import render_page
from src.reporting.panels import make_panels
from src.reporting.texts import caption, markdown, run_rows
from src.results import Result, pool_folds, read_results
from src.study import StudyRun, config_labels, directory_runs, state_of, study_runs, variant_labels
from src.train import train

from .conftest import TINY, TINY_MODEL

FOLDS = range(3)
VARIANTS = {"narrow": "[4,4,8,8,8]", "wide": "[4,4,8,8,16]"}


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[StudyRun]]:
    """Two networks, each trained for every fold of 24 images, their Dice set apart; to be read and never written."""
    folder, runs = tmp_path_factory.mktemp("folds"), []
    generator = np.random.default_rng(0)
    for variant, channels in VARIANTS.items():
        for fold in FOLDS:
            path = folder / f"{variant}-{fold}"
            typed = [TINY_MODEL[0], f"model.channels={channels}", *TINY, "trainer.max_epochs=1", "test=true"]
            typed += [
                "data.counts=[24,0,0]",
                "data.split=kfold",
                "data.n_folds=3",
                f"data.fold={fold}",
                f"run_dir={path}",
            ]
            train(composed(*typed))
            rows = read_csv(path / "per_image.csv")
            write_csv(path / "per_image.csv", [row | {"dice": str(generator.uniform(0.2, 0.9))} for row in rows])
            runs.append(StudyRun(path.name, variant, 0, 1, 1, fold))
    return folder, runs


def rows_of(folder: Path, variant: str) -> list[dict[str, str]]:
    rows = [row for fold in FOLDS for row in read_csv(folder / f"{variant}-{fold}" / "per_image.csv")]
    return [row for row in rows if row["part"] == "test"]


def test_every_image_counts_once_with_the_network_of_its_fold(folds: tuple[Path, list[StudyRun]]) -> None:
    folder, runs = folds
    results, part = read_results(folder, runs)
    table = compare(results, part=part, metrics=["dice"])
    assert (part, table.n_images, table.n_folds, len(table.results), len(table.runs)) == ("test", 24, 3, 2, 6)
    expected = {name: {row["id"]: float(row["dice"]) for row in rows_of(folder, name)} for name in VARIANTS}
    assert [row.variant for row in table.rows] == list(VARIANTS)
    for row in table.rows:
        values = expected[row.variant]
        assert len(values) == 24 and row.scores["dice"].n == 1
        assert row.scores["dice"].mean == pytest.approx(np.mean(list(values.values())))
    by_image = [expected["wide"][id_] - expected["narrow"][id_] for id_ in expected["wide"]]
    assert table.rows[1].difference is not None
    assert (table.rows[1].difference.mean, table.rows[1].difference.n) == pytest.approx((np.mean(by_image), 24))


def test_the_protocol_is_that_of_all_folds(folds: tuple[Path, list[StudyRun]]) -> None:
    results, part = read_results(*folds)
    table = compare(results, part=part, metrics=["dice"])
    protocol, own = table.results[0].metrics["protocol"], [result.metrics["protocol"] for result in results[:3]]
    assert protocol["split"] == "kfold3" and [told["split"] for told in own] == ["kfold3-0", "kfold3-1", "kfold3-2"]
    assert len({protocol["split_hash"], *(told["split_hash"] for told in own)}) == 4
    assert len({protocol["id"], *(told["id"] for told in own)}) == 4
    told = caption(table)
    assert "split kfold3 (" in told and "24 test images" in told and "one of the 3 networks of a seed" in told
    assert "by that which itself neither trained on it nor was chosen by it" in told
    results, _ = read_results(*folds, "val")  # the next fold: every image once, too
    told = caption(compare(results, part="val", metrics=["dice"]))
    assert "24 val images" in told and "no result on unseen images" in told and "neither trained" not in told


def test_the_order_of_the_runs_changes_nothing(folds: tuple[Path, list[StudyRun]]) -> None:
    results, part = read_results(*folds)
    tables = [compare(order, part=part, metrics=["dice"], reference="narrow") for order in (results, results[::-1])]
    ids = [{result.metrics["protocol"]["id"] for result in table.results} for table in tables]
    assert ids[0] == ids[1] and len(ids[0]) == 1
    assert {row.variant: row.difference for row in tables[0].rows} == {r.variant: r.difference for r in tables[1].rows}


def test_one_fold_alone_stays_what_it_is(folds: tuple[Path, list[StudyRun]]) -> None:
    folder, runs = folds
    results, part = read_results(folder, [run for run in runs if run.fold == 1])
    assert pool_folds(results) == (results, [])
    table = compare(results, part=part, metrics=["dice"])
    assert (table.n_images, table.n_folds) == (8, 1) and "split kfold3-1 (" in caption(table)
    assert "networks of a seed" not in caption(table)


def test_runs_whose_other_folds_are_missing_are_left_out_and_told(
    folds: tuple[Path, list[StudyRun]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "study"
    shutil.copytree(folds[0], folder)
    (folder / "wide-2" / "status.json").write_text('{"state": "failed", "reason": "no"}')
    table = write_report(Request(folder, folds[1], tmp_path / "out", "mine", metrics=["dice"]))
    assert [row.variant for row in table.rows] == ["narrow"]
    assert [result.run.name for result in table.left_out] == ["wide-0", "wide-1"]
    told = capsys.readouterr().out
    assert "2 finished runs are left out" in told and "  - wide, seed 0: folds 0, 1\n" in told
    assert "1 of 6 runs are not finished" in told
    page = (tmp_path / "out" / "report.html").read_text()
    assert "2 finished runs are left out: folds that other" in page and page.count(">other folds are missing<") == 2
    assert "1 of 6 runs are not finished" in page
    (folder / "narrow-0" / "status.json").write_text('{"state": "failed", "reason": "no"}')
    with pytest.raises(ValueError, match=r"in all of the folds 0, 1, 2 .*\n  - narrow, seed 0: folds 1, 2\n  - wide"):
        compare(read_results(folder, folds[1])[0], part="test", metrics=["dice"])


def test_a_reference_without_all_folds_is_told(folds: tuple[Path, list[StudyRun]], tmp_path: Path) -> None:
    results, part = read_results(*folds)
    with pytest.raises(
        ValueError, match=r"reference='narrow' lacks folds that others have.*\n  - narrow, seed 0: folds 1"
    ):
        compare(results[1:], part=part, metrics=["dice"], reference="narrow")
    shutil.copytree(folds[0], folder := tmp_path / "study")
    (folder / "narrow-0" / "status.json").write_text('{"state": "failed", "reason": "no"}')
    write_report(Request(folder, folds[1], tmp_path / "out", "mine", metrics=["dice"]))
    assert (
        "The first variant, narrow, lacks folds: differences are to wide" in (tmp_path / "out/report.html").read_text()
    )


def test_seeds_are_kept_apart_and_one_without_all_folds_is_left_out(folds: tuple[Path, list[StudyRun]]) -> None:
    results, part = read_results(*folds)
    again = [
        replace(result, run=replace(result.run, seed=1), rows=[row | {"dice": row["dice"] / 2} for row in result.rows])
        for result in results
    ]
    table = compare([*results, *again], part=part, metrics=["dice"])
    assert [row.scores["dice"].n for row in table.rows] == [2, 2] and table.n_images == 24
    for row in table.rows:
        whole = np.mean([float(row_["dice"]) for row_ in rows_of(folds[0], row.variant)])
        assert row.scores["dice"].mean == pytest.approx(whole * 0.75)
    table = compare([*results, *again[:-1]], part=part, metrics=["dice"])
    assert [row.scores["dice"].n for row in table.rows] == [2, 1]
    assert [(result.run.seed, result.run.fold) for result in table.left_out] == [(1, 0), (1, 1)]


def test_some_folds_alone_are_told(folds: tuple[Path, list[StudyRun]]) -> None:
    folder, runs = folds
    results, part = read_results(folder, [run for run in runs if run.fold != 1])
    table = compare(results, part=part, metrics=["dice"])
    assert table.n_images == 16 and "split kfold3, folds 0, 2 alone (" in caption(table)


def test_a_fold_beside_a_run_without_folds_is_another_protocol(folds: tuple[Path, list[StudyRun]]) -> None:
    results, part = read_results(*folds)
    other = replace(results[5], run=replace(results[5].run, fold=None))
    with pytest.raises(ValueError, match=r"differ in split, split_hash"):
        compare([*results[:5], other], part=part, metrics=["dice"])


def changed(result: Result, **protocol: object) -> Result:
    return replace(result, metrics={**result.metrics, "protocol": {**result.metrics["protocol"], **protocol}})


def test_what_is_no_cross_validation_is_refused(folds: tuple[Path, list[StudyRun]]) -> None:
    results, part = read_results(*folds)
    twice = replace(results[1], run=replace(results[1].run, name="narrow-1-again"))
    with pytest.raises(ValueError, match=r"narrow-1 and narrow-1-again are both fold 1 of narrow, seed 0"):
        compare([*results, twice], part=part, metrics=["dice"])
    same = replace(results[1], rows=results[0].rows)
    with pytest.raises(ValueError, match="narrow, seed 0: an image was scored in two folds"):
        compare([results[0], same, *results[2:]], part=part, metrics=["dice"])


@pytest.mark.parametrize("key", ["size", "precision", "dataset"])
def test_folds_of_other_protocols_are_refused(folds: tuple[Path, list[StudyRun]], key: str) -> None:
    results, part = read_results(*folds)
    with pytest.raises(
        ValueError, match=rf"2 different protocols; they differ in {key}:\n  - 5 runs, such as narrow-0"
    ):
        compare([results[0], changed(results[1], **{key: "other"}), *results[2:]], part=part, metrics=["dice"])
    wide = [changed(result, **{key: "other"}) for result in results[3:5]]  # two of three: not left out, but refused
    with pytest.raises(
        ValueError, match=rf"they differ in {key}:\n  - 3 runs, such as narrow-0.*\n  - 2 runs, such as w"
    ):
        compare([*results[:3], *wide], part=part, metrics=["dice"])


def test_folds_of_other_cross_validations_are_refused(folds: tuple[Path, list[StudyRun]], tmp_path: Path) -> None:
    results, part = read_results(*folds)
    five = dict(results[4].config, data=dict(results[4].config["data"], n_folds=5))
    with pytest.raises(ValueError, match=r"differ in data\.n_folds:\n  - 5 runs"):
        compare([*results[:4], replace(results[4], config=five), results[5]], part=part, metrics=["dice"])
    shutil.copytree(results[4].path, grown := tmp_path / "grown")
    split = read_split(grown / "split.json")
    more = replace(split, parts={**split.parts, "train": (*split.parts["train"], "new_00000")})
    (grown / "split.json").write_text(more.to_json())
    with pytest.raises(ValueError, match="differ in all images of the folds"):
        compare([*results[:4], replace(results[4], path=grown), results[5]], part=part, metrics=["dice"])


def test_notes_of_single_folds_are_kept(folds: tuple[Path, list[StudyRun]]) -> None:
    results, part = read_results(*folds)
    begun = changed(results[4], caveat="it began with a network that saw some")
    table = compare([*results[:4], begun, results[5]], part=part, metrics=["dice"])
    assert "Note: wide: it began with a network that saw some." in caption(table)
    every = [changed(result, caveat="cropped copies") for result in results]
    assert "Note: cropped copies." in caption(compare(every, part=part, metrics=["dice"]))


def test_a_report_of_folds_has_all_runs_pictures_and_curves(folds: tuple[Path, list[StudyRun]], tmp_path: Path) -> None:
    folder, runs = folds
    table = write_report(Request(folder, runs, tmp_path / "out", "mine", metrics=["dice"]))
    rows = read_csv(tmp_path / "out" / "results.csv")
    assert [(row["variant"], row["fold"], row["run"]) for row in rows] == [
        (run.variant, str(run.fold), run.name) for run in runs
    ]
    assert [row["split"] for row in rows[:3]] == ["kfold3-0", "kfold3-1", "kfold3-2"]
    assert {row["n_images"] for row in rows} == {"8"}
    panels = make_panels(table)
    assert len(panels["parallel"]["runs"]) == 6 and panels["parallel"]["runs"][1] == "narrow, seed 0, fold 1"
    assert [panel["key"] for panel in panels["sweeps"]] == ["model.channels"]  # the number of a fold is no setting
    own = [float(read_csv(folder / f"wide-{fold}" / "history.csv")[0]["val/dice"]) for fold in FOLDS]
    curve = panels["curves"]["val/dice"]["wide"]
    assert curve["low"][0] == pytest.approx(min(own), rel=1e-4) and curve["high"][0] == pytest.approx(
        max(own), rel=1e-4
    )
    gallery = make_gallery(table, panels["shown"])
    shown = {picture.id for picture in gallery.pictures}
    parts = [
        {row["id"] for row in read_csv(folder / f"narrow-{fold}" / "per_image.csv") if row["part"] == "test"}
        for fold in FOLDS
    ]
    assert not gallery.missing and all(shown & part for part in parts)
    states = [state_of(folder, run) for run in runs]
    page = render_page(table, panels, gallery, title="mine", question="", states=states, run_rows=run_rows(table))
    assert "not finished" not in page and "<th" in page and ">fold<" in page.replace("\n", "")
    assert "| narrow | 1 |" in markdown(table)


def test_a_fold_without_masks_is_named(folds: tuple[Path, list[StudyRun]], tmp_path: Path) -> None:
    shutil.copytree(folds[0], folder := tmp_path / "study")
    (folder / "wide-1" / "masks.npz").unlink()
    results, part = read_results(folder, folds[1])
    gallery = make_gallery(compare(results, part=part, metrics=["dice"]), list(VARIANTS))
    assert gallery.missing.startswith("1 runs keep no readable masks of test, such as wide-1") and gallery.pictures
    (folder / "wide-1" / "split.json").unlink()
    with pytest.raises(
        ValueError, match=r"wide-1/split.json cannot be read \(No such file.*which images the folds are of"
    ):
        compare(results, part=part, metrics=["dice"])


def test_folds_of_an_earlier_plan_are_given_a_way(folds: tuple[Path, list[StudyRun]]) -> None:
    results, part = read_results(*folds)
    earlier = [replace(result, run=replace(result.run, fold=None)) for result in results]
    with pytest.raises(ValueError, match=r"planned by an earlier version: give their directories, run="):
        compare(earlier, part=part, metrics=["dice"])


def test_masks_of_folds_are_joined_by_id(folds: tuple[Path, list[StudyRun]]) -> None:
    found = [read_masks(folds[0] / f"narrow-{fold}" / "masks.npz", "test") for fold in FOLDS]
    whole = joined(found)
    assert list(whole.ids) == sorted(id_ for masks in found for id_ in masks.ids) and len(whole.ids) == 24
    for masks in found:
        for id_ in masks.ids:
            assert np.array_equal(whole.mask(id_), masks.mask(id_))


def test_folds_are_runs_of_one_variant(folds: tuple[Path, list[StudyRun]], capsys: pytest.CaptureFixture) -> None:
    folder, runs = folds
    found = directory_runs([folder / "*"])
    assert [run.fold for run in found] == [0, 1, 2, 0, 1, 2] and len({run.variant for run in found}) == 2
    assert all("fold" not in run.variant for run in found)
    configs = [json.loads(json.dumps(result.config)) for result in read_results(folder, runs)[0]]
    assert len(set(config_labels(configs[:3]))) == 1
    typed = [[f"model={model}", f"data.fold={fold}"] for model in ("emisnet", "unet") for fold in FOLDS]
    assert variant_labels(typed) == ["emisnet"] * 3 + ["unet"] * 3
    print_status(folder, [state_of(folder, run) for run in runs])
    assert re.search(r"variant +┃ +seed +┃ +fold +┃", capsys.readouterr().out)
    plain = [replace(run, fold=None) for run in runs]
    print_status(folder, [state_of(folder, run) for run in plain])
    assert not re.search(r"┃ +fold +┃", capsys.readouterr().out)


def test_the_study_of_folds_is_planned_and_read_again(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    argv = ["experiment=cross_validation", "model=emisnet_tiny,mkunet_t", *TINY, f"runs={tmp_path}"]
    with pytest.raises(RuntimeError, match="planned"), planned(argv):
        raise RuntimeError("planned")
    runs = study_runs(tmp_path / "cross_validation-synthetic")
    assert [(run.variant, run.seed, run.fold) for run in runs] == [
        (model, 0, fold) for fold in range(5) for model in ("emisnet_tiny", "mkunet_t")
    ]
    assert len({run.name for run in runs}) == 10
    assert "2 variants, seeds 0, folds 0, 1, 2, 3, 4" in capsys.readouterr().err
