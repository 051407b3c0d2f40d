"""What stands in per_image.csv and in a table, against formulas written out here and numbers worked out by hand."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.lens import lens_table
from src.scoring import (
    THRESHOLDS,
    Rules,
    calibration,
    choose_threshold,
    dice_curve,
    protocol_id,
    score_image,
    strata,
    summarize,
)

ALL = Rules(metrics=("overlap", "boundary", "objects", "isic"))


def picture(seed: int = 0, size: tuple[int, int] = (40, 56)) -> tuple[np.ndarray, np.ndarray]:
    """A probability map, and two true objects that it half agrees with."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(size, np.int32)
    labels[5:20, 6:24], labels[25:36, 30:50] = 1, 2
    probs = np.clip((labels > 0) * 0.5 + rng.uniform(0, 0.5, size), 0, 1).astype(np.float32)
    return probs, labels


def dice(pred: np.ndarray, mask: np.ndarray) -> float:
    return 2 * (pred & mask).sum() / (pred.sum() + mask.sum()) if pred.any() or mask.any() else 1.0


# ---- one image


def test_every_group_has_its_columns() -> None:
    probs, labels = picture()
    row = score_image(probs, labels, ALL).row
    assert row["n_objects"] == 2 and row["touches_border"] is False
    assert row["area_fraction"] == (labels > 0).mean() and row["pred_area_fraction"] == (probs > 0.5).mean()
    assert {"dice", "tp", "hd95", "nsd", "diagonal", "object_f1", "threshold_jaccard"} <= row.keys()
    assert json.loads(json.dumps(row)) == row  # plain values
    assert not {"hd95", "object_f1", "threshold_jaccard"} & score_image(probs, labels, Rules()).row.keys()


@pytest.mark.parametrize("edge", [(0, slice(None)), (-1, slice(None)), (slice(None), 0), (slice(None), -1)])
def test_contact_with_each_edge_of_the_image_is_seen(edge: tuple) -> None:
    probs, labels = picture()
    labels[edge] = 1
    assert score_image(probs, labels, Rules()).row["touches_border"] is True


def test_no_object_is_counted_where_there_is_none() -> None:
    probs, labels = picture()
    assert score_image(probs, np.zeros_like(labels), Rules()).row["n_objects"] == 0


def test_distances_are_in_the_unit_of_the_spacing() -> None:
    probs, labels = picture()
    probs[:, -6:] = 1
    pixels = score_image(probs, labels, Rules(metrics=("boundary",))).row
    microns = score_image(probs, labels, Rules(metrics=("boundary",), spacing=(0.5, 0.5), unit="um")).row
    assert microns["hd95"] == pytest.approx(pixels["hd95"] / 2) and pixels["hd95"] > 0


