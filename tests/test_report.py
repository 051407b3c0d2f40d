"""Where a study stands, and its table: from rows alone, of one protocol, against an independent calculation."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from src.comparison import compare, read_results
from src.files import read_csv
from src.report import Request, print_status, write_report
from src.reporting.texts import markdown, run_rows
from src.study import StudyRun, study_states

from .conftest import REPO


def dice_of(folder: Path, run: StudyRun, part: str) -> np.ndarray:
    return np.array(
        [float(row["dice"]) for row in read_csv(folder / run.name / "per_image.csv") if row["part"] == part]
    )


def test_means_spreads_and_differences_are_those_of_the_rows(study: tuple[Path, list[StudyRun]]) -> None:
    folder, runs = study
    results, part = read_results(folder, runs)
    assert part == "test"  # every run was scored on it
    table = compare(results, part=part, metrics=["dice", "iou"])
    assert table.reference == "plain" and [row.variant for row in table.rows] == ["plain", "bold"]
    values = np.array([dice_of(folder, run, part) for run in runs]).reshape(2, 3, -1)
    for row, of_variant in zip(table.rows, values, strict=True):
        per_seed = of_variant.mean(axis=1)
        score = row.scores["dice"]
        assert (score.mean, score.std, score.n) == pytest.approx((per_seed.mean(), per_seed.std(ddof=1), 3))
    difference = table.rows[1].difference
    assert difference is not None and table.rows[0].difference is None
    by_image = values[1].mean(axis=0) - values[0].mean(axis=0)
    assert difference.mean == pytest.approx(by_image.mean()) and difference.low < by_image.mean() < difference.high
    assert table.rows[1].p_holm == pytest.approx(stats.wilcoxon(by_image).pvalue)


def test_the_part_and_the_reference_can_be_chosen(study: tuple[Path, list[StudyRun]]) -> None:
    folder, runs = study
    results, part = read_results(folder, runs, "val")
    table = compare(results, part=part, metrics=["dice"], reference="bold")
    assert (table.part, table.n_images) == ("val", 5)
    assert table.rows[0].difference is not None and table.rows[0].difference.mean < 0


def test_files_hold_a_row_per_run_that_leads_back_to_it(
    study: tuple[Path, list[StudyRun]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder, runs = study
    table = write_report(Request(folder, runs, tmp_path / "out", "mine", metrics=["dice"]))
    rows = read_csv(tmp_path / "out" / "results.csv")
    assert [row["run"] for row in rows] == [run.name for run in runs] and rows == [
        {key: str(value) for key, value in row.items()} for row in run_rows(table)
    ]
    assert all(
        row["commit"] and row["protocol"] and row["split_hash"] and (folder / row["run"]).is_dir() for row in rows
    )
    text = (tmp_path / "out" / "table.md").read_text()
    assert text.strip() in capsys.readouterr().out and text.count("|") == 4 * 9
    assert "6 test images" in text and "mode full" in text and "| plain | 3 |" in text


def test_runs_of_two_protocols_do_not_share_a_table(study: tuple[Path, list[StudyRun]]) -> None:
    folder, runs = study
    path = folder / runs[4].name / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["protocol"] |= {"id": "another", "size": [64, 64]}
    path.write_text(json.dumps(metrics))
    results, part = read_results(folder, runs)
    with pytest.raises(
        ValueError,
        match=r"2 different protocols; they differ in size:\n  - 5 runs, such as plain-seed0: size=\[32, 32\]\n.*64",
    ):
        compare(results, part=part, metrics=["dice"])


def test_runs_on_other_images_do_not_share_a_table(study: tuple[Path, list[StudyRun]]) -> None:
    folder, runs = study
    path = folder / runs[2].name / "per_image.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    results, part = read_results(folder, runs)
    with pytest.raises(ValueError, match="was scored on 6 images, plain-seed2 on 5 others"):
        compare(results, part=part, metrics=["dice"])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"metrics": ["dise"]}, "metrics=dise: not among the columns"),
        ({"metrics": ["id"]}, "metrics=id: not among the columns"),
        ({"metrics": ["dice"], "reference": "bald"}, "Possible: plain; bold"),
    ],
)
def test_bad_wishes_are_answered(study: tuple[Path, list[StudyRun]], how: dict, message: str) -> None:
    results, part = read_results(*study)
    with pytest.raises(ValueError, match=message):
        compare(results, part=part, **how)


def test_an_undefined_distance_is_refused_and_its_charged_form_is_the_diagonal(
    study: tuple[Path, list[StudyRun]],
) -> None:
    results, part = read_results(*study)
    row = dict(results[1].rows[2], hd95=float("inf"))
    results[1] = replace(results[1], rows=[*results[1].rows[:2], row, *results[1].rows[3:]])
    with pytest.raises(ValueError, match=r"undefined on 1 images of plain-seed1.*metrics=hd95_charged"):
        compare(results, part=part, metrics=["dice", "hd95"])
    found = compare(results, part=part, metrics=["hd95_charged"]).results[1].mean("hd95_charged")
    values = [row["diagonal"] if i == 2 else row["hd95"] for i, row in enumerate(results[1].rows)]
    assert found == pytest.approx(np.mean(values))


def test_the_caption_tells_where_budgets_differ(study: tuple[Path, list[StudyRun]]) -> None:
    results, part = read_results(*study)
    trainer = dict(results[3].config["trainer"], max_epochs=500)
    results[3] = replace(results[3], config=dict(results[3].config, trainer=trainer))
    assert "2 / 500 epochs" in markdown(compare(results, part=part, metrics=["dice"]))


def test_a_part_or_mode_that_was_not_scored_is_told(study: tuple[Path, list[StudyRun]]) -> None:
    with pytest.raises(ValueError, match="part=testA"):
        read_results(*study, "testA")
    with pytest.raises(ValueError, match=r"mode=coarse_to_fine.*python -m src\.evaluate run="):
        read_results(*study, mode="coarse_to_fine")


def test_unfinished_runs_are_left_out_and_told(
    study: tuple[Path, list[StudyRun]], capsys: pytest.CaptureFixture
) -> None:
    folder, runs = study
    (folder / runs[0].name / "status.json").write_text('{"state": "failed", "reason": "ValueError: no"}')
    table = write_report(Request(folder, runs, folder / "report", "mine", metrics=["dice"]))
    assert table.rows[0].scores["dice"].n == 2 and "1 of 6 runs are not finished" in capsys.readouterr().out
    assert "| plain | 2 |" in markdown(table)
    print_status(folder, study_states(folder))
    told = capsys.readouterr().out
    assert "ValueError: no" in told and "6 runs: 5 finished, 1 failed" in told


def test_the_command_answers_an_unknown_study_in_one_line(study: tuple[Path, list[StudyRun]], tmp_path: Path) -> None:
    folder, _ = study
    runs = tmp_path.with_name(f"{tmp_path.name}-runs")
    shutil.copytree(folder, runs / "mine")
    command = [sys.executable, "-m", "src.report", f"runs={runs}", "study=nothing", "status=true"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "Studies there: mine." in done.stderr
    assert "Traceback" not in done.stderr
