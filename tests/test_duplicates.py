"""Copies are found however they were changed, other images are not, and a split is searched quickly."""

import os
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from src.data.decode import read_image
from src.data.duplicates import SIDE, copies, near_duplicates, pixel_digest, thumbnail
from src.data.groups import NEAR_DUPLICATES
from src.data.leaks import Leak, image_leaks, shared_groups
from src.data.pairs import glas_pairs, kvasir_seg_pairs

from .layouts import scene

DATA = os.environ.get("EMISNET_DATA", "")
NAMES = [f"image{number}" for number in range(12)]


def reencoded(image: np.ndarray) -> np.ndarray:
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 40])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


CHANGES = {
    "re-encoded": reencoded,
    "resized": lambda image: cv2.resize(image, (140, 100), interpolation=cv2.INTER_AREA),
    "flipped": lambda image: np.ascontiguousarray(image[:, ::-1]),
    "turned": lambda image: np.rot90(image).copy(),
    "turned and flipped": lambda image: np.rot90(image, 3)[::-1].copy(),
    "brighter": lambda image: np.clip(image * 0.7 + 70, 0, 255).astype(np.uint8),
    "other white balance": lambda image: np.clip(image * [1.1, 0.9, 0.6], 0, 255).astype(np.uint8),
    "noisy": lambda image: np.clip(image + np.random.default_rng(0).normal(0, 8, image.shape), 0, 255).astype(np.uint8),
    "trimmed": lambda image: image[4:-4, 6:-6].copy(),
}


def found(images: dict[str, np.ndarray], look_again: bool) -> set[tuple[str, str]]:
    thumbs = np.stack([thumbnail(image) for image in images.values()])
    matches = near_duplicates(thumbs, list(images), picture=images.__getitem__ if look_again else None)
    return {match[:2] for match in matches}


