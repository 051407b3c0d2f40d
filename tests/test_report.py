"""Where a study stands, and its table: from rows alone, of one protocol, against an independent calculation."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from scipy import stats

from src.comparison import compare
from src.config import composed
from src.files import read_csv, write_csv
from src.report import Request, main, print_status, write_report
from src.reporting.plots import _sweeps
from src.reporting.texts import latex, markdown, p_text, run_rows, table_rows
from src.results import read_results
from src.study import StudyRun, directory_runs, study_question, study_states, write_plan

from .conftest import TINY, TINY_MODEL, Call


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
    seeds = values.mean(axis=2)
    assert table.rows[1].p_seeds == pytest.approx(stats.ttest_ind(seeds[1], seeds[0], equal_var=False).pvalue)


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
    assert all(row["commit"] and row["protocol"] and row["split_hash"] for row in rows)
    for row in rows:
        assert (folder / row["run"] / row["checkpoint"]).is_file()
        for column, name in (("config_sha256", "config.yaml"), ("rows_sha256", "per_image.csv")):
            told = subprocess.run(["sha256sum", folder / row["run"] / name], capture_output=True, text=True, check=True)
            assert told.stdout.startswith(row[column]) and len(row[column]) == 12
    text = (tmp_path / "out" / "table.md").read_text()
    assert text.strip() in capsys.readouterr().out and text.count("|") == 4 * 10
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
        ({"metrics": []}, r"metrics=\[\]: a comparison needs one column"),
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


def test_the_command_answers_an_unknown_study_in_one_line(
    study: tuple[Path, list[StudyRun]], tmp_path: Path, call: Call
) -> None:
    folder, _ = study
    runs = tmp_path.with_name(f"{tmp_path.name}-runs")
    shutil.copytree(folder, runs / "mine")
    done = call(main, f"runs={runs}", "study=nothing", "status=true")
    assert done.returncode == 2 and "Studies there: mine." in done.stderr
    assert "Traceback" not in done.stderr


def test_latex_and_csv_hold_what_the_table_holds(study: tuple[Path, list[StudyRun]], tmp_path: Path) -> None:
    folder, runs = study
    results, part = read_results(folder, runs)
    results = [
        replace(result, run=replace(result.run, variant=result.run.variant.replace("bold", "b_1 & 50 %")))
        for result in results
    ]
    table = compare(results, part=part, metrics=["dice"])
    lines = latex(table).splitlines()
    body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    assert len(body) == 2 and all(len(re.findall(r"(?<!\\)&", line)) == 8 and line.endswith(r" \\") for line in body)
    assert body[1].startswith(r"b\_1 \& 50 \% & 3 & ") and r" $+$0." in body[1] and r"$\pm$" in body[0]
    assert not re.search(r"(?<!\\)[_%#]", "\n".join(body)) and "|" not in body[0]
    write_csv(tmp_path / "table.csv", table_rows(table))
    for row, of in zip(read_csv(tmp_path / "table.csv"), table.rows, strict=True):
        assert (float(row["dice"]), float(row["dice_std"])) == (of.scores["dice"].mean, of.scores["dice"].std)
        assert row["p_images_holm"] == ("" if of.difference is None else str(of.p_holm))


def test_small_p_values_are_never_zero() -> None:
    assert [p_text(p) for p in (0.0, 0.0009, 0.001, 0.25, float("nan"))] == [
        "< 0.001",
        "< 0.001",
        "0.001",
        "0.250",
        "-",
    ]


def test_a_report_leaves_tables_plots_and_a_page(study: tuple[Path, list[StudyRun]]) -> None:
    folder, runs = study
    write_report(Request(folder, runs, folder / "report", "mine", figures="svg"))
    names = {str(path.relative_to(folder / "report")) for path in (folder / "report").rglob("*") if path.is_file()}
    plots = {f"figures/{name}.svg" for name in ("pareto", "distributions", "curves", "strata", "parallel", "overlays")}
    assert names == {"table.md", "table.csv", "table.tex", "results.csv", "report.html", *plots}
    drawn = (folder / "report" / "figures" / "pareto.svg").read_text()
    assert "per-image means at native size" in drawn.replace("\n", " ")  # beside its outlines, as a comment
    with pytest.raises(ValueError, match="figures=gif"):
        write_report(Request(folder, runs, folder / "report", "mine", figures="gif"))


def test_variants_of_many_settings_leave_room_for_what_is_drawn(
    study: tuple[Path, list[StudyRun]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, runs = study
    many = ", ".join(f"model.setting_number_{i}=[1, 2, 3, {i}]" for i in range(8))
    runs = [replace(run, variant=f"{run.variant}, {many}") for run in runs]
    drawn, cut, narrow = set(), set(), set()

    def look(figure: Figure, path: Path, **_: Any) -> None:
        figure.draw_without_rendering()
        drawn.add(path.stem)
        whole = figure.bbox.padded(1)  # px
        for shown in [*figure.legends, *figure.axes]:  # an axis with its ticks, labels, title and legend
            box = shown.get_tightbbox()
            if not (whole.contains(box.x0, box.y0) and whole.contains(box.x1, box.y1)):
                cut.add(path.stem)
        if any(min(axis.get_window_extent().size) < figure.dpi for axis in figure.axes):  # an inch
            narrow.add(path.stem)
        plt.close(figure)

    monkeypatch.setattr("src.reporting.plots.save_figure", look)
    write_report(Request(folder, runs, tmp_path / "report", "mine", figures="svg"))
    assert drawn == {"pareto", "distributions", "curves", "strata", "parallel", "overlays"}
    assert (cut, narrow) == (set(), set())


def test_lines_of_a_sweep_with_many_settings_leave_room_for_it() -> None:
    points = [{"value": value, "mean": 0.8, "std": 0.1, "seeds": [0.8], "params": 1} for value in (1, 2)]
    names = [", ".join(f"model.setting_number_{i}=[1, 2, 3, {line}]" for i in range(8)) for line in range(2)]
    lines = [{"name": name, "points": points} for name in names]
    panels = {"sweeps": [{"key": "lr", "numeric": True, "lines": lines}], "part": "val", "metric": "dice"}
    figure = _sweeps(panels)
    assert figure is not None
    figure.draw_without_rendering()
    (axis,) = figure.axes
    legend, drawn = axis.get_legend().get_window_extent(), axis.get_window_extent()
    assert not legend.overlaps(drawn) and legend.y0 >= 0 and min(drawn.size) > 1.5 * figure.dpi
    plt.close(figure)


# ---- any run directories


def configs_of(folder: Path, *overrides: list[str]) -> list[Path]:
    """Run directories that hold nothing but a config."""
    paths = []
    for number, typed in enumerate(overrides):
        model = () if any(word.startswith("model=") for word in typed) else TINY_MODEL
        config = composed(*model, *TINY, *typed)
        path = folder / f"run{number}"
        path.mkdir()
        (path / "config.yaml").write_text(yaml.safe_dump(config))
        paths.append(path)
    return paths


def test_directories_are_named_by_what_differs(tmp_path: Path) -> None:
    paths = configs_of(
        tmp_path,
        ["seed=0"],
        ["seed=1"],
        ["optim.lr=0.5"],
        ["model=unet", "loss=dice"],
        ["seed=0"],  # the first once more
    )
    found = directory_runs([tmp_path / "run*"])
    assert [Path(run.name) for run in found] == paths[:4] and [run.seed for run in found] == [0, 1, 0, 0]
    assert [run.variant for run in found] == [
        "emisnet_intended, loss=bce_dice, optim.lr=0.001",
        "emisnet_intended, loss=bce_dice, optim.lr=0.001",
        "emisnet_intended, loss=bce_dice, optim.lr=0.5",
        "unet, loss=dice",
    ]


def test_what_is_no_run_directory_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"run=.*nothing.*no run directory"):
        directory_runs([tmp_path / "nothing*"])
    with pytest.raises(ValueError, match=r"is not a run directory: it has no config\.yaml"):
        directory_runs([tmp_path])


def test_two_ways_to_ask_and_no_third(study: tuple[Path, list[StudyRun]], tmp_path: Path, call: Call) -> None:
    folder, runs = study
    neither = call(main)
    assert neither.returncode == 2 and "which runs?" in neither.stderr
    done = call(main, f"run=[{folder}/plain-seed*]", f"out={tmp_path / 'out'}", "metrics=dice")
    # copies of one run are one run: the first
    assert done.returncode == 0 and "| emisnet_intended | 1 |" in done.stdout, done.stderr
    assert read_csv(tmp_path / "out" / "results.csv")[0]["run"] == str(folder / runs[0].name)


def test_a_study_tells_its_question(tmp_path: Path) -> None:
    write_plan(tmp_path, [], command=["experiment=sweep_dilation", "data=glas"], commit="")
    assert study_question(tmp_path) == (
        "Does the dilation of the context branch matter, with its published 1x1 kernel and with a 3x3 one?"
    )
    write_plan(tmp_path, [], command=["-m", "model=emisnet,unet"], commit="")
    assert study_question(tmp_path) == "" and study_question(tmp_path / "nothing") == ""


def test_a_word_is_no_switch(study: tuple[Path, list[StudyRun]], call: Call) -> None:
    folder, _ = study
    done = call(main, f"runs={folder.parent}", f"study={folder.name}", "latency=no_thanks")
    assert done.returncode == 2 and "latency=no_thanks is neither true nor false" in done.stderr


def test_two_runs_of_one_seed_are_not_two_seeds(study: tuple[Path, list[StudyRun]]) -> None:
    results, part = read_results(*study)
    results[1] = replace(results[1], run=replace(results[1].run, seed=0))
    with pytest.raises(ValueError, match="plain: plain-seed0 and plain-seed1 have the same seed"):
        compare(results, part=part, metrics=["dice"])


def test_of_a_run_in_two_places_the_finished_one_counts(tmp_path: Path) -> None:
    failed, finished = configs_of(tmp_path, ["seed=0"], ["seed=0"])
    (failed / "status.json").write_text('{"state": "failed"}')
    (finished / "status.json").write_text('{"state": "finished"}')
    assert [run.name for run in directory_runs([tmp_path / "run*"])] == [str(finished)]
