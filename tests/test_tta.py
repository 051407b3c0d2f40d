"""Test-time augmentation and mixed precision of the Segmenter."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from src.inference import TTA, Segmenter, resize_image

from .test_inference import MEAN, NATIVE, STD, images, small_net

SQUARE = (32, 32)


def looking(net: nn.Module, **settings) -> Segmenter:
    return Segmenter(net, size=SQUARE, mean=MEAN, std=STD, **settings)


def logits(segmenter: Segmenter, image: np.ndarray) -> np.ndarray:
    return segmenter.predict([image])[0].layers[0][0][0, 0].numpy()


@pytest.mark.parametrize(("tta", "number"), [("flips", 4), ("d4", 8)])
def test_logits_are_the_mean_over_all_views(tta: str, number: int) -> None:
    """numpy turns the small image and turns the logits back; every view is another one."""
    image = resize_image(images([(64, 96)])[0], SQUARE)  # what the network sees, so that nothing is resized below
    plain = looking(small_net())
    turns = (0, 2) if tta == "flips" else (0, 1, 2, 3)
    views = []
    for k in turns:
        for mirrored in (False, True):
            seen = np.rot90(image[:, ::-1] if mirrored else image, k)
            back = np.rot90(logits(plain, np.ascontiguousarray(seen)), -k)
            views.append(back[:, ::-1] if mirrored else back)
    assert len(views) == number == len(TTA[tta])
    assert len({view.tobytes() for view in views}) == number
    np.testing.assert_allclose(logits(looking(small_net(), tta=tta), image), np.mean(views, axis=0), atol=1e-5)


@pytest.mark.parametrize("tta", ["flips", "d4"])
def test_what_is_predicted_turns_with_the_image(tta: str) -> None:
    ours, (image,) = looking(small_net(), tta=tta), images([(40, 64)])
    expected = ours.probabilities([image])[0]
    for turned in (lambda x: x[::-1], lambda x: x[:, ::-1], *((np.rot90,) if tta == "d4" else ())):
        again = ours.probabilities([np.ascontiguousarray(turned(image))])[0]
        np.testing.assert_allclose(again, turned(expected), atol=5e-3)  # resizing rounds to 8 bits


def test_a_network_without_direction_gains_nothing() -> None:
    class Brightness(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image[:, :1]

    (image,) = images([(50, 70)])
    for mode in ("full", "coarse_to_fine", "tiled"):
        one, eight = (looking(Brightness(), tta=tta, mode=mode).probabilities([image])[0] for tta in ("none", "d4"))
        np.testing.assert_allclose(one, eight, atol=1e-6)


def test_ways_of_looking_have_names_and_are_told() -> None:
    assert looking(small_net()).way == "full" and looking(small_net()).protocol()["tta"] is None
    ours = looking(small_net(), mode="coarse_to_fine", tta="d4")
    assert ours.way == "coarse_to_fine+d4" and ours.protocol()["tta"] == "d4: mean of the logits of 8 views"


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_half_precision_is_close_and_returns_float32(precision: str) -> None:
    seen: list[torch.dtype] = []
    net = small_net()
    net[0].register_forward_hook(lambda module, given, result: seen.append(result.dtype))
    given = images(NATIVE)
    whole = looking(small_net()).probabilities(given)
    half = looking(net, precision=precision).probabilities(given)
    assert set(seen) == {torch.bfloat16 if precision == "bf16-mixed" else torch.float16}
    for one, other in zip(whole, half, strict=True):
        assert other.dtype == np.float32 and 0 < np.abs(one - other).max() < 0.2


def test_unknown_words_are_refused() -> None:
    with pytest.raises(ValueError, match=r"tta='flip' is not known\. Possible: none, flips, d4"):
        looking(small_net(), tta="flip")
    with pytest.raises(ValueError, match="precision='bf16' is not known"):
        looking(small_net(), precision="bf16")
