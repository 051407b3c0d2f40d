"""What plots show, against the rows that it is made of."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from src.comparison import Table, compare
from src.files import read_csv
from src.reporting.latency import Latencies, Latency
from src.reporting.panels import SHOWN, front, make_panels, shown_variants, sweeps
from src.results import Result, read_results
from src.study import StudyRun


@pytest.fixture
def table(study: tuple[Path, list[StudyRun]]) -> Table:
    results, part = read_results(*study)
    return compare(results, part=part, metrics=["dice", "iou"])


def swept(table: Table, overrides: list[list[str]]) -> Table:
    """The table's runs as if each was a variant of its own, with these overrides."""
    results = [
        replace(result, run=replace(result.run, variant=f"v{i}"), config={**result.config, "overrides": typed})
        for i, (result, typed) in enumerate(zip(table.results, overrides, strict=True))
    ]
    return compare(results, part=table.part, metrics=table.metrics)


@pytest.mark.parametrize("higher", [True, False])
def test_the_front_is_what_nothing_beats(higher: bool) -> None:
    generator = np.random.default_rng(1)
    for _ in range(50):
        costs, scores = generator.random(12).round(1), generator.random(12)
        found = front(costs.tolist(), scores.tolist(), higher)
        sign = 1 if higher else -1
        beaten = [
            any(costs[j] <= costs[i] and sign * scores[j] > sign * scores[i] for j in range(12) if j != i)
            for i in range(12)
        ]
        assert sorted(found) == [i for i in range(12) if not beaten[i]]
        assert [costs[i] for i in found] == sorted(costs[i] for i in found)


def test_panels_are_plain_json_also_of_single_seeds(table: Table) -> None:
    single = compare([table.results[0], table.results[3]], part=table.part, metrics=["dice"])
    latencies = Latencies({"plain": Latency(1.0, 2.0, 10), "bold": Latency(3.0, 4.0, 10)}, "here")
    for found in (make_panels(table), make_panels(single, latencies)):
        assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert make_panels(single)["pareto"]["stds"] == [None, None]
    assert make_panels(single, latencies)["pareto"]["costs"]["latency (ms)"] == [1.0, 3.0]


def test_distributions_and_thirds_are_those_of_the_rows(table: Table) -> None:
    panels = make_panels(table)
    plain: list[Result] = table.variants["plain"]
    ids = panels["distributions"]["ids"]
    by_id = [{row["id"]: row for row in result.rows} for result in plain]
    expected = [np.mean([rows[id_]["dice"] for rows in by_id]) for id_ in ids]
    assert panels["distributions"]["scores"]["plain"] == pytest.approx(expected, abs=1e-4)
    ranked = sorted(ids, key=lambda id_: by_id[0][id_]["area_fraction"])
    thirds = [ranked[:2], ranked[2:4], ranked[4:]]  # of six images
    assert panels["strata"]["counts"] == [2, 2, 2]
    of_seeds = [[np.mean([rows[id_]["dice"] for id_ in third]) for third in thirds] for rows in by_id]
    bar = panels["strata"]["bars"]["plain"]
    assert bar["mean"] == pytest.approx(np.mean(of_seeds, axis=0), abs=1e-4)
    assert bar["std"] == pytest.approx(np.std(of_seeds, axis=0, ddof=1), abs=1e-4)


def test_curves_are_mean_and_range_over_seeds_in_each_epoch(table: Table) -> None:
    paths = [result.path / "history.csv" for result in table.variants["bold"]]
    head, first, second = paths[0].read_text().splitlines()
    column = head.split(",").index("val/dice")
    for number, path in enumerate(paths):
        lines = [line.split(",") for line in (first, second)]
        for epoch, line in enumerate(lines):
            line[column] = str(0.1 * number + 0.5 * epoch)
        path.write_text("\n".join([head, *(",".join(line) for line in lines[: 1 if number == 2 else 2])]) + "\n")
    curve = make_panels(table)["curves"]["val/dice"]["bold"]
    assert curve == {"mean": pytest.approx([0.1, 0.55]), "low": [0.0, 0.5], "high": [0.2, 0.6]}
    assert [float(row["val/dice"]) for row in read_csv(paths[2])] == [0.2]  # the third was shorter


