"""Boundary distances against pictures, MONAI, medpy, google's surface-distance and scikit-image."""

import math
from collections.abc import Iterator
from itertools import cycle, product

import medpy.metric.binary as medpy
import numpy as np
import pytest
import skimage.metrics
import surface_distance as google
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage

from src.metrics.boundary import DISTANCES, boundary, boundary_scores, summarize

pytestmark = [  # raised inside the references on every call
    pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*scipy.ndimage:DeprecationWarning"),
]
SPACINGS = ((1.0, 1.0), (0.62005, 0.62005), (0.5, 1.7))
SQUARE = np.zeros((20, 30), dtype=bool)
SQUARE[5:10, 5:10] = True
EMPTY = np.zeros_like(SQUARE)


def blob(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A mask of one pixel, of a few, or of random blobs; many touch the border, some fill the image."""
    mask = np.zeros(shape, dtype=bool)
    kind = rng.integers(4)
    if kind < 2:
        mask[tuple(rng.integers(0, shape, size=(1 + 3 * kind, 2)).T)] = True
        return mask
    noise = ndimage.gaussian_filter(rng.random(shape), rng.uniform(0.5, 4), mode="nearest")
    return noise >= np.quantile(noise, rng.uniform(0, 0.9))


def pairs(n: int) -> Iterator[tuple[np.ndarray, np.ndarray, tuple[float, float]]]:
    rng = np.random.default_rng(0)
    for i in range(n):
        shape = tuple(rng.integers(3, 48, size=2))
        yield blob(rng, shape), blob(rng, shape), SPACINGS[i % 3]


def directed(a: np.ndarray, b: np.ndarray, spacing: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    """Distances of the points of a to those of b, by a distance transform and not by the tree that we use."""
    return ndimage.distance_transform_edt(~b, sampling=spacing)[a]


def monai(pred: np.ndarray, target: np.ndarray, tau: float, spacing: tuple[float, float]) -> dict[str, float]:
    masks = {"y_pred": torch.from_numpy(pred)[None, None], "y": torch.from_numpy(target)[None, None]}
    common = {**masks, "include_background": True, "spacing": list(spacing)}
    values = {
        "hd": compute_hausdorff_distance(**common),
        "hd95": compute_hausdorff_distance(**common, percentile=95),
        "assd": compute_average_surface_distance(**common, symmetric=True),
        "nsd": compute_surface_dice(**common, class_thresholds=[tau]),
    }
    return {name: value.item() for name, value in values.items()}


def test_the_boundary_is_what_a_4_neighbour_erosion_takes_away() -> None:
    picture = ["####.", "####.", "####.", ".....", "..#.."]
    expected = ["####.", "#..#.", "####.", ".....", "..#.."]  # the first row is at the image's edge
    mask, edge = (np.array([[c == "#" for c in row] for row in rows]) for rows in (picture, expected))
    np.testing.assert_array_equal(boundary(mask), edge)
    np.testing.assert_array_equal(boundary(np.ones((3, 4), dtype=bool))[1], [True, False, False, True])


def test_by_hand() -> None:
    pred, target = np.zeros((1, 12), dtype=bool), np.zeros((1, 12), dtype=bool)
    pred[0, [0, 1, 5]] = True  # to the truth: 1, 0, 3
    target[0, [1, 2, 9]] = True  # to the prediction: 0, 1, 4
    scores = boundary_scores(pred, target, tau=1)
    # 95 % of the way from rank 1 to 3 of three values is rank 2.9: 1 + 0.9 (3 - 1) = 2.8 and 1 + 0.9 (4 - 1) = 3.7
    expected = {"hd": 4, "hd95": 3.7, "assd": 9 / 6, "nsd": 4 / 6, "diagonal": math.sqrt(145)}
    assert scores == pytest.approx(expected)
    apart = boundary_scores(pred, target, tau=1, spacing=(7.0, 2.0))
    assert apart == pytest.approx({"hd": 8, "hd95": 7.4, "assd": 3, "nsd": 2 / 6, "diagonal": math.hypot(7, 24)})


def test_a_distance_that_equals_tau_is_within_it() -> None:
    pred, target = np.zeros((1, 5), dtype=bool), np.zeros((1, 5), dtype=bool)
    pred[0, 0] = target[0, 3] = True
    assert 3 * 0.1 > 0.3  # in float64
    assert boundary_scores(pred, target, tau=0.3, spacing=(0.1, 0.1))["nsd"] == 1
    assert monai(pred, target, 0.3, (0.1, 0.1))["nsd"] == 1


@pytest.mark.parametrize(
    ("pred", "target", "distance", "nsd"),
    [(EMPTY, EMPTY, 0.0, 1.0), (EMPTY, SQUARE, math.nan, 0.0), (SQUARE, EMPTY, math.nan, 0.0), (SQUARE, SQUARE, 0, 1)],
    ids=["both-empty", "prediction-empty", "truth-empty", "equal"],
)
def test_empty_masks(pred: np.ndarray, target: np.ndarray, distance: float, nsd: float) -> None:
    scores = boundary_scores(pred, target, tau=0)
    expected = {**dict.fromkeys(DISTANCES, distance), "nsd": nsd, "diagonal": math.hypot(20, 30)}
    assert scores == pytest.approx(expected, nan_ok=True)


def test_agrees_with_monai() -> None:
    taus = cycle([0.0] * 3 + [1.0] * 3 + [2.5] * 3)  # each with each of the three spacings
    for (pred, target, spacing), tau in zip(pairs(150), taus, strict=False):
        ours = boundary_scores(pred, target, tau=tau, spacing=spacing)
        for name, value in monai(pred, target, tau, spacing).items():
            assert ours[name] == pytest.approx(value, abs=1e-5), name


def test_agrees_with_medpy_but_for_hd95() -> None:
    differ = 0
    for pred, target, spacing in pairs(150):
        ours = boundary_scores(pred, target, tau=1, spacing=spacing)
        assert ours["hd"] == pytest.approx(medpy.hd(pred, target, spacing), abs=1e-9)
        assert ours["assd"] == pytest.approx(medpy.assd(pred, target, spacing), abs=1e-9)
        edges = boundary(pred), boundary(target)
        both = directed(*edges, spacing), directed(*edges[::-1], spacing)
        assert ours["hd95"] == pytest.approx(max(np.percentile(d, 95) for d in both), abs=1e-9)
        pooled = medpy.hd95(pred, target, spacing)
        assert pooled == pytest.approx(np.percentile(np.concatenate(both), 95), abs=1e-9)
        differ += abs(ours["hd95"] - pooled) > 1e-6
    assert differ > 75


def test_agrees_with_scikit_image_on_boundary_points() -> None:
    for pred, target, _ in pairs(150):
        expected = skimage.metrics.hausdorff_distance(boundary(pred), boundary(target))
        assert boundary_scores(pred, target, tau=1)["hd"] == pytest.approx(expected, abs=1e-9)


def test_surface_distance_has_its_points_at_pixel_corners() -> None:
    """Its points are the corners where 2 x 2 pixels differ. Each is half a pixel's diagonal from one of ours and the
    reverse, so Hausdorff distances differ by a diagonal at most, and not at all where one mask is the other, moved."""
    for pred, target, spacing in pairs(150):
        theirs = google.compute_robust_hausdorff(google.compute_surface_distances(target, pred, spacing), 100)
        corners = []
        for mask in (np.pad(pred, 1), np.pad(target, 1)):
            blocks = np.stack([mask[i : i - 1 or None, j : j - 1 or None] for i, j in product((0, 1), repeat=2)])
            corners.append(blocks.any(0) & ~blocks.all(0))
        again = max(directed(*corners, spacing).max(), directed(*corners[::-1], spacing).max())
        assert theirs == pytest.approx(again, abs=1e-9)
        ours = boundary_scores(pred, target, tau=1, spacing=spacing)["hd"]
        assert abs(ours - theirs) <= math.hypot(*spacing) + 1e-9
    for moved in ((0, 4), (3, 0), (7, 11)):
        pred = np.roll(SQUARE, moved, (0, 1))
        steps = google.compute_surface_distances(SQUARE, pred, (0.5, 2.0))
        ours = boundary_scores(pred, SQUARE, tau=1, spacing=(0.5, 2.0))["hd"]
        assert ours == pytest.approx(google.compute_robust_hausdorff(steps, 100))


def test_hd95_has_three_conventions() -> None:
    target = np.zeros((60, 90), dtype=bool)
    target[10:50, 10:50] = True
    pred = target.copy()
    for row in (20, 30, 40):
        pred[row : row + 3, 70:73] = True  # 21 to 23 pixels off: 24 of the 180 points in P, of the 336 in P and G
    ours = boundary_scores(pred, target, tau=1)["hd95"]
    assert ours == pytest.approx(monai(pred, target, 1, (1, 1))["hd95"])
    steps = google.compute_surface_distances(target, pred, (1, 1))
    three = [ours, medpy.hd95(pred, target), google.compute_robust_hausdorff(steps, 95)]
    assert three == pytest.approx([22.05, 21, 23])


def test_hausdorff_of_boundaries_is_not_that_of_masks() -> None:
    disc = np.hypot(*(np.mgrid[:41, :41] - 20)) <= 15
    rim = boundary(disc)
    assert boundary_scores(disc, rim, tau=1)["hd"] == 0  # the centre is far from the rim, but no boundary
    assert skimage.metrics.hausdorff_distance(disc, rim) > 14


@given(seed=st.integers(0, 2**31), spacing=st.sampled_from(SPACINGS), tau=st.sampled_from((0.0, 1.0, 3.0)))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_bounds_and_symmetries(seed: int, spacing: tuple[float, float], tau: float) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 24, size=2))
    pred, target = blob(rng, shape), blob(rng, shape)
    scores = boundary_scores(pred, target, tau=tau, spacing=spacing)
    assert 0 <= scores["hd95"] <= scores["hd"] < scores["diagonal"]
    assert 0 <= scores["assd"] <= scores["hd"]
    assert 0 <= scores["nsd"] <= 1 and (scores["nsd"] == 1) == (scores["hd"] <= tau)
    same = [
        boundary_scores(target, pred, tau=tau, spacing=spacing),
        boundary_scores(pred[::-1], target[::-1], tau=tau, spacing=spacing),
        boundary_scores(pred[:, ::-1], target[:, ::-1], tau=tau, spacing=spacing),
        boundary_scores(pred.T, target.T, tau=tau, spacing=spacing[::-1]),
        boundary_scores(np.pad(pred, 3), np.pad(target, 3), tau=tau, spacing=spacing)
        | {"diagonal": scores["diagonal"]},
    ]
    for other in same:
        assert other == pytest.approx(scores)
    doubled = boundary_scores(pred, target, tau=2 * tau, spacing=(2 * spacing[0], 2 * spacing[1]))
    for name in (*DISTANCES, "diagonal"):
        assert doubled[name] == pytest.approx(2 * scores[name])
    assert doubled["nsd"] == scores["nsd"]


def test_a_summary_drops_nothing_in_silence() -> None:
    moved = np.roll(SQUARE, 2, axis=1)
    rows = [boundary_scores(pred, SQUARE, tau=1) for pred in (SQUARE, moved, EMPTY)]
    summary = summarize(rows)
    assert rows[1]["hd"] == 2
    assert summary["hd"] == 1 and summary["n_undefined"] == 1
    assert summary["hd_charged"] == pytest.approx((0 + 2 + math.hypot(20, 30)) / 3)
    assert summary["nsd"] == pytest.approx((1 + rows[1]["nsd"] + 0) / 3)
    assert summarize(rows[::-1]) == pytest.approx(summary)
    undefined = summarize(rows[2:])
    assert math.isnan(undefined["assd"]) and undefined["assd_charged"] == pytest.approx(math.hypot(20, 30))
    assert set(summary) == {*DISTANCES, *(f"{name}_charged" for name in DISTANCES), "nsd", "n_undefined"}
    with pytest.raises(ValueError, match="no rows"):
        summarize([])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pred": SQUARE.astype(np.uint8)}, "boolean, got uint8 and bool. Threshold"),
        ({"pred": SQUARE[:5]}, r"one shape, got \(5, 30\), \(20, 30\)"),
        ({"pred": SQUARE[None], "target": SQUARE[None]}, "Score one image"),
        ({"spacing": (1.0, 0.0)}, "two positive numbers"),
        ({"spacing": (1.0,)}, "two positive numbers"),
        ({"tau": -1.0}, "tau must be a distance"),
    ],
)
def test_what_is_refused(changed: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        boundary_scores(**({"pred": SQUARE, "target": SQUARE, "tau": 1.0} | changed))
