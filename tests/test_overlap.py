"""Overlap scores against numbers by hand and other people's code; their accumulation against the definition."""

from itertools import pairwise
from pathlib import Path

import medpy.metric.binary as medpy
import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
import torchmetrics.functional.classification as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from isic_challenge_scoring.segmentation import SegmentationScore
from monai.metrics import compute_dice, compute_iou
from PIL import Image
from torch import Tensor

from src.metrics.overlap import NAMES, POOLED, Overlap, confusion, scores, threshold_jaccard

from .overlap_worker import accumulate

TORCHMETRICS = {
    "dice": reference.binary_f1_score,
    "iou": reference.binary_jaccard_index,
    "precision": reference.binary_precision,
    "recall": reference.binary_recall,
    "specificity": reference.binary_specificity,
    "accuracy": reference.binary_accuracy,
}


def mask(*rows: str) -> Tensor:
    """One image from a picture of it, # the foreground."""
    return torch.tensor([[[character == "#" for character in row] for row in rows]])


def scored(pred: Tensor, target: Tensor) -> dict[str, float]:
    return {name: values.item() for name, values in scores(confusion(pred, target)).items()}


def random_masks(n: int, seed: int, size: tuple[int, int] = (9, 7)) -> tuple[Tensor, Tensor]:
    """Predictions and truths of very different areas, some of them empty."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2, n, 1, *size)
    area = torch.rand(2, n, 1, 1, 1, generator=generator) * 1.2 - 0.2
    pred, target = torch.rand(shape, generator=generator) < area
    return pred, target


def test_by_hand() -> None:
    target = mask("####", "#...", "....")  # 5 pixels of 12
    pred = mask("###.", "..#.", "....")
    assert confusion(pred, target).tolist() == [[3, 1, 2, 6]]
    assert scored(pred, target) == pytest.approx(
        {"dice": 6 / 9, "iou": 3 / 6, "precision": 3 / 4, "recall": 3 / 5, "specificity": 6 / 7, "accuracy": 9 / 12}
    )


@pytest.mark.parametrize(
    ("pred", "target", "expected"),  # dice, iou, precision, recall, specificity, accuracy
    [
        pytest.param("....", "....", (1, 1, 1, 1, 1, 1), id="both-empty"),
        pytest.param("....", "#...", (0, 0, 0, 0, 1, 3 / 4), id="prediction-empty"),
        pytest.param("#...", "....", (0, 0, 0, 0, 3 / 4, 3 / 4), id="truth-empty"),
        pytest.param("####", "....", (0, 0, 0, 0, 0, 0), id="all-false"),
        pytest.param("#...", ".#..", (0, 0, 0, 0, 2 / 3, 2 / 4), id="disjoint"),
        pytest.param("####", "####", (1, 1, 1, 1, 1, 1), id="both-full"),
        pytest.param("##..", "####", (2 / 3, 1 / 2, 1, 1 / 2, 1, 1 / 2), id="truth-full"),
        pytest.param("....", "####", (0, 0, 0, 0, 1, 0), id="truth-full-prediction-empty"),
    ],
)
def test_where_a_denominator_may_vanish(pred: str, target: str, expected: tuple[float, ...]) -> None:
    assert scored(mask(pred), mask(target)) == pytest.approx(dict(zip(NAMES, expected, strict=True)))


def test_per_image_and_pooled_scores_differ_and_are_named_so() -> None:
    target = torch.zeros(2, 1, 10, 10, dtype=torch.bool)
    target[0, :, :9] = True  # 90 pixels, found
    target[1, :, 0] = True  # 10 pixels, missed
    pred = target.clone()
    pred[1] = False
    overlap = Overlap()
    overlap.update(pred, target)
    values = {name: value.item() for name, value in overlap.compute().items()}
    assert tuple(values) == NAMES + POOLED
    assert values["dice"] == pytest.approx(1 / 2) and values["iou"] == pytest.approx(1 / 2)
    assert values["dice_pooled"] == pytest.approx(180 / 190) and values["iou_pooled"] == pytest.approx(90 / 100)


@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_torchmetrics_image_by_image(name: str) -> None:
    pred, target = random_masks(40, seed=1)
    usual = [i for i in range(40) if pred[i].any() and target[i].any() and not target[i].all()]
    assert len(usual) > 20  # where a denominator vanishes torchmetrics gives 0, we do not always
    ours = scores(confusion(pred, target))[name]
    for i in usual:
        expected = TORCHMETRICS[name](pred[i].int().flatten(), target[i].int().flatten())
        assert ours[i].item() == pytest.approx(expected.item(), abs=1e-6)


def test_agrees_with_monai_empty_masks_included() -> None:
    pred, target = random_masks(60, seed=7)
    ours = scores(confusion(pred, target))
    for name, theirs in (
        ("dice", compute_dice(pred, target, ignore_empty=False)),
        ("iou", compute_iou(pred, target, ignore_empty=False)),
    ):
        torch.testing.assert_close(ours[name].float(), theirs[:, 0], rtol=0, atol=1e-6)


MEDPY = {"dice": "dc", "iou": "jc", "precision": "precision", "recall": "recall", "specificity": "specificity"}


@pytest.mark.parametrize("name", MEDPY)
def test_agrees_with_medpy(name: str) -> None:
    pred, target = random_masks(60, seed=8)
    usual = [i for i in range(60) if pred[i].any() and target[i].any() and not target[i].all()]
    ours = scores(confusion(pred, target))[name]
    for i in usual:
        expected = getattr(medpy, MEDPY[name])(pred[i].numpy(), target[i].numpy())
        assert ours[i].item() == pytest.approx(expected, abs=1e-12)


def test_threshold_jaccard_by_hand() -> None:
    iou = torch.tensor([1.0, 0.65, 0.6499999, 13 / 20, 0.2, 0.0], dtype=torch.float64)
    assert threshold_jaccard(iou).tolist() == [1, 0.65, 0, 0.65, 0, 0]
    empty = torch.zeros(1, 1, 3, 3, dtype=torch.bool)
    assert threshold_jaccard(scores(confusion(empty, empty))["iou"]).item() == 1
    assert threshold_jaccard(scores(confusion(empty, ~empty))["iou"]).item() == 0


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # pandas, inside the scorer
def test_agrees_with_the_official_isic_scorer(tmp_path: Path) -> None:
    """On PNG files: grey predictions around the level of 128, images of several sizes, empty masks, an IoU of 13/20."""
    rng = np.random.default_rng(0)
    empty, full = np.zeros((5, 20)), np.full((5, 20), 255)
    part = np.where(np.arange(20) < 13, full, 0)
    pairs = [(empty, empty), (empty, full), (full, empty), (part, full)]
    for flips in np.linspace(0, 0.5, 40):
        truth = rng.random(rng.integers(4, 40, size=2)) < 0.6
        dark, bright = rng.integers(0, 129, truth.shape), rng.integers(129, 256, truth.shape)
        pairs.append((np.where(truth ^ (rng.random(truth.shape) < flips), bright, dark), 255 * truth))
    per_image = []
    for i, images in enumerate(pairs):
        masks = []
        for folder, image in zip(("prediction", "truth"), images, strict=True):
            file = tmp_path / folder / f"ISIC_{i:07}_segmentation.png"
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(image.astype(np.uint8)).save(file)
            masks.append(torch.from_numpy(np.array(Image.open(file)) > 128)[None])
        per_image.append(scores(confusion(*masks)))
    official = SegmentationScore.from_dir(tmp_path / "truth", tmp_path / "prediction")
    ours = {name: torch.cat([row[name] for row in per_image]) for name in NAMES}
    thresholded = threshold_jaccard(ours["iou"])
    assert (thresholded == 0).sum() > 5 and (thresholded > 0).sum() > 5
    assert thresholded.mean().item() == pytest.approx(official.overall, abs=1e-6)
    for name, theirs in (
        ("iou", "jaccard"),
        ("dice", "dice"),
        ("accuracy", "accuracy"),
        ("specificity", "specificity"),
    ):
        assert ours[name].mean().item() == pytest.approx(official.macro_average[theirs], abs=1e-6)


def test_pooled_scores_agree_with_torchmetrics() -> None:
    pred, target = random_masks(12, seed=2)
    overlap = Overlap()
    overlap.update(pred, target)
    for name in ("dice", "iou"):
        expected = TORCHMETRICS[name](pred.int(), target.int())
        assert overlap.compute()[f"{name}_pooled"].item() == pytest.approx(expected.item(), abs=1e-6)


@given(seed=st.integers(0, 2**31), cuts=st.lists(st.integers(0, 10), max_size=4))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_batching_does_not_matter(seed: int, cuts: list[int]) -> None:
    pred, target = random_masks(10, seed)
    batched, edges = Overlap(), sorted({0, 10, *cuts})
    for start, end in pairwise(edges):
        batched.update(pred[start:end], target[start:end])
    per_image = scores(confusion(pred, target))
    values = batched.compute()
    for name in NAMES:
        assert values[name].item() == pytest.approx(per_image[name].mean().item(), abs=1e-12)
    sums = scores(confusion(pred, target).sum(0, keepdim=True))
    assert [values[name].item() for name in POOLED] == [sums["dice"].item(), sums["iou"].item()]


@given(seed=st.integers(0, 2**31))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_bounds_and_relations(seed: int) -> None:
    pred, target = random_masks(6, seed)
    values, swapped = scores(confusion(pred, target)), scores(confusion(target, pred))
    for value in values.values():
        assert value.dtype == torch.float64 and ((value >= 0) & (value <= 1)).all()
    torch.testing.assert_close(values["iou"], values["dice"] / (2 - values["dice"]))
    assert (values["iou"] <= values["dice"]).all()
    torch.testing.assert_close(values["dice"], swapped["dice"])
    torch.testing.assert_close(values["precision"], swapped["recall"])


@given(seed=st.integers(0, 2**31))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_nothing_but_the_pixels_matters(seed: int) -> None:
    pred, target = random_masks(6, seed)
    values = scores(confusion(pred, target))
    for same in (lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: x.mT):
        assert confusion(same(pred), same(target)).equal(confusion(pred, target))
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    for name, value in scores(confusion(pred[order], target[order])).items():
        assert value.equal(values[name][order])


def test_two_processes_share_the_images_as_one_has_them(tmp_path: Path) -> None:
    sets = [random_masks(n, seed=n) for n in (7, 8, 1)]  # shards of 4 and 3, of 4 and 4, of 1 and none
    torch.save(sets, tmp_path / "sets.pt")
    mp.spawn(accumulate, args=(2, tmp_path), nprocs=2)
    for rank in range(2):
        for (pred, target), (together, images) in zip(sets, torch.load(tmp_path / f"rank{rank}.pt"), strict=True):
            alone = Overlap()
            alone.update(pred, target)
            assert images == len(pred)
            for name, value in alone.compute().items():
                torch.testing.assert_close(together[name], value, rtol=1e-12, atol=0)


@pytest.mark.parametrize("way", ["merge", "gather"])
def test_two_states_together_give_what_one_does(way: str) -> None:
    pred, target = random_masks(8, seed=3)
    alone, first, second = Overlap(), Overlap(), Overlap()
    alone.update(pred, target)
    first.update(pred[:3], target[:3])  # not the same number of images: a mean of means would differ
    second.update(pred[3:], target[3:])
    if way == "merge":
        first.merge_state(second)
    else:  # as in a process group, where each state is gathered in turn, then reduced
        others = iter([getattr(second, name) for name in second._reductions])
        first.dist_sync_fn = lambda state, group=None: [state, next(others)]
        first.distributed_available_fn = lambda: True
    together = first.compute()
    for name, value in alone.compute().items():
        torch.testing.assert_close(together[name], value, rtol=1e-12, atol=0)


def test_a_call_scores_its_batch_and_accumulates() -> None:
    pred, target = random_masks(6, seed=4)
    called, updated = Overlap(), Overlap()
    per_image = scores(confusion(pred, target))["dice"]
    for half in (slice(0, 2), slice(2, 6)):
        assert called(pred[half], target[half])["dice"].item() == pytest.approx(per_image[half].mean().item())
        updated.update(pred[half], target[half])
    assert {k: v.item() for k, v in called.compute().items()} == {k: v.item() for k, v in updated.compute().items()}
    called.reset()
    called.update(pred[:1], target[:1])
    assert called.compute()["dice"].item() == per_image[0].item()


def test_large_images_do_not_lose_counts() -> None:
    pred = torch.ones(3, 1, 2500, 2500, dtype=torch.bool)  # 1.9e7 pixels: float32 counts stop at 1.7e7
    target = pred.clone()
    target[2, :, 0, 0] = False
    overlap = Overlap()
    overlap.update(pred, target)
    assert overlap.counts.tolist() == [3 * 2500**2 - 1, 1, 0, 0]
    assert overlap.compute()["iou_pooled"].item() == 1 - 1 / (3 * 2500**2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.int64])
def test_masks_must_be_boolean(dtype: torch.dtype) -> None:
    boolean = torch.ones(1, 4, 4, dtype=torch.bool)
    for pred, target in ((boolean.to(dtype), boolean), (boolean, boolean.to(dtype))):
        with pytest.raises(ValueError, match=rf"masks must be boolean.*{dtype}.*Threshold"):
            Overlap().update(pred, target)


@pytest.mark.parametrize("shape", [(2, 4, 4), (1, 4, 5), (1, 1, 4, 4)])
def test_masks_must_have_one_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"differ in shape: \(1, 4, 4\) and"):
        Overlap().update(torch.ones(1, 4, 4, dtype=torch.bool), torch.ones(shape, dtype=torch.bool))
