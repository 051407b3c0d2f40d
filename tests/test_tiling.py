"""Windows and their blend, against the same sums in float64 over the whole image and against MONAI."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.inferers import sliding_window_inference
from monai.utils import BlendMode
from torch import Tensor, nn

from src.inference import Segmenter, channel_stats, normalize
from src.tiling import blend, gaussian, number_of_windows, starts

from .test_inference import MEAN, STD, small_net


@pytest.mark.parametrize("length", [1, 31, 32, 33, 64, 100, 1000])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
def test_windows_cover_everything_evenly(length: int, overlap: float) -> None:
    window = min(32, length)
    firsts = starts(length, window, overlap)
    assert firsts[0] == 0 and firsts[-1] == length - window and firsts == sorted(set(firsts))
    steps = np.diff(firsts)
    assert len(steps) == 0 or (steps.max() <= max(1, int(window * (1 - overlap))) and steps.max() - steps.min() <= 1)


def test_weights_are_monais() -> None:
    from monai.data.utils import compute_importance_map

    theirs = compute_importance_map((32, 48), mode="gaussian", sigma_scale=0.125)
    torch.testing.assert_close(gaussian(32, 48), theirs, rtol=1e-5, atol=1e-6)


def test_a_blend_is_the_weighted_mean_of_all_windows() -> None:
    shape, window = (83, 131), (32, 48)
    generator = torch.Generator().manual_seed(0)
    answers: dict[tuple[int, int], Tensor] = {}

    def logits_of(windows):
        for rows, columns in windows:
            answers[rows.start, columns.start] = torch.randn(1, 1, 16, 24, generator=generator)
        return [answers[rows.start, columns.start] for rows, columns in windows]

    seen: list[int] = []
    ours = blend(logits_of, shape, window, overlap=0.4, batch_size=2, done=seen.append)
    assert sum(seen) == len(answers) == number_of_windows(shape, window, 0.4) > 12 and max(seen) <= 2
    total, weight = np.zeros(shape), np.zeros(shape)
    weights = np.asarray(gaussian(*window), np.float64)
    for (top, left), logits in answers.items():
        native = F.interpolate(logits.double(), size=window, mode="bilinear", align_corners=False)[0, 0].numpy()
        total[top : top + 32, left : left + 48] += native * weights
        weight[top : top + 32, left : left + 48] += weights
    np.testing.assert_allclose(ours[0, 0].numpy(), total / weight, atol=1e-5)


def tiled(net: nn.Module, **settings) -> Segmenter:
    return Segmenter(net, size=(32, 32), mean=MEAN, std=STD, mode="tiled", **settings)


def test_windows_at_native_scale_equal_monais_sliding_window() -> None:
    """Where both place windows alike: a side of 32 + 3 * 24 px, a quarter overlapping."""
    image = np.random.default_rng(0).integers(0, 256, (104, 128, 3), dtype=np.uint8)
    net = small_net().eval()
    (probs,) = tiled(net, tile=32, overlap=0.25).probabilities([image])
    normal = normalize(torch.from_numpy(image.transpose(2, 0, 1)[None].copy()), channel_stats(MEAN), channel_stats(STD))
    with torch.inference_mode():
        theirs = sliding_window_inference(normal, (32, 32), 4, net, overlap=0.25, mode=BlendMode.GAUSSIAN)
    assert isinstance(theirs, Tensor)
    np.testing.assert_allclose(probs, theirs[0, 0].sigmoid().numpy(), atol=1e-4)


class Brightness(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return 4 * image[:, :1]


@pytest.mark.parametrize("shape", [(40, 300), (300, 40), (129, 257), (20, 100)])
@pytest.mark.parametrize("tile", [32, 50, 64])
def test_a_network_that_sees_one_pixel_gives_the_same_in_any_window(shape: tuple[int, int], tile: int) -> None:
    """A smooth image, for windows are resized on the way: each pixel comes back to its place."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    plane = 127 + 60 * np.sin(x / 25) + 60 * np.cos(y / 25)
    image = np.repeat(plane.round().astype(np.uint8)[..., None], 3, axis=2)
    (probs,) = Segmenter(
        Brightness(), size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3, mode="tiled", tile=tile
    ).probabilities([image])
    expected = 1 / (1 + np.exp(-4 * (image[..., 0] / 255 - 0.5) / 0.5))
    assert probs.shape == shape
    assert np.abs(probs - expected).max() < 0.06


def test_images_that_fit_into_a_window_are_seen_whole() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 64, 3), dtype=np.uint8)
    net = small_net()
    whole = Segmenter(net, size=(32, 32), mean=MEAN, std=STD).probabilities([image])[0]
    assert (tiled(net, tile=64).probabilities([image])[0] == whole).all()
    assert (tiled(net, tile=63).probabilities([image])[0] != whole).any()


def test_the_network_sees_windows_one_batch_at_a_time() -> None:
    class Counting(Brightness):
        batches: list[tuple[int, ...]] = []  # noqa: RUF012

        def forward(self, image: Tensor) -> Tensor:
            self.batches.append(tuple(image.shape))
            return super().forward(image)

    image = np.zeros((100, 400, 3), np.uint8)
    tiled(Counting(), tile=64, overlap=0, batch_size=3).probabilities([image])
    assert sum(shape[0] for shape in Counting.batches) == math.ceil(100 / 64) * math.ceil(400 / 64)
    assert {shape[0] for shape in Counting.batches} == {3, 1} and {shape[1:] for shape in Counting.batches} == {
        (3, 32, 32)
    }


def test_settings_out_of_range_are_refused() -> None:
    for settings, said in (
        ({"tile": 31}, "tile=31"),
        ({"overlap": 1.0}, "overlap=1.0"),
        ({"batch_size": 0}, "batch_size=0"),
    ):
        with pytest.raises(ValueError, match=said):
            tiled(small_net(), **settings)


def test_the_protocol_tells_the_windows() -> None:
    told = tiled(small_net(), tile=64, overlap=0.5).protocol()
    assert told["mode"] == "tiled" and told["tiles"].startswith("windows of 64 px, overlap 0.5")