@pytest.mark.parametrize("look_again", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_and_nothing_else(change: str, look_again: bool) -> None:
    images = {name: scene(number) for number, name in enumerate(NAMES)}
    images["copy"] = CHANGES[change](images["image3"])
    assert found(images, look_again) == {("image3", "copy")}


def test_a_shifted_view_needs_the_second_look() -> None:
    wide = scene(5, (184, 246))
    images = {"left": wide[:180, :240].copy(), "right": wide[4:, 6:].copy(), "other": scene(6)}
    assert found(images, look_again=False) == set()
    assert found(images, look_again=True) == {("left", "right")}


def test_plain_images_are_no_near_duplicates_but_may_be_copies() -> None:
    images = {"black": np.zeros((40, 50, 3), np.uint8), "grey": np.full((40, 50, 3), 90, np.uint8)}
    assert found(images, look_again=False) == found(images, look_again=True) == set()
    digests = {name: pixel_digest(image) for name, image in images.items()}
    assert copies(digests) == []
    assert copies({**digests, "again": pixel_digest(images["grey"].copy())}) == [("grey", "again", 1.0)]


def test_the_digest_knows_the_shape() -> None:
    assert pixel_digest(np.zeros((2, 8, 3), np.uint8)) != pixel_digest(np.zeros((4, 4, 3), np.uint8))
    turned = np.rot90(scene(0))
    assert pixel_digest(turned) == pixel_digest(turned.copy())


def test_between_two_sets() -> None:
    here = {name: scene(number) for number, name in enumerate(NAMES[:4])}
    there = {f"other{number}": scene(number + 50) for number in range(3)} | {"copy": reencoded(here["image2"])}
    thumbs = [np.stack([thumbnail(image) for image in images.values()]) for images in (here, there)]
    matches = near_duplicates(thumbs[0], list(here), (thumbs[1], list(there)))
    assert [match[:2] for match in matches] == [("image2", "copy")] and matches[0].similarity > 0.95
    assert near_duplicates(thumbs[0], list(here), (thumbs[1][:0], [])) == []
    assert copies({"a": "1", "b": "1", "c": "2"}, {"x": "1", "y": "3"}) == [("a", "x", 1.0), ("b", "x", 1.0)]


def test_leaks_of_each_kind_are_named_once() -> None:
    images = {name: scene(number) for number, name in enumerate(NAMES)}
    images["image7"], images["image8"] = images["image1"].copy(), reencoded(images["image2"])
    images["image4"] = reencoded(images["image3"])  # both in train
    parts = {"train": NAMES[:6], "val": NAMES[6:9], "test": [*NAMES[9:], "absent"]}
    thumbs = np.stack([thumbnail(image) for image in images.values()])
    groups = {"image0": "patient 1", "image5": "patient 1", "absent": "patient 1", "image6": "patient 2"}
    digests = [pixel_digest(image) for image in images.values()]
    exact, near = image_leaks(parts, NAMES, digests, thumbs)
    (group,) = shared_groups(parts, groups)
    assert exact == Leak("exact", "image1", "train", "image7", "val", 1.0)
    assert near[:5] == ("near", "image2", "train", "image8", "val") and 0.9 < near.similarity < 1
    assert group == Leak("group", "image0", "train", "absent", "test", 1.0)
    assert image_leaks({"train": NAMES[:2], "val": NAMES[9:]}, NAMES, digests, thumbs) == []
    assert image_leaks(parts, NAMES, digests, thumbs, images.__getitem__) == [exact, near]


def test_two_thousand_images_are_searched_at_every_start_of_a_training() -> None:
    thumbs = np.random.default_rng(0).integers(0, 256, (2000, SIDE, SIDE, 3), dtype=np.uint8)
    ids = [str(number) for number in range(2000)]
    parts = {"train": ids[:1600], "val": ids[1600:1800], "test": ids[1800:]}
    seconds = []
    for _ in range(3):  # the best of three: another process may hold the machine for a moment
        begun = time.perf_counter()
        assert image_leaks(parts, ids, ids, thumbs) == []
        seconds.append(time.perf_counter() - begun)
    assert min(seconds) < 8  # half a second on an idle core, and some machines are ten times as slow


# ---- real data

# The near-duplicates that were known at first, and how many of all known ones are found at least.
FIRST_KNOWN = [
    {"cju30bmab08bi0835mvlr6e0r", "cju77k828z46w0871r0avuoo9"},
    {"cju886ryxnsl50801r93jai7q", "cju8amfdtqi4x09871tygrgqe"},
    {"cju772304yw5t0818vbw8kkjf", "cju76lsehyia10987u54vn8rb"},
]
FOUND = {"kvasir_seg": 10, "glas": 0}


@pytest.mark.parametrize(
    ("dataset", "pairs_of"),
    [pytest.param("kvasir_seg", kvasir_seg_pairs, marks=pytest.mark.slow), ("glas", glas_pairs)],
)
def test_the_known_pairs_are_found_and_no_more_than_were_looked_at(dataset: str, pairs_of) -> None:
    if not (Path(DATA) / dataset).is_dir() or not DATA:
        pytest.skip(f"EMISNET_DATA={DATA!r} has no {dataset}; set it to the folder that holds the datasets")
    everything = pairs_of(Path(DATA) / dataset)
    alike = {id_ for group in NEAR_DUPLICATES.get(dataset, ()) for id_ in group}
    chosen = [*(id_ for id_ in everything if id_ in alike), *[id_ for id_ in everything if id_ not in alike][:250]]
    pairs = {id_: everything[id_] for id_ in chosen}  # all 880 take a minute
    thumbs = np.stack([thumbnail(read_image(pair.image)) for pair in pairs.values()])
    matches = near_duplicates(thumbs, list(pairs), picture=lambda id_: read_image(pairs[id_].image))
    found = {frozenset(match[:2]) for match in matches}
    known = {frozenset((a, b)) for group in NEAR_DUPLICATES.get(dataset, ()) for a in group for b in group if a < b}
    assert len(found) >= FOUND[dataset]
    assert found <= known  # a person has looked at every one of these
    if dataset == "kvasir_seg":
        assert all(pair in found for pair in FIRST_KNOWN)