def test_a_sweep_has_a_line_for_each_choice_of_the_rest(table: Table) -> None:
    typed = [
        [f"model.context_dilation={rate}", f"model.context_kernel_size={kernel}", "seed=0"]
        for kernel in (1, 3)
        for rate in (7, 1, 3)
    ]
    found = swept(table, typed)
    dilation, kernel = sweeps(found)
    assert dilation["key"] == "model.context_dilation" and dilation["numeric"]
    assert [line["name"] for line in dilation["lines"]] == ["context_kernel_size=1", "context_kernel_size=3"]
    assert [point["value"] for point in dilation["lines"][1]["points"]] == [1, 3, 7]
    expected = [found.results[i].mean("dice") for i in (4, 5, 3)]
    assert [point["mean"] for point in dilation["lines"][1]["points"]] == pytest.approx(expected)
    assert len(kernel["lines"]) == 3 and all(len(line["points"]) == 2 for line in kernel["lines"])


def test_the_value_that_was_left_alone_is_part_of_the_sweep(table: Table) -> None:
    default = table.results[0].config["optim"]["lr"]
    typed = [["seed=0"], ["optim.lr=0.5"], ["optim.lr=0.2"], ["optim.lr=0.3"], ["optim.lr=0.4"], ["optim.lr=0.6"]]
    (found,) = sweeps(swept(table, typed))
    assert [point["value"] for point in found["lines"][0]["points"]] == [default, 0.2, 0.3, 0.4, 0.5, 0.6]


def test_widths_are_ordered_by_their_parameters_and_words_are_no_sweep(table: Table) -> None:
    widths = [[8, 16], [4, 8], [32, 64], [16, 32], [64, 128], [2, 4]]
    results = swept(table, [[f"model.channels={width}".replace(" ", "")] for width in widths]).results
    for result, width in zip(results, widths, strict=True):
        result.metrics["cost"]["params"] = sum(width)
    (found,) = sweeps(compare(results, part=table.part, metrics=["dice"]))
    assert [point["value"] for point in found["lines"][0]["points"]] == sorted(widths) and not found["numeric"]
    assert sweeps(swept(table, [[f"model={name}"] for name in "abcdef"])) == []
    assert sweeps(swept(table, [["loss=dice", "optim.lr=1e-4"]] * 5 + [["loss=bce", "optim.lr=0.01"]])) == []


def test_parallel_axes_number_words_and_keep_small_numbers(table: Table) -> None:
    typed = [[f"optim.lr={lr}", f"loss={loss}"] for lr in ("1e-5", "3e-3", "0.01") for loss in ("dice", "bce")]
    found = make_panels(swept(table, typed))["parallel"]
    axes = {dimension["label"]: dimension for dimension in found["dimensions"]}
    assert axes["optim.lr"]["values"] == [1e-5, 1e-5, 3e-3, 3e-3, 0.01, 0.01]
    assert axes["loss"]["ticks"] == ["dice", "bce"] and axes["loss"]["values"] == [0, 1] * 3
    assert found["dimensions"][-1]["label"] == "test dice" and len(found["runs"]) == 6


def test_of_many_variants_the_reference_and_the_best_are_shown(table: Table) -> None:
    first = table.results[0]
    results = [
        replace(
            first,
            run=replace(first.run, variant=f"v{i}"),
            rows=[{**row, "dice": i / 100, "hd95": 1 + i} for row in first.rows],
        )
        for i in range(SHOWN + 6)
    ]
    better = [f"v{i}" for i in range(7, SHOWN + 6)]
    assert shown_variants(compare(results, part=table.part, metrics=["dice"])) == ["v0", *better]
    nearer = [f"v{i}" for i in range(SHOWN - 1)]
    found = compare(results, part=table.part, metrics=["hd95"], reference="v29")
    assert shown_variants(found) == [*nearer, "v29"]
