"""GlaS object scores against values on paper and a slow reference; objects from probabilities against scikit-image."""

import math
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
import skimage.measure
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage
from scipy.spatial.distance import cdist

from src.metrics.objects import ObjectRule, label_objects, object_scores

NAMES = ("object_f1", "object_dice", "object_hausdorff")


def labels(*rows: str) -> np.ndarray:
    """A label image from a picture of it, digits the labels."""
    return np.array([[int(c) if c.isdigit() else 0 for c in row] for row in rows])


# What the comments work out: area shares w (prediction) and v (truth) times the partner's Dice or Hausdorff distance.
BY_HAND = {
    "equal": (("11..22",), ("22..11",), (1, 1, 0)),
    "both-empty": (("....",), ("....",), (1, 1, 0)),
    "prediction-empty": (("....",), ("11..",), (0, 0, math.inf)),
    "truth-empty": (("11..",), ("....",), (0, 0, math.inf)),
    # No overlap: Dice 0. Pixels 0, 1 and 5, 6, 7: from 0 to 5 is 5, from 7 to 1 is 6.
    "no-overlap": (("11......",), (".....111",), (0, 0, 6)),
    # The nearest of two truths: to pixels 4, 5 max(4, 4) = 4, to 9 max(9, 8) = 9; the truth's way back: 4 and, for 9, 8
    # or 9 from the only prediction: 9. H = 1/2 [4 + (2/3 * 4 + 1/3 * 9)] = 1/2 (4 + 17/3) = 29/6.
    "nearest": (("11........",), ("....11...2",), (0, 0, 29 / 6)),
    # One prediction over two truths of 2 and 4 with a gap of 1: its partner is the larger, of which it has all, so
    # TP 1, FN 1: F1 = 2/(1+2). Dice(7, 4) = 8/11, Dice(7, 2) = 4/9. D = 1/2 [8/11 + 2/6 * 4/9 + 4/6 * 8/11].
    # Pixels 0-6 against 3-6: 3; against 0, 1: 5. H = 1/2 [3 + 2/6 * 5 + 4/6 * 3] = 1/2 (3 + 11/3) = 10/3.
    "one-to-many": (("1111111",), ("11.2222",), (2 / 3, (8 / 11 + 4 / 27 + 16 / 33) / 2, 10 / 3)),
    # The reverse: both predictions take the one truth; 2/7 and 4/7 of it: TP 1, FP 1, FN 0: F1 = 2/(2+1).
    "many-to-one": (("11.2222",), ("1111111",), (2 / 3, (8 / 11 + 4 / 27 + 16 / 33) / 2, 10 / 3)),
    # Half of the truth is not more than half: FP and FN. Dice = 4/6. Pixels 0, 1 against 0-3: 2.
    "exactly-half": (("11..",), ("1111",), (0, 2 / 3, 2)),
    # 3 of 5 is: Dice = 6/8, pixels 0-2 against 0-4: 2.
    "more-than-half": (("111..",), ("11111",), (1, 6 / 8, 2)),
    # Touching objects stay apart: 1 has 3 pixels against 2, of which it has all; 2 has 3 against 4, of which it has 3.
    # Dice(3, 2) = 4/5, Dice(3, 4) = 6/7. D = 1/2 [1/2 * 4/5 + 1/2 * 6/7 + 2/6 * 4/5 + 4/6 * 6/7]. Every distance is 1.
    "touching": (("111222",), ("112222",), (1, (2 / 5 + 3 / 7 + 4 / 15 + 4 / 7) / 2, 1)),
    # A tie, 1 pixel with each: the lower label is the partner. Truth 4 (1 pixel) is covered whole: TP 1, FN 1, F1 2/3.
    # Dice(2, 1) = 2/3, Dice(2, 2) = 2/4. D = 1/2 [2/3 + 1/3 * 2/3 + 2/3 * 1/2] = 1/2 * 11/9. All distances are 1.
    "tie": ((".11.",), (".499",), (2 / 3, 11 / 18, 1)),
    # The same with labels swapped: the partner is now the larger, half of it is covered: none found.
    # Dice of the prediction is 1/2: D = 1/2 [1/2 + 1/3 * 2/3 + 2/3 * 1/2] = 1/2 * 19/18.
    "tie-swapped": ((".11.",), (".944",), (0, 19 / 36, 1)),
    # A disc and its rim: the centre is 1 from the rim, the rim is in the disc. Dice = 16/17; 8 of 8 covered.
    "rim": (("111", "111", "111"), ("111", "1.1", "111"), (1, 16 / 17, 1)),
    # An object in two parts counts as one: 2 of its 3 pixels; Dice 4/5; from pixel 6 to 1 is 5.
    "two-parts": (("11.....",), ("11....1",), (1, 4 / 5, 5)),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_by_hand(case: str) -> None:
    pred, target, expected = BY_HAND[case]
    values = object_scores(labels(*pred), labels(*target))
    assert values == pytest.approx(dict(zip(NAMES, expected, strict=True)))


def slow(pred: np.ndarray, target: np.ndarray) -> tuple[float, float, float]:
    """The definition, object by object, with sets of pixels and all pairs of distances."""

    def side(image: np.ndarray) -> dict[int, set[tuple[int, int]]]:
        objects: dict[int, set[tuple[int, int]]] = {}
        for place, label in np.ndenumerate(image):
            if label:
                objects.setdefault(int(label), set()).add(place)
        return objects

    def hausdorff(a: set, b: set) -> float:
        distances = cdist(list(a), list(b))
        return max(distances.min(0).max(), distances.min(1).max())

    def partner(pixels: set, image: np.ndarray) -> int | None:
        met = Counter(int(image[place]) for place in pixels if image[place])
        return min(met, key=lambda label: (-met[label], label)) if met else None

    s, g = side(pred), side(target)
    if not s or not g:
        return (1, 1, 0) if s == g else (0, 0, math.inf)
    true = 0
    for pixels in s.values():
        match = partner(pixels, target)
        true += match is not None and len(pixels & g[match]) / len(g[match]) > 0.5
    precision, recall = true / len(s), true / (true + len(g) - true)
    dice = distance = 0.0
    for here, there, image in ((s, g, target), (g, s, pred)):
        area = sum(map(len, here.values()))
        for pixels in here.values():
            match = partner(pixels, image)
            if match is None:
                distance += len(pixels) / area * min(hausdorff(pixels, other) for other in there.values())
            else:
                other = there[match]
                dice += len(pixels) / area * 2 * len(pixels & other) / (len(pixels) + len(other))
                distance += len(pixels) / area * hausdorff(pixels, other)
    return 2 * precision * recall / (precision + recall) if true else 0, dice / 2, distance / 2


IMAGES = st.integers(1, 9).flatmap(
    lambda height: st.integers(1, 9).flatmap(
        lambda width: st.tuples(*[arrays.arrays(np.int64, (height, width), elements=st.integers(0, 4))] * 2)
    )
)


@given(IMAGES)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_agrees_with_the_slow_reference(images: tuple[np.ndarray, np.ndarray]) -> None:
    assert tuple(object_scores(*images).values()) == pytest.approx(slow(*images), abs=1e-12)


def blobs(seed: int, shape: tuple[int, int] = (40, 56)) -> np.ndarray:
    """Objects of any form, some in one another and touching: the rings and crescents where interior pixels matter."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.random(shape), rng.uniform(0.7, 3))
    cuts = np.quantile(noise, np.sort(rng.uniform(0, 1, size=3)))
    image, n = np.zeros(shape, dtype=np.int32), 0
    for level in range(1, 4):
        part, found = ndimage.label(np.digitize(noise, cuts) == level)
        image[part > 0] = part[part > 0] + n
        n += found
    keep = rng.random(n + 1) < rng.uniform(0.2, 1)
    return np.where(keep[image], image, 0)


@pytest.mark.parametrize("seed", range(25))
def test_agrees_with_the_slow_reference_on_blobs(seed: int) -> None:
    pred, target = blobs(2 * seed), blobs(2 * seed + 1)
    assert tuple(object_scores(pred, target).values()) == pytest.approx(slow(pred, target), abs=1e-12)


@given(st.integers(0, 2**31))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_bounds_and_invariances(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pred, target = blobs(seed, (16, 21)), blobs(seed + 1, (16, 21))
    scores = object_scores(pred, target)
    assert 0 <= scores["object_f1"] <= 1 and 0 <= scores["object_dice"] <= 1 and scores["object_hausdorff"] >= 0
    ascending = np.concatenate([[0], np.sort(rng.choice(10_000, size=500, replace=False)) + 1])
    same = [
        object_scores(pred[::-1], target[::-1]),
        object_scores(pred[:, ::-1], target[:, ::-1]),
        object_scores(pred.T, target.T),
        object_scores(np.pad(pred, 2), np.pad(target, 2)),
        object_scores(ascending[pred], ascending[target]),
        object_scores(pred.astype(np.uint16), target.astype(np.uint64)),
    ]
    shuffled = np.concatenate([[0], rng.permutation(500) + 1])
    if not ties(pred, target) and not ties(target, pred):  # else the order of labels says which of two is the partner
        same.append(object_scores(shuffled[pred], shuffled[target]))
    for other in same:
        assert other == pytest.approx(scores)
    swapped = object_scores(target, pred)  # F1 asks what share of the truth is covered, so it is not symmetric
    assert {name: swapped[name] for name in NAMES[1:]} == pytest.approx({name: scores[name] for name in NAMES[1:]})
    assert tuple(object_scores(pred, pred).values()) == pytest.approx((1, 1, 0))


def ties(image: np.ndarray, other: np.ndarray) -> bool:
    """Whether an object shares its largest overlap with two of the other side."""
    most = [np.sort(np.bincount(other[image == label], minlength=2)[1:])[::-1] for label in np.unique(image[image > 0])]
    return any(len(counts) > 1 and counts[0] == counts[1] > 0 for counts in most)


def test_more_objects_than_a_byte_holds() -> None:
    target = np.zeros((60, 60), dtype=np.int32)
    target[::3, ::3] = np.arange(1, 401).reshape(20, 20)
    target[1::3, ::3] = target[::3, ::3]  # 400 objects of 2 pixels
    assert tuple(object_scores(target, target).values()) == (1, pytest.approx(1), 0)
    pred = target.copy()
    pred[target == 256] = 0  # as if it had wrapped around: its truth shares nothing, and the nearest is 3 columns away
    scores = tuple(object_scores(pred, target).values())
    assert scores == pytest.approx((2 * 399 / 799, (1 + 399 / 400) / 2, 3 / 400 / 2))


def test_objects_may_leave_no_background() -> None:
    assert tuple(object_scores(np.ones((3, 3), dtype=int), np.ones((3, 3), dtype=int)).values()) == (1, 1, 0)


@pytest.mark.parametrize(
    ("pred", "target", "message"),
    [
        (np.zeros((2, 2)), np.zeros((2, 2), dtype=int), "integer, got float64 and int64. Use label_objects"),
        (np.zeros((2, 2), dtype=bool), np.zeros((2, 2), dtype=int), "integer, got bool"),
        (np.zeros((2, 2), dtype=int), np.zeros((2, 3), dtype=int), r"one shape, got \(2, 2\) and \(2, 3\)"),
        (np.full((2, 2), -1), np.zeros((2, 2), dtype=int), "negative"),
    ],
)
def test_what_is_refused(pred: np.ndarray, target: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        object_scores(pred, target)


def test_from_probabilities_to_objects() -> None:
    picture = [
        "####...#",
        "#..#..#.",  # a hole of two, filled; a diagonal joins nothing
        "####....",
        "........",
        "##...###",
        "##...#..",  # open to the image's edge: no hole
        ".....###",
    ]
    expected = labels("1111....", "1111....", "1111....", "........", "22...333", "22...3..", ".....333")
    mask = np.array([[c == "#" for c in row] for row in picture])
    np.testing.assert_array_equal(label_objects(mask, ObjectRule(0.5, 4)), expected)
    probs = np.where(mask, 0.7, 0.6)
    np.testing.assert_array_equal(label_objects(probs, ObjectRule(0.6, 4)), expected)  # exceeds the threshold
    assert label_objects(probs, ObjectRule(0.7, 0)).max() == 0
    assert label_objects(mask, ObjectRule(0.5, 1)).max() == 5
    np.testing.assert_array_equal(label_objects(mask, ObjectRule(0.5, 5)) > 0, np.isin(expected, (1, 3)))
    assert asdict(ObjectRule(0.5, 4)) == {"threshold": 0.5, "min_object_area": 4}


@given(st.integers(0, 2**31))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_objects_agree_with_scikit_image(seed: int) -> None:
    rng = np.random.default_rng(seed)
    probs = rng.random(rng.integers(1, 30, size=2))
    rule = ObjectRule(float(rng.uniform(0.2, 0.8)), int(rng.integers(0, 12)))
    mask = probs > rule.threshold
    outside = skimage.measure.label(np.pad(~mask, 1, constant_values=True), connectivity=1)
    found = skimage.measure.label((outside != outside[0, 0])[1:-1, 1:-1], connectivity=1)
    ours = label_objects(probs, rule)
    regions = [region for region in skimage.measure.regionprops(found) if region.area >= rule.min_object_area]
    assert ours.max() == len(regions) == len(np.unique(ours[ours > 0]))
    for region in regions:
        assert len(np.unique(ours[tuple(region.coords.T)])) == 1
        assert (ours == ours[tuple(region.coords[0])]).sum() == region.area


@pytest.mark.parametrize(
    ("threshold", "area", "message"), [(1.0, 1, "is it a logit"), (-0.1, 1, "logit"), (0.5, -1, "0")]
)
def test_a_rule_that_makes_no_sense(threshold: float, area: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"(?i){message}"):
        ObjectRule(threshold, area)


def test_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(H, W\), got \(1, 2, 2\)"):
        label_objects(np.ones((1, 2, 2)), ObjectRule(0.5, 0))
