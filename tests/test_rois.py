"""Objects of a probability map, measured against scikit-image, pycocotools and numbers made by hand."""

import numpy as np
import pytest
from pycocotools import mask as coco
from scipy import ndimage
from scipy.spatial import ConvexHull
from skimage.measure import regionprops

from src.rois import COLUMNS, PostProcess, checked_spacing, find_rois, rle, roi_row


def blobs(seed: int = 0, size: tuple[int, int] = (120, 170)) -> np.ndarray:
    """Probabilities of a few dozen objects of odd shapes, some at the border, some with holes."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(size), 4)
    return (1 / (1 + np.exp(-20 * noise))).astype(np.float32)


def by_id(labels: np.ndarray, probs: np.ndarray):
    return {region.label: region for region in regionprops(labels, intensity_image=probs)}


def test_measures_agree_with_scikit_image() -> None:
    probs = blobs()
    labels, rois = find_rois(probs, 0.6)
    assert len(rois) > 10
    independent, number = ndimage.label(probs > 0.6)  # through 4-neighbours
    assert number == len(rois) and ((labels > 0) == (independent > 0)).all()
    theirs = by_id(labels, probs)
    for roi in rois:
        region = theirs[roi.id]
        top, left, bottom, right = region.bbox
        assert roi.bbox == (left, top, right - left, bottom - top)
        assert roi.area_px == region.area and roi.area is None
        assert roi.centroid == pytest.approx(region.centroid[::-1])
        assert roi.equivalent_diameter == pytest.approx(region.equivalent_diameter_area)
        squares = np.linalg.eigvalsh(np.cov(region.coords.T, bias=True) + np.eye(2) / 12)  # pixels are no points
        assert roi.eccentricity == pytest.approx(np.sqrt(1 - squares[0] / squares[1]))
        assert roi.confidence_mean == pytest.approx(region.intensity_mean, abs=1e-6)
        assert roi.confidence_min == region.intensity_min > 0.6
        corners = np.concatenate([region.coords + shift for shift in ((0, 0), (0, 1), (1, 0), (1, 1))])
        assert roi.solidity == pytest.approx(region.area / ConvexHull(corners).volume)
        if roi.area_px > 100:  # theirs takes pixels for points, and counts the pixels of the hull
            assert roi.eccentricity == pytest.approx(region.eccentricity, abs=0.01)
            assert roi.solidity == pytest.approx(region.solidity, abs=0.05)


def test_ids_are_by_falling_area() -> None:
    labels, rois = find_rois(blobs(), 0.6)
    areas = [roi.area_px for roi in rois]
    assert areas == sorted(areas, reverse=True) and [roi.id for roi in rois] == list(range(1, len(rois) + 1))
    assert [int((labels == roi.id).sum()) for roi in rois] == areas


def test_a_rectangle_by_hand() -> None:
    probs = np.zeros((20, 30), np.float32)
    probs[5:9, 10:20] = 0.75
    probs[6, 12] = 0.625
    _, (roi,) = find_rois(probs, 0.5, spacing=(0.5, 2.0))
    assert roi.bbox == (10, 5, 10, 4) and roi.area_px == 40 and roi.area == 40.0
    assert roi.centroid == (14.5, 6.5) and roi.solidity == 1.0
    assert roi.equivalent_diameter == pytest.approx(np.sqrt(4 * 40 / np.pi))
    assert roi.confidence_mean == pytest.approx((39 * 0.75 + 0.625) / 40) and roi.confidence_min == 0.625
    assert sorted(roi.contour) == [(10, 5), (10, 8), (19, 5), (19, 8)]
    # a rectangle of 20 x 2 in units: variances side^2 / 12
    assert roi.eccentricity == pytest.approx(np.sqrt(1 - (2 / 20) ** 2))


@pytest.mark.parametrize("pixels", [[(3, 4)], [(3, 4), (3, 5)], [(3, 4), (4, 4), (5, 4)], [(3, 4), (4, 4), (4, 5)]])
def test_objects_of_few_pixels(pixels: list[tuple[int, int]]) -> None:
    probs = np.zeros((9, 9), np.float32)
    for pixel in pixels:
        probs[pixel] = 1
    _, (roi,) = find_rois(probs, 0.5)
    assert roi.area_px == len(pixels) and 0 <= roi.eccentricity < 1
    corner = len(pixels) == 3 and len({row for row, _ in pixels}) == len({column for _, column in pixels}) == 2
    assert roi.solidity == pytest.approx(3 / 3.5 if corner else 1.0)


def test_diagonal_neighbours_are_two_objects_and_the_threshold_itself_is_background() -> None:
    probs = np.array([[0.9, 0.5], [0.5, 0.9]], np.float32)
    labels, rois = find_rois(probs, 0.5)
    assert len(rois) == 2 and labels.tolist() == [[1, 0], [0, 2]]


def test_nothing_and_everything() -> None:
    assert find_rois(np.zeros((5, 6), np.float32), 0.5) == (pytest.approx(np.zeros((5, 6))), [])
    _, (roi,) = find_rois(np.ones((5, 6), np.float32), 0.5)
    assert roi.bbox == (0, 0, 6, 5) and roi.solidity == 1


def test_contours_enclose_their_object() -> None:
    import cv2

    labels, rois = find_rois(blobs(3), 0.6)
    for roi in rois:
        filled = np.zeros(labels.shape, np.uint8)
        cv2.fillPoly(filled, [np.array(roi.contour)], 1)
        assert (filled.astype(bool) == ndimage.binary_fill_holes(labels == roi.id)).all()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside pycocotools
def test_rle_is_read_by_pycocotools() -> None:
    labels, rois = find_rois(blobs(1), 0.45)
    assert len(rois) > 3
    assert any(roi.bbox[0] == 0 for roi in rois) and any(roi.bbox[0] + roi.bbox[2] == 170 for roi in rois)
    for roi in rois:
        encoded = rle(labels, roi)
        assert sum(encoded["counts"]) == labels.size
        packed = coco.frPyObjects(encoded, *labels.shape)
        assert (coco.decode(packed) == (labels == roi.id)).all() and coco.area(packed) == roi.area_px
    whole, (roi,) = find_rois(np.ones((4, 3), np.float32), 0.5)
    assert rle(whole, roi) == {"size": [4, 3], "counts": [0, 12]}


def test_nothing_is_done_to_a_mask_unless_asked_for() -> None:
    probs = blobs(2)
    labels, _ = find_rois(probs, 0.55)
    assert ((labels > 0) == (probs > 0.55)).all() and PostProcess().told() is None


def test_holes_are_filled_as_scipy_fills_them() -> None:
    mask = blobs(2) > 0.45
    filled, _ = find_rois(mask.astype(np.float32), 0.5, PostProcess(fill_holes=True))
    expected = ndimage.binary_fill_holes(mask)
    assert expected.sum() > mask.sum()  # there are holes
    assert ((filled > 0) == expected).all()


def test_small_objects_and_all_but_the_largest_are_dropped() -> None:
    probs = blobs()
    _, everything = find_rois(probs, 0.6)
    labels, large = find_rois(probs, 0.6, PostProcess(min_area=100))
    assert 1 < len(large) < len(everything) and min(roi.area_px for roi in large) >= 100
    assert large == [roi for roi in everything if roi.area_px >= 100]
    assert sorted(np.unique(labels)) == list(range(len(large) + 1))
    labels, largest = find_rois(probs, 0.6, PostProcess(largest_only=True))
    assert largest == everything[:1] and (labels > 0).sum() == everything[0].area_px
    told = PostProcess(fill_holes=True, min_area=5, largest_only=True).told()
    assert told == "holes filled, objects below 5 px dropped, largest object only"


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="min_area=-1"):
        PostProcess(min_area=-1)
    with pytest.raises(ValueError, match="largest_only=no"):
        PostProcess(largest_only="no")  # type: ignore[arg-type]
    assert checked_spacing(0.5) == (0.5, 0.5) and checked_spacing([1, 2]) == (1.0, 2.0)
    for wrong in (0, -1, [1, 2, 3], "wide", [1, None], float("inf"), float("nan")):
        with pytest.raises(ValueError, match="spacing"):
            checked_spacing(wrong)  # type: ignore[arg-type]


def test_rows_of_the_table() -> None:
    probs = np.zeros((20, 30), np.float32)
    probs[5:9, 10:20] = 0.75
    _, (roi,) = find_rois(probs, 0.5, spacing=(0.5, 0.5))
    row = roi_row(roi, "mm")
    assert tuple(row) == COLUMNS
    assert (row["x"], row["y"], row["width"], row["height"]) == (10, 5, 10, 4)
    assert (row["area_px"], row["area"], row["area_unit"], row["diameter_unit"]) == (40, 10.0, "mm2", "mm")
    _, (roi,) = find_rois(probs, 0.5)
    row = roi_row(roi, None)
    assert (row["area"], row["area_unit"], row["diameter_unit"]) == ("", "", "px")
