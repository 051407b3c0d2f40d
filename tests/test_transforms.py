"""Crops and augmentation are pure functions of (seed, epoch, sample id), whichever process calls them, and exact."""

import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.data.datamodule import SegmentationDataModule
from src.data.sampler import EpochSampler
from src.data.splits import Split
from src.data.transforms import (
    CROPS,
    augment,
    draw_kind,
    lesion_box,
    make_augment,
    mix_box,
    resize_image,
    resize_mask,
    sample_key,
    view,
)

EVERYTHING = {"flip": 0.5, "rotate": 1.0, "scale": 1.0, "color": 1.0, "distort": 0.5, "blur": 0.5}
OFF = dict.fromkeys(EVERYTHING, 0.0)
# 8 workers on fewer cores is the point of a test, not a mistake
crowded = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


def one_picture(size: tuple[int, int] = (60, 80)) -> tuple[np.ndarray, np.ndarray]:
    """Coarse noise, and a lesion with no symmetry away from the middle."""
    height, width = size
    noise = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    mask = np.zeros(size, dtype=np.uint8)
    mask[height // 6 : height // 2, width // 2 : width * 3 // 4] = 1
    mask[height // 3 : height // 2, width // 3 : width // 2] = 1
    return cv2.resize(noise, (width, height)), mask


class OnePicture(SegmentationDataModule):
    """Every sample is the same picture, so that what differs between samples is the augmentation alone."""

    dataset = "one_picture"
    picture = one_picture()

    def make_split(self) -> Split:
        ids = tuple(f"sample_{i:02d}" for i in range(36))
        return Split(self.split_name, self.dataset, {"train": ids[:32], "val": ids[32:], "test": ()})

    def ids_on_disk(self) -> set[str]:
        return set().union(*self.parts.values())

    def load(self, sample_id: str) -> tuple[np.ndarray, np.ndarray]:
        return self.picture


def one_picture_data(*, workers: int = 0, augment: Mapping[str, float] = EVERYTHING, **options: Any) -> OnePicture:
    return OnePicture(root="", size=32, batch_size=5, num_workers=workers, augment=augment, **options)


Stream = list[tuple[str, bytes, bytes]]


def stream(loader: torch.utils.data.DataLoader, epoch: int = 0, seen: int = 0) -> Stream:
    """(id, image, mask) of each sample of one pass through a training loader, in order."""
    loader.sampler.position = lambda: (epoch, seen)  # type: ignore[attr-defined]  # what a Trainer would say
    return [
        (id_, image.numpy().tobytes(), mask.numpy().tobytes())
        for batch in loader
        for id_, image, mask in zip(batch["id"], batch["image"], batch["mask"], strict=True)
    ]


# ---- the stream of training samples


@crowded
@pytest.mark.parametrize("workers", [1, 8])
@pytest.mark.parametrize("mode", ["full", "mixed"])
def test_the_stream_is_one_for_any_number_of_workers(workers: int, mode: str) -> None:
    """Two epochs through one loader, whose workers persist, and again through a fresh loader for each."""
    here = one_picture_data(crop=mode, seed=3).train_dataloader()
    expected = [stream(here, 0), stream(here, 1)]
    source = one_picture_data(crop=mode, seed=3, workers=workers)
    persistent = source.train_dataloader()
    assert persistent.persistent_workers and persistent.num_workers == workers
    assert [stream(persistent, 0), stream(persistent, 1)] == expected
    assert stream(source.train_dataloader(), 1) == expected[1]


@crowded
@pytest.mark.parametrize("workers", [0, 2])
def test_every_sample_of_every_epoch_is_augmented_in_its_own_way(workers: int) -> None:
    loader = one_picture_data(workers=workers).train_dataloader()
    epochs = [stream(loader, epoch) for epoch in range(3)]
    for samples in epochs:
        assert len({image for _, image, _ in samples}) == len(samples) == 32
    assert len({image for samples in epochs for _, image, _ in samples}) == 3 * 32
    assert len({mask for samples in epochs for _, _, mask in samples}) > 60  # masks too: flips and turns


def test_epochs_repeat_exactly_and_seeds_differ() -> None:
    def by_id(seed: int, epoch: int) -> dict[str, bytes]:
        return {id_: image for id_, image, _ in stream(one_picture_data(seed=seed).train_dataloader(), epoch)}

    assert by_id(0, 4) == by_id(0, 4)
    for seed, epoch in ((0, 5), (1, 4)):
        other = by_id(seed, epoch)
        assert not any(image == other[id_] for id_, image in by_id(0, 4).items())


def test_the_stream_ignores_global_random_states() -> None:
    source, streams = one_picture_data(crop="mixed"), []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        streams.append(stream(source.train_dataloader(), 0))
    assert streams[0] == streams[1]


@pytest.mark.parametrize("done", [5, 15, 30])
def test_a_resumed_epoch_goes_on_exactly(done: int) -> None:
    source = one_picture_data(crop="mixed")
    whole, resumed = source.train_dataloader(), source.train_dataloader()
    expected = stream(whole, 2)[done:] + stream(whole, 3)
    assert stream(resumed, 2, seen=done) + stream(resumed, 3) == expected


@pytest.mark.parametrize("mode", CROPS)
def test_training_images_and_masks_stay_on_each_other(mode: str) -> None:
    source = one_picture_data(crop=mode, augment={**OFF, "flip": 0.5})
    mask = one_picture()[1]
    source.picture = np.repeat(mask[..., None] * 255, 3, axis=2), mask
    for batch in source.train_dataloader():
        apart = (batch["image"][:, :1] > 127) != (batch["mask"] > 0)
        assert apart.float().mean() < 0.03 < batch["mask"].float().mean()  # the outline alone, by rounding


def test_validation_is_neither_cropped_nor_augmented() -> None:
    source = one_picture_data(crop="lesion", augment={**EVERYTHING, "flip": 1.0})
    (batch,) = source.val_dataloader()
    image, mask = source.picture
    assert batch["id"] == list(source.parts["val"])
    for i in range(4):
        assert (batch["image"][i].numpy() == resize_image(image, (32, 32)).transpose(2, 0, 1)).all()
        assert (batch["mask"][i, 0].numpy() == resize_mask(mask, (32, 32))).all()
    (again,) = source.val_dataloader()
    assert torch.equal(batch["image"], again["image"]) and torch.equal(batch["mask"], again["mask"])


# ---- mixing


class ManyPictures(OnePicture):
    """Every image is of one colour of its own, which its mask's side tells: the mask is that colour's parity."""

    def load(self, sample_id: str) -> tuple[np.ndarray, np.ndarray]:
        number = int(sample_id.rpartition("_")[2])
        return np.full((32, 32, 3), 4 * number, np.uint8), np.full((32, 32), number % 2, np.uint8)


def many_pictures(mix: float, workers: int = 0) -> ManyPictures:
    return ManyPictures(root="", size=32, batch_size=8, num_workers=workers, augment=OFF, mix=mix)


def test_a_mixed_image_has_a_box_of_another_one_with_its_mask() -> None:
    mixed = 0
    for batch in many_pictures(mix=1.0).train_dataloader():
        for id_, image, mask in zip(batch["id"], batch["image"], batch["mask"], strict=True):
            numbers = image[0].numpy() // 4
            assert (image[0] == image[1]).all() and (mask[0].numpy() == numbers % 2).all()
            foreign = numbers != int(id_.rpartition("_")[2])
            assert len(np.unique(numbers)) <= 2
            if foreign.any():
                mixed += 1
                rows, columns = np.flatnonzero(foreign.any(1)), np.flatnonzero(foreign.any(0))
                box = foreign[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
                assert box.all()  # one rectangle
    assert mixed > 20  # of 32: the others drew a box of nothing, or themselves


@crowded
def test_mixing_is_one_for_any_number_of_workers_and_leaves_what_it_reads() -> None:
    expected = stream(many_pictures(mix=0.5).train_dataloader(), 3)
    assert stream(many_pictures(mix=0.5, workers=2).train_dataloader(), 3) == expected
    plain = stream(many_pictures(mix=0.0).train_dataloader(), 3)
    assert 0 < sum(a != b for a, b in zip(expected, plain, strict=True)) < 32
    kept = OnePicture(root="", size=32, batch_size=8, num_workers=0, augment=OFF, mix=1.0)
    before = kept.picture[0].copy()
    stream(kept.train_dataloader())
    assert (kept.picture[0] == before).all()


def test_boxes_cover_any_part_of_the_image() -> None:
    rng = np.random.default_rng(0)
    cover, areas = np.zeros((20, 30)), []
    for _ in range(4000):
        box = mix_box((20, 30), rng)
        cover[box] += 1
        areas.append(np.zeros((20, 30))[box].size / 600)
    assert 0.25 < np.mean(areas) < 0.5 and min(areas) < 0.01  # a half, less what would lie outside
    assert cover.min() > 0.1 * 4000 and abs(cover[0, 0] - cover[-1, -1]) < 0.05 * 4000


@pytest.mark.parametrize("mix", [-0.1, 1.5])
def test_a_mix_that_is_no_probability(mix: float) -> None:
    with pytest.raises(ValueError, match=rf"data.mix={mix} must be a probability"):
        many_pictures(mix=mix)


# ---- the order


def order(length: int, *, seed: int = 7, epoch: int = 0, seen: int = 0) -> list[tuple[int, int]]:
    return list(EpochSampler(length, seed=seed, position=lambda: (epoch, seen)))


def test_the_order_is_a_new_permutation_every_epoch() -> None:
    orders = set()
    for seed in (0, 1):
        for epoch in range(5):
            epochs, indices = zip(*order(20, seed=seed, epoch=epoch), strict=True)
            assert set(epochs) == {epoch} and sorted(indices) == list(range(20))
            assert order(20, seed=seed, epoch=epoch) == list(zip(epochs, indices, strict=True))
            orders.add(indices)
    assert len(orders) == 10


@given(length=st.integers(1, 40), epoch=st.integers(0, 9), part=st.floats(0, 1))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_the_order_goes_on_where_it_stopped(length: int, epoch: int, part: float) -> None:
    seen = int(part * length)
    assert order(length, epoch=epoch, seen=seen) == order(length, epoch=epoch)[seen:]


def test_the_position_is_asked_anew_for_every_epoch() -> None:
    """A resumed run knows it only once iteration begins, and workers that persist keep one sampler for all epochs."""
    position = (0, 0)
    sampler = EpochSampler(6, seed=7, position=lambda: position)
    for position in ((2, 4), (3, 0), (4, 0)):
        assert list(sampler) == order(6, epoch=position[0], seen=position[1])
        assert len(sampler) == 6  # Lightning itself counts what is done


# ---- augmentation


def test_augmentation_depends_on_its_key_alone() -> None:
    image, mask = one_picture()
    compose = make_augment(**EVERYTHING)
    keys = {(seed, epoch, id_): sample_key(seed, epoch, id_) for seed in (0, 1) for epoch in (0, 1) for id_ in "ab"}
    first = {name: augment(image, mask, compose, key)[0].tobytes() for name, key in keys.items()}
    assert len(set(first.values())) == 8
    for name in reversed(keys):  # whatever was called before, and with another transform object
        seed, epoch, id_ = name
        again = augment(image, mask, make_augment(**EVERYTHING), sample_key(seed, epoch, id_))[0]
        assert again.tobytes() == first[name]


@pytest.mark.parametrize("step", ["rotate", "scale"])
@pytest.mark.parametrize("number", range(6))
def test_image_and_mask_move_together(step: str, number: int) -> None:
    _, mask = one_picture((96, 96))
    image = np.repeat(mask[..., None] * 255, 3, axis=2)
    compose = make_augment(**{**OFF, "flip": 0.5, step: 1.0})
    moved, moved_mask = augment(image, mask, compose, sample_key(0, 0, str(number)))
    assert moved.shape == image.shape and moved.dtype == np.uint8 and (moved_mask != mask).any()
    assert set(np.unique(moved_mask)) == {0, 1}
    # the image is interpolated and the mask is not, so along the outline itself they may disagree
    inside, outside = cv2.erode(moved_mask, np.ones((3, 3))) > 0, cv2.dilate(moved_mask, np.ones((3, 3))) == 0
    assert inside.sum() > 200 and outside.sum() > 200
    assert (moved[inside] > 127).all() and (moved[outside] < 128).all()


def augmented(number: int = 0, size: tuple[int, int] = (60, 80), **options: float) -> tuple[np.ndarray, np.ndarray]:
    return augment(*one_picture(size), make_augment(**{**OFF, **options}), sample_key(0, 0, str(number)))


def test_everything_off_changes_nothing() -> None:
    for got, expected in zip(augmented(), one_picture(), strict=True):
        assert (got == expected).all()


def test_flips_are_both_flips() -> None:
    for got, expected in zip(augmented(flip=1), one_picture(), strict=True):
        assert (got == expected[::-1, ::-1]).all()


def test_steps_are_drawn_independently() -> None:
    """albumentations' own set_random_seed gives every step the same numbers: both flips, or none."""
    image, _ = one_picture()
    flips = {image[::a, ::b].tobytes(): (a, b) for a in (1, -1) for b in (1, -1)}
    seen = Counter(flips[augmented(number, flip=0.5)[0].tobytes()] for number in range(200))
    assert len(seen) == 4 and all(30 < count < 70 for count in seen.values())  # none, each alone and both: 50 each


def test_rotation_keeps_to_its_limit() -> None:
    def angle(mask: np.ndarray) -> float:
        rows, columns = np.nonzero(mask)
        return float(np.degrees(np.arctan2(rows.mean() - 49.5, columns.mean() - 49.5)))

    start = angle(one_picture((100, 100))[1])
    for limit, most in ((0, 0.01), (10, 12.0)):
        turns = [abs(angle(augmented(n, (100, 100), rotate=1, rotate_limit=limit)[1]) - start) for n in range(30)]
        assert max(turns) <= most and max(turns) >= limit / 2


def test_scale_keeps_to_its_limit() -> None:
    square = np.zeros((100, 100), dtype=np.uint8)
    square[30:70, 30:70] = 1
    image = np.repeat(square[..., None], 3, axis=2)
    compose = make_augment(**{**OFF, "scale": 1.0, "scale_limit": 0.25})
    sides = []
    for number in range(40):
        _, mask = augment(image, square, compose, sample_key(0, 0, str(number)))
        sides += [mask.any(axis=0).sum(), mask.any(axis=1).sum()]
    assert 0.75 * 40 - 1 <= min(sides) < 33 and 47 < max(sides) <= 1.25 * 40 + 1


def test_color_changes_the_image_alone_and_within_its_limit() -> None:
    grey = np.full((8, 8, 3), 100, dtype=np.uint8)
    mask = np.eye(8, dtype=np.uint8)
    levels = []
    for limit in (0.0, 0.2):
        compose = make_augment(**{**OFF, "color": 1.0, "color_limit": limit})
        for number in range(40):
            jittered, same_mask = augment(grey, mask, compose, sample_key(0, 0, str(number)))
            assert (same_mask == mask).all()
            levels.append((limit, int(jittered[0, 0, 0])))
    assert {level for limit, level in levels if limit == 0} == {100}
    varied = [level for limit, level in levels if limit > 0]
    assert 79 <= min(varied) < 90 and 110 < max(varied) <= 121  # brightness; contrast has nothing to stretch here


# ---- crops


masks = st.builds(
    lambda height, width, box: (height, width, box),
    st.integers(8, 90),
    st.integers(8, 90),
    st.tuples(*[st.floats(0, 0.999)] * 4),
)


@given(drawn=masks, seed=st.integers(0, 2**31))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_the_lesion_box_holds_the_whole_lesion(
    drawn: tuple[int, int, tuple[float, float, float, float]], seed: int
) -> None:
    height, width, (top, bottom, left, right) = drawn
    mask = np.zeros((height, width), dtype=np.uint8)
    corners = [(int(top * height), int(left * width)), (int(bottom * height), int(right * width))]
    for row, column in corners:
        mask[row, column] = 1
    rows, columns = lesion_box(mask, np.random.default_rng(seed))
    assert 0 <= rows.start < rows.stop <= height and 0 <= columns.start < columns.stop <= width
    assert mask[rows, columns].sum() == mask.sum()
    longer = max(abs(corners[0][axis] - corners[1][axis]) + 1 for axis in (0, 1))
    heights, widths = rows.stop - rows.start, columns.stop - columns.start
    side = max(heights, widths)
    assert heights == min(height, side) and widths == min(width, side)  # square, but for the image's border
    assert side <= 2 * longer + 1
    assert side >= min(1.2 * longer - 1, max(height, width))


def test_margin_and_jitter_fill_their_ranges() -> None:
    mask = np.zeros((1000, 1000), dtype=np.uint8)
    mask[450:550, 470:530] = 1  # 100 x 60, around (500, 500)
    rng = np.random.default_rng(0)
    boxes = [lesion_box(mask, rng) for _ in range(400)]
    sides = [box[0].stop - box[0].start for box in boxes]
    assert 120 <= min(sides) < 123 and 197 < max(sides) <= 200
    for axis in (0, 1):
        shifts = [(box[axis].start + box[axis].stop) / 2 - 500 for box in boxes]
        assert -11 <= min(shifts) < -9 and 9 < max(shifts) <= 11
    assert np.mean(sides) == pytest.approx(160, abs=5)


def test_an_empty_mask_gives_the_whole_image() -> None:
    assert lesion_box(np.zeros((7, 9), np.uint8), np.random.default_rng(0)) == (slice(0, 7), slice(0, 9))


def test_crop_modes() -> None:
    rng = np.random.default_rng(0)
    drawn = {mode: Counter(draw_kind(mode, rng) for _ in range(200)) for mode in CROPS}
    assert drawn["full"] == {"full": 200} and drawn["lesion"] == {"lesion": 200}
    assert 70 < drawn["mixed"]["full"] < 130 and drawn["mixed"].total() == 200  # each about half of the time
    assert {mode: set(kinds) for mode, kinds in drawn.items()} == {mode: set(kinds) for mode, kinds in CROPS.items()}


# ---- views


def lesion_at(size: tuple[int, int], box: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Noise in which every pixel tells its place, and a lesion from (top, left) to before (bottom, right)."""
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    mask = np.zeros(size, dtype=np.uint8)
    mask[box[0] : box[2], box[1] : box[3]] = 1
    return image, mask


@given(drawn=masks, seed=st.integers(0, 2**31))
@settings(max_examples=400, deadline=None, derandomize=True)
def test_a_crop_of_the_lesion_view_is_the_crop_of_the_native_image(
    drawn: tuple[int, int, tuple[float, float, float, float]], seed: int
) -> None:
    height, width, (top, left, bottom, right) = drawn
    first, last = sorted((int(top * height), int(bottom * height)))
    left_, right_ = sorted((int(left * width), int(right * width)))
    image, mask = lesion_at((height, width), (first, left_, last + 1, right_ + 1))
    native = image[lesion_box(mask, np.random.default_rng(seed))]
    part, part_mask = view(image, mask, "lesion", (64, 64))
    from_view = part[lesion_box(part_mask, np.random.default_rng(seed))]
    assert part_mask.sum() == mask.sum()
    assert from_view.shape == native.shape and (from_view == native).all()


def test_the_lesion_view_leaves_out_what_no_crop_shows() -> None:
    image, mask = lesion_at((400, 400), (200, 200, 210, 210))
    part, _ = view(image, mask, "lesion", (64, 64))
    assert part.shape[0] <= 26 and part.shape[1] <= 26  # 10 px, a half on each side, a tenth of jitter, rounding


def test_a_large_lesion_is_kept_at_twice_the_crop_s_resolution() -> None:
    image, mask = lesion_at((900, 1200), (100, 200, 700, 800))
    image = cv2.GaussianBlur(image, (0, 0), 6)  # detail that a 64 x 64 copy of the whole image cannot hold
    part, part_mask = view(image, mask, "lesion", (64, 64))
    smallest = 1.2 * part_mask.any(axis=1).sum()
    assert 127 <= smallest <= 130 and part.shape[:2] == part_mask.shape
    small_image, small_mask = view(image, mask, "full", (64, 64))
    apart: dict[str, list[float]] = {"view": [], "shrunken copy": []}
    for seed in range(20):
        exact = resize_image(image[lesion_box(mask, np.random.default_rng(seed))], (64, 64)).astype(float)
        copies = {"view": (part, part_mask), "shrunken copy": (small_image, small_mask)}
        for name, (pixels, labels) in copies.items():
            crop = resize_image(pixels[lesion_box(labels, np.random.default_rng(seed))], (64, 64))
            apart[name].append(np.abs(crop - exact).mean() / exact.std())
    assert np.mean(apart["view"]) < 0.5 * np.mean(apart["shrunken copy"])


def test_the_lesion_view_of_an_empty_mask_is_the_image() -> None:
    image, mask = lesion_at((40, 50), (0, 0, 0, 0))
    part, part_mask = view(image, mask, "lesion", (64, 64))
    assert (part == image).all() and part_mask.shape == (40, 50) and not part_mask.any()


# ---- resizing


def test_shrinking_averages_areas() -> None:
    fine = np.random.default_rng(0).integers(0, 2, (24, 32, 3), dtype=np.uint8) * 240  # as fine as aliasing takes
    blocks = fine.reshape(6, 4, 8, 4, 3).mean(axis=(1, 3))
    assert np.abs(resize_image(fine, (6, 8)) - blocks).max() <= 0.5


def test_growing_interpolates() -> None:
    ramp = np.repeat(np.arange(0, 200, 20, dtype=np.uint8)[None, :, None], 10, axis=0).repeat(3, axis=2)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(ramp).permute(2, 0, 1)[None].float(), size=(20, 30), mode="bilinear", align_corners=False
    )
    grown = torch.from_numpy(resize_image(ramp, (20, 30))).permute(2, 0, 1).float()
    assert (grown - expected[0]).abs().max() < 1  # cut to bytes; the nearest pixel would be 7 off


@pytest.mark.parametrize("size", [(20, 20), (60, 80), (80, 60), (97, 31), (240, 320)])
def test_masks_stay_zero_and_one(size: tuple[int, int]) -> None:
    image, mask = one_picture()
    resized = resize_mask(mask, size)
    assert resized.shape == size == resize_image(image, size).shape[:2]
    assert resized.dtype == np.uint8 and set(np.unique(resized)) == {0, 1}
    assert resized.mean() == pytest.approx(mask.mean(), abs=0.03)


def test_masks_take_the_nearest_pixel() -> None:
    mask = np.random.default_rng(0).integers(0, 2, (9, 12), dtype=np.uint8)
    assert (resize_mask(mask, (3, 4)) == mask[1::3, 1::3]).all()  # the middle of each 3 x 3, not its corner
    assert (resize_mask(mask, (36, 48)) == mask.repeat(4, axis=0).repeat(4, axis=1)).all()