def test_small_objects_are_dropped_for_the_object_scores_alone() -> None:
    labels = np.zeros((30, 30), np.int32)
    labels[5:20, 5:20] = 1
    probs = (labels > 0).astype(np.float32)
    probs[25:27, 25:27] = 1  # a speck
    kept = score_image(probs, labels, Rules(metrics=("objects",))).row
    dropped = score_image(probs, labels, Rules(metrics=("objects",), min_object_area=5)).row
    assert (kept["object_f1"], dropped["object_f1"]) == (pytest.approx(2 / 3), 1)
    assert kept["dice"] == dropped["dice"] < 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metrics": ("overlap", "hausdorf")}, r"metrics=\['hausdorf'\] are not known\. Possible: overlap, boundary"),
        ({"threshold": 1.0}, "threshold must be a probability"),
        ({"min_object_area": -1}, "min_object_area"),
    ],
)
def test_wrong_rules(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rules(**arguments)


# ---- threshold and calibration


@given(seed=st.integers(0, 1000), grid=st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_dice_at_every_threshold_is_that_of_the_cut_mask(seed: int, grid: bool) -> None:
    probs, labels = picture(seed)
    if grid:  # probabilities that lie on the thresholds themselves
        probs = (np.round(probs * 20) / 20).astype(np.float32)
    swept = dice_curve(probs, labels > 0)
    assert swept == pytest.approx([dice(probs > float(t), labels > 0) for t in THRESHOLDS], abs=1e-12)


def test_an_empty_image_is_right_only_where_nothing_is_predicted() -> None:
    probs = np.full((20, 20), 0.3, np.float32)
    swept = dice_curve(probs, np.zeros((20, 20), bool))
    assert dict(zip(THRESHOLDS.tolist(), swept.tolist(), strict=True))[0.25] == 0 and swept[THRESHOLDS > 0.3].all()


def test_the_threshold_with_the_best_mean_dice_is_chosen() -> None:
    labels = np.zeros((10, 10), np.uint8)
    labels[:5] = 1
    timid = np.where(labels > 0, 0.33, 0.1).astype(np.float32)  # right from 0.1 up to 0.3
    bold = np.where(labels > 0, 0.9, 0.22).astype(np.float32)  # right from 0.25 on
    chosen = choose_threshold([dice_curve(probs, labels > 0) for probs in (timid, bold)])
    assert chosen["threshold"] == 0.3 and chosen["n"] == 2  # 0.25 and 0.3 are perfect; 0.3 is nearer to 0.5
    assert chosen["dice"]["0.3"] == 1 and chosen["dice"]["0.5"] == pytest.approx(0.5)


def test_calibration_by_hand() -> None:
    # 4 pixels at 0.9 of which 2 are foreground, 6 at 0.1 of which none is: |0.9 - 0.5| * 0.4 + |0.1 - 0| * 0.6
    probs = np.array([[0.9] * 4 + [0.1] * 6], np.float32)
    mask = np.array([[1, 1, 0, 0, 0, 0, 0, 0, 0, 0]], np.uint8)
    found = calibration([score_image(probs, mask, Rules())] * 3)
    assert found["ece"] == pytest.approx(0.4 * 0.4 + 0.1 * 0.6, abs=1e-6)
    assert [row["pixels"] for row in found["bins"]] == [18, 12]


def test_calibrated_probabilities_have_next_to_no_error() -> None:
    rng = np.random.default_rng(0)
    probs = rng.uniform(0, 1, (600, 600)).astype(np.float32)
    mask = (rng.uniform(0, 1, probs.shape) < probs).astype(np.uint8)
    assert calibration([score_image(probs, mask, Rules())])["ece"] < 0.01
    assert calibration([score_image(probs**3, mask, Rules())])["ece"] > 0.1
    assert len(calibration([score_image(np.ones_like(probs), mask, Rules())])["bins"]) == 1  # 1.0 too


# ---- summaries


def rows_of(*pictures: tuple[np.ndarray, np.ndarray], rules: Rules = ALL) -> list[dict]:
    return [score_image(*each, rules).row for each in pictures]


def test_a_summary_is_the_mean_over_images_whatever_their_order() -> None:
    rows = rows_of(*(picture(seed, (40 + seed, 56)) for seed in range(5)))
    summary = summarize(rows)
    for name in ("dice", "iou", "threshold_jaccard", "hd95", "nsd", "object_f1", "object_dice", "object_hausdorff"):
        assert summary[name] == pytest.approx(np.mean([row[name] for row in rows]))
    assert summary["area_bias"] == pytest.approx(
        np.mean([row["pred_area_fraction"] - row["area_fraction"] for row in rows])
    )
    assert summarize(rows[::-1]) == pytest.approx(summary)


def test_what_is_undefined_is_counted_and_charged() -> None:
    probs, labels = picture()
    empty = np.zeros_like(probs)
    summary = summarize(rows_of((probs, labels), (empty, labels)))
    alone = summarize(rows_of((probs, labels)))
    diagonal = math.hypot(40, 56)
    assert summary["n_undefined"] == summary["n_undefined_objects"] == 1
    assert summary["hd95"] == alone["hd95"] and summary["object_hausdorff"] == alone["object_hausdorff"]
    assert summary["hd95_charged"] == pytest.approx((alone["hd95"] + diagonal) / 2)
    assert summary["object_hausdorff_charged"] == pytest.approx((alone["object_hausdorff"] + diagonal) / 2)
    nothing = summarize(rows_of((empty, labels)))
    assert nothing["hd95"] is None and json.loads(json.dumps(nothing, allow_nan=False)) == nothing


def test_strata_hold_every_image_once_per_kind() -> None:
    pictures = []
    for seed in range(9):
        probs, labels = picture(seed)
        labels[30 : 30 + seed // 2, 30 : 30 + seed] = 0  # areas that differ
        if seed % 3 == 0:
            labels[0] = 1
        if seed == 4:
            labels[:] = 0
        pictures.append((probs, labels))
    rows = rows_of(*pictures)
    table = strata(rows)
    n_of = {row["stratum"]: row["n"] for row in table}
    assert sum(n for name, n in n_of.items() if "third" in name) == 9
    assert n_of["touches the border"] == 3 and n_of["inside the image"] == 6
    assert n_of["no object"] == 1 and n_of["several objects"] == 8
    assert sum(row["n"] * row["dice"] for row in table[:3]) == pytest.approx(sum(row["dice"] for row in rows))


def test_the_protocol_id_tells_protocols_apart() -> None:
    ids = {
        protocol_id(rules.protocol())
        for rules in (ALL, Rules(), Rules(metrics=("boundary",)), Rules(metrics=("boundary",), tau=3), ALL)
    }
    assert len(ids) == 4 and all(len(id_) == 12 for id_ in ids)
    assert Rules(tau=3).protocol() == Rules().protocol()  # of no account without boundaries


@pytest.mark.parametrize("fractions", [[0.1], [0.2] * 4, [0.0] * 3, [1e-4, 1.2e-4, 1.4e-4, 2e-4, 3e-4, 3.6e-4]])
def test_strata_of_few_and_equal_and_tiny_areas(fractions: list[float]) -> None:
    row = rows_of(picture())[0]
    table = strata([{**row, "area_fraction": fraction} for fraction in fractions])
    names = [each["stratum"] for each in table]
    assert len(names) == len(set(names))
    assert sum(each["n"] for each in table if "third" in each["stratum"]) == len(fractions)
    if len(set(fractions)) == 6:
        assert [each["n"] for each in table[:3]] == [2, 2, 2]


def test_one_number_written_two_ways_is_one_protocol() -> None:
    assert Rules(metrics=("boundary",), tau=2).protocol() == Rules(metrics=("boundary",), tau=2.0).protocol()


def test_of_equal_thresholds_the_nearest_to_a_half_is_chosen() -> None:
    labels = np.zeros((10, 10), np.uint8)
    labels[:5] = 1
    probs = np.where(labels > 0, 0.93, 0.58).astype(np.float32)  # right from 0.6 to 0.9
    assert choose_threshold([dice_curve(probs, labels > 0)])["threshold"] == 0.6


# ---- the lens


def test_the_lens_by_hand() -> None:
    """A large lesion found whole, and a small one missed."""
    large, small = np.zeros((256, 256), np.uint8), np.zeros((256, 256), np.uint8)
    large[:128], small[:2, :64] = 1, 1  # 32768 and 128 px
    images = [
        score_image(large.astype(np.float32), large, Rules(), lens=True),
        score_image(np.zeros((256, 256), np.float32), small, Rules(), lens=True),
    ]
    table = {row["as in"]: (row["dice"], row["iou"]) for row in lens_table(images, 0.5)}
    pooled_iou = 32768 / (32768 + 128)
    pooled_dice = 2 * 32768 / (2 * 32768 + 128)
    background = (131072 - 32768 - 128) / (131072 - 32768)
    assert table["this project"] == table["a common shortcut"] == (0.5, 0.5)
    assert table["MALUNet, EGE-UNet"] == pytest.approx((pooled_dice, pooled_iou))
    assert table["UNeXt's code"] == pytest.approx((pooled_dice, pooled_iou))  # one batch
    assert table["mIoU of semantic segmentation"][1] == pytest.approx((pooled_iou + background) / 2)
    assert table["ISIC 2018 task 1"] == (None, 0.5)


@pytest.mark.parametrize("size", [(768, 768), (522, 775), (300, 120)])
def test_a_perfect_prediction_is_perfect_by_every_convention(size: tuple[int, int]) -> None:
    mask = np.zeros(size, np.uint8)
    mask[size[0] // 3 : size[0] // 2, size[1] // 4 : size[1] // 2] = 1
    for row in lens_table([score_image(mask.astype(np.float32), mask, Rules(), lens=True)], 0.5):
        assert row["iou"] == 1 and row["dice"] in (1, None), row


def test_the_lens_weighs_batches_by_their_images() -> None:
    """Sixteen images found whole, and a seventeenth, alone in its batch, missed: 16/17 as UNeXt's code averages."""
    mask = np.zeros((256, 256), np.uint8)
    mask[:16] = 1
    found, missed = mask.astype(np.float32), np.zeros((256, 256), np.float32)
    images = [score_image(probs, mask, Rules(), lens=True) for probs in [found] * 16 + [missed]]
    table = {row["as in"]: (row["dice"], row["iou"]) for row in lens_table(images, 0.5)}
    assert table["UNeXt's code"] == pytest.approx((16 / 17, 16 / 17))
    assert table["MALUNet, EGE-UNet"] == pytest.approx((32 / 33, 16 / 17))


def test_the_lens_is_ground_only_on_demand() -> None:
    images = [score_image(*picture(), Rules(), lens=lens) for lens in (True, False)]
    assert images[1].small is None
    with pytest.raises(ValueError, match="lens=True"):
        lens_table(images, 0.5)
