"""Every shipped loss against independent references and numbers worked out by hand, the empty mask included."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from monai.losses import DiceLoss as MonaiDice
from monai.losses import FocalLoss as MonaiFocal
from monai.losses import TverskyLoss as MonaiTversky
from omegaconf import OmegaConf
from scipy import ndimage
from segmentation_models_pytorch.losses import DiceLoss as SmpDice
from torch import Tensor, nn

from src.losses import BCELoss, DeepSupervision, GapBCELoss, TverskyLoss, WeightedSum, narrow

from .conftest import REPO

CONFIGS = {path.stem: path for path in sorted((REPO / "conf" / "loss").rglob("*.yaml"))}
OVER_PIXELS = ("bce", "focal")  # their value per image is a mean over its pixels, so a tiny object weighs little
every_loss = pytest.mark.parametrize("name", CONFIGS)


def make(name: str) -> nn.Module:
    return instantiate(OmegaConf.load(CONFIGS[name]))


def batch_of(*, size: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random logits on masks of unlike area: random, all background, all foreground, small."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.zeros(4, 1, size, size)
    target[0] = (torch.rand(1, size, size, generator=generator) > 0.6).float()
    target[2] = 1
    target[3, :, 2:4, 5:8] = 1
    return 3 * torch.randn(4, 1, size, size, generator=generator), target


def test_the_shipped_losses_are_these_nine() -> None:
    one_of_each = {"bce", "dice", "iou", "focal", "tversky", "focal_tversky", "lovasz"}
    assert set(CONFIGS) == one_of_each | {"bce_dice", "gap_bce_dice"}
    assert "loss: bce_dice" in (REPO / "conf" / "train.yaml").read_text()


@every_loss
def test_a_batch_costs_the_mean_of_its_images(name: str) -> None:
    loss, (logits, target) = make(name), batch_of()
    alone = [loss(logits[i : i + 1], target[i : i + 1]) for i in range(4)]
    assert len({round(value.item(), 4) for value in alone}) == 4  # else pooling could not show
    torch.testing.assert_close(loss(logits, target), torch.stack(alone).mean(), rtol=1e-6, atol=1e-6)


@every_loss
@pytest.mark.parametrize("scale", [1e4, 1e-8])
def test_gradients_are_finite_at_extreme_logits(name: str, scale: float) -> None:
    target = batch_of()[1]
    signs = torch.where(torch.arange(16) % 2 == 0, 1.0, -1.0)  # right and wrong in every image
    for logits in (scale * signs.expand_as(target), scale * (2 * target - 1), -scale * (2 * target - 1)):
        logits = logits.clone().requires_grad_()
        value = make(name)(logits, target)
        value.backward()
        assert value.isfinite() and value.shape == () and logits.grad is not None and logits.grad.isfinite().all()


@every_loss
def test_every_pixel_of_a_poor_prediction_gets_a_gradient(name: str) -> None:
    logits = torch.zeros(4, 1, 16, 16, requires_grad=True)
    target = batch_of()[1]
    make(name)(logits, target).backward()
    wrong_way = torch.where(target > 0, -1.0, 1.0)  # more logit costs on background, less on foreground
    assert logits.grad is not None and (logits.grad * wrong_way >= 0).all()
    if name != "lovasz":  # there the ties are broken by order, and an empty mask is charged for its worst pixel alone
        assert (logits.grad != 0).all()


@every_loss
def test_a_better_prediction_costs_less(name: str) -> None:
    target = batch_of()[1]
    values = [make(name)(margin * (2 * target - 1), target).item() for margin in (-4.0, -1.0, 0.0, 0.5, 4.0)]
    assert values == sorted(values, reverse=True) and len(set(values)) == len(values)
    assert make(name)(20 * (2 * target - 1), target).item() < 1e-4


@every_loss
def test_a_false_positive_on_an_empty_mask_costs(name: str) -> None:
    target = torch.zeros(1, 1, 32, 32)
    clean = torch.full_like(target, -10)
    false_positive = clean.clone()
    false_positive[..., 4:7, 4:7] = 10
    assert make(name)(false_positive, target) > make(name)(clean, target) + 0.01


@every_loss
def test_a_missed_tiny_object_is_not_hidden_by_a_perfect_large_one(name: str) -> None:
    target = torch.zeros(2, 1, 64, 64)
    target[0, :, 4:60, 4:60] = 1
    target[1, :, 30:33, 30:33] = 1
    logits = 15 * (2 * target - 1)
    logits[1] = -15
    missed = make(name)(logits[1:], target[1:])
    torch.testing.assert_close(make(name)(logits, target), missed / 2, rtol=1e-3, atol=1e-4)
    if name not in OVER_PIXELS:
        assert make(name)(logits, target) > 0.3
        assert SmpDice(mode="binary")(logits, target) < 0.005  # the same predictions, pooled


def _entropies(logits: Tensor, target: Tensor) -> Tensor:
    probs = logits.double().sigmoid()
    return -(target * probs.log() + (1 - target) * (1 - probs).log())


def _bce(logits: Tensor, target: Tensor) -> Tensor:
    return _entropies(logits, target).mean()


def _gaps(mask: np.ndarray, radius: int) -> np.ndarray:
    """Background less its opening by the square, whose centre stays in the image; outside there are no objects."""
    square = np.ones((2 * radius + 1, 2 * radius + 1), bool)
    return ~mask & ~ndimage.binary_dilation(ndimage.binary_erosion(~mask, square, border_value=1), square)


def _gap_bce(logits: Tensor, target: Tensor) -> Tensor:
    gaps = torch.stack([torch.tensor(_gaps(mask[0].numpy() > 0, 8)) for mask in target])[:, None].double()
    return (_entropies(logits, target) * (1 + 5 * gaps)).mean()


# with sigmoid=True MONAI takes every image by itself; its Dice counts each overlap twice, hence smooth terms of 2
MONAI: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "bce": _bce,
    "dice": MonaiDice(sigmoid=True, batch=False, smooth_nr=2, smooth_dr=2),
    "bce_dice": lambda x, t: _bce(x, t) + MonaiDice(sigmoid=True, batch=False, smooth_nr=2, smooth_dr=2)(x, t),
    "gap_bce_dice": lambda x, t: _gap_bce(x, t) + MonaiDice(sigmoid=True, batch=False, smooth_nr=2, smooth_dr=2)(x, t),
    "iou": MonaiDice(sigmoid=True, jaccard=True, batch=False, smooth_nr=2, smooth_dr=2),
    "tversky": MonaiTversky(sigmoid=True, alpha=0.3, beta=0.7, smooth_nr=1, smooth_dr=1),
    "focal_tversky": lambda x, t: (
        MonaiTversky(sigmoid=True, alpha=0.3, beta=0.7, smooth_nr=1, smooth_dr=1, reduction="none")(x, t)
        .pow(0.75)
        .mean()
    ),
    "focal": MonaiFocal(gamma=2.0, alpha=0.25, use_softmax=False),
}


@pytest.mark.parametrize("name", MONAI)
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_monai(name: str, seed: int) -> None:
    logits, target = batch_of(size=48, seed=seed)
    expected = MONAI[name](logits, target).float()
    torch.testing.assert_close(make(name)(logits, target), expected, rtol=1e-5, atol=1e-6)


def test_every_loss_has_a_reference() -> None:
    assert {*MONAI, "lovasz"} == set(CONFIGS)


# probabilities 0.8 and 0.6 on the object, 0.5 and 0.2 beside it: TP 1.4, FP 0.7, FN 0.6, and one pixel of smoothing
LN = {p: -math.log(p) for p in (0.5, 0.6, 0.8)}
BY_HAND = {
    "dice": 1 - 2.4 / (1.4 + 0.65 + 1),
    "iou": 1 - 2.4 / (1.4 + 1.3 + 1),
    "tversky": 1 - 2.4 / (1.4 + 0.3 * 0.7 + 0.7 * 0.6 + 1),
    "focal_tversky": (1 - 2.4 / 3.03) ** 0.75,
    "bce": (2 * LN[0.8] + LN[0.6] + LN[0.5]) / 4,
    "bce_dice": (2 * LN[0.8] + LN[0.6] + LN[0.5]) / 4 + 1 - 2.4 / 3.05,
    "focal": (0.25 * (0.04 * LN[0.8] + 0.16 * LN[0.6]) + 0.75 * (0.25 * LN[0.5] + 0.04 * LN[0.8])) / 4,
}


@pytest.mark.parametrize("name", BY_HAND)
def test_agrees_with_numbers_by_hand(name: str) -> None:
    logits = torch.tensor([0.8, 0.6, 0.5, 0.2]).logit().reshape(1, 1, 2, 2)
    target = torch.tensor([1, 1, 0, 0], dtype=torch.uint8).reshape(1, 1, 2, 2)  # bytes, as batches bring them
    assert make(name)(logits, target).item() == pytest.approx(BY_HAND[name], abs=1e-6)


def test_lovasz_by_hand() -> None:
    # hinge errors -1, 2 (missed), 1.5 (false), -2. Missing one of two pixels loses 1/2 of the Jaccard index, the false
    # one beside it brings the loss to 2/3: 2 * 1/2 + 1.5 * (2/3 - 1/2) = 1.25
    logits = torch.tensor([2.0, -1.0, 0.5, -3.0]).reshape(1, 1, 2, 2)
    target = torch.tensor([1.0, 1.0, 0.0, 0.0]).reshape(1, 1, 2, 2)
    assert make("lovasz")(logits, target).item() == pytest.approx(1.25, abs=1e-6)


def _lovasz(logits: np.ndarray, target: np.ndarray) -> float:
    """Berman et al., CVPR 2018, definition 1: sum_i m_i (D({p_1..p_i}) - D({p_1..p_i-1})), errors m sorted downwards;
    D(M) = |M| / |object + M| is the Jaccard loss of mistaking the pixels M."""
    y = target.ravel() > 0
    errors = np.maximum(0, 1 - logits.ravel() * np.where(y, 1, -1))
    inside, mistaken, before, total = set(np.flatnonzero(y)), set(), 0.0, 0.0
    for pixel in np.argsort(-errors):
        mistaken.add(pixel)
        jaccard_loss = len(mistaken) / len(inside | mistaken)
        total += errors[pixel] * (jaccard_loss - before)
        before = jaccard_loss
    return total


@pytest.mark.parametrize("seed", range(4))
def test_lovasz_agrees_with_its_definition(seed: int) -> None:
    logits, target = batch_of(size=8, seed=seed)
    expected = np.mean([_lovasz(*pair) for pair in zip(logits.double().numpy(), target.numpy(), strict=True)])
    assert make("lovasz")(logits, target).item() == pytest.approx(expected, rel=1e-5)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(name: str, dtype: torch.dtype) -> None:
    target = torch.ones(1, 1, 300, 300, dtype=torch.uint8)  # 90000 pixels, above float16's 65504
    logits = torch.full((1, 1, 300, 300), -1.0)
    logits[..., :100] = 2.0
    half = logits.to(dtype).requires_grad_()
    value = make(name)(half, target)
    value.backward()
    torch.testing.assert_close(value, make(name)(logits, target), rtol=1e-6, atol=0)
    assert half.grad is not None and half.grad.isfinite().all()


@every_loss
@pytest.mark.parametrize("auxiliaries", [1, 3])
def test_deep_supervision_wraps_any_loss(name: str, auxiliaries: int) -> None:
    loss, target = make(name), batch_of()[1]
    planes = [batch_of(seed=seed)[0].requires_grad_() for seed in range(auxiliaries + 1)]
    value = DeepSupervision(loss)(planes, target)
    by_plane = [loss(plane, target).item() for plane in planes]
    assert value.item() == pytest.approx(by_plane[0] + 0.4 * sum(by_plane[1:]) / auxiliaries, rel=1e-5)
    value.backward()
    assert all(plane.grad is not None and plane.grad.any() for plane in planes)
    assert DeepSupervision(loss)(planes[0], target).item() == by_plane[0]  # in evaluation there are no auxiliaries


def test_deep_supervision_weight() -> None:
    logits, target = batch_of()
    main = BCELoss()(logits, target)
    torch.testing.assert_close(DeepSupervision(BCELoss(), weight=2.5)([logits, logits], target), 3.5 * main)


def test_weighted_sum() -> None:
    logits, target = batch_of()
    parts = [BCELoss(), TverskyLoss()]
    expected = 2 * parts[0](logits, target) + 0.5 * parts[1](logits, target)
    torch.testing.assert_close(WeightedSum(losses=parts, weights=[2, 0.5])(logits, target), expected)
    with pytest.raises(ValueError, match="2 losses but 1 weights"):
        WeightedSum(losses=parts, weights=[1.0])


def test_smoothing_is_in_pixels() -> None:
    target = torch.zeros(1, 1, 8, 8)
    target[..., 0, :4] = 1
    missed = torch.full_like(target, -30)  # TP = FP = 0, FN = 4
    for smooth in (0.1, 1.0, 6.0):
        assert TverskyLoss(smooth=smooth)(missed, target).item() == pytest.approx(1 - smooth / (2 + smooth), abs=1e-6)


@pytest.mark.parametrize("radius", [1, 3, 8])
def test_narrow_background_is_what_an_opening_removes(radius: int) -> None:
    rng = np.random.default_rng(radius)
    masks = ndimage.gaussian_filter(rng.standard_normal((3, 1, 40, 56)), (0, 0, 2, 2)) > 0.05
    found = narrow(torch.tensor(masks, dtype=torch.float32), radius).numpy()
    for mask, gaps in zip(masks[:, 0], found[:, 0], strict=True):
        expected = _gaps(mask, radius)
        assert 0 < expected.mean() < 1 and np.array_equal(gaps, expected)


def test_a_gap_between_two_objects_costs_more_than_open_background() -> None:
    target = torch.zeros(1, 1, 30, 60)
    target[..., 5:25, 10:20] = target[..., 5:25, 23:33] = 1  # three px apart
    logits = torch.where(target > 0, 20.0, -20.0)

    def costs(column: int) -> float:
        wrong = logits.clone()
        wrong[..., 10, column] = 20.0
        return GapBCELoss(radius=2, weight=5.0)(wrong, target).item()

    assert costs(21) == pytest.approx(6 * costs(45), rel=1e-4) and costs(45) == pytest.approx(20 / 1800, rel=1e-4)
    plain = GapBCELoss(radius=2, weight=0.0)(logits, target)
    assert plain == BCELoss()(logits, target)


@pytest.mark.parametrize("options", [{"radius": 0}, {"radius": 2.5}, {"weight": -1.0}])
def test_impossible_gaps_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="radius is a whole number from 1 px, weight not below 0"):
        GapBCELoss(**options)
