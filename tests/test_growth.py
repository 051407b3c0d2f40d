"""Work and memory grow with the images, not with their square, and nothing is read again: counted, not timed."""

import os
import shutil
import tracemalloc
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src import evaluate, thresholds
from src.data import digests, duplicates, hashed
from src.data.datasets import Folder
from src.data.duplicates import SIDE, near_duplicates
from src.data.splits import _nearest_subset, holdout
from src.evaluate import evaluate_run

from .layouts import example_pairs, write_folder
from .test_cache import opened  # noqa: F401
from .test_duplicates import CHANGES, scene, thumbnail

SIZES = 40, 80


def written(place: Path, images: int) -> Path:
    root = place / f"images{images}"
    write_folder(root, example_pairs([f"img_{number:03d}" for number in range(images)], (40, 48)), image_type=".png")
    return root


def started(root: Path, place: Path) -> Folder:
    source = Folder(root=str(root), cache=str(place / "cache"), size=32, batch_size=4, num_workers=0, allow_leaks=True)
    source.setup("fit")
    return source


def epoch(source: Folder) -> int:
    return sum(len(batch["id"]) for loader in (source.train_dataloader(), source.val_dataloader()) for batch in loader)


def calls(monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], run: Callable[[], Any]) -> Counter[str]:
    """How often `run` calls each of some functions of `os`."""
    counts: Counter[str] = Counter()
    with monkeypatch.context() as patch:
        for name in names:

            def counting(*args: Any, name: str, real: Callable[..., Any], **kwargs: Any) -> Any:
                counts[name] += 1
                return real(*args, **kwargs)

            patch.setattr(os, name, partial(counting, name=name, real=getattr(os, name)))
        run()
    return counts


# ---- files


def test_a_second_start_opens_as_many_files_for_any_number_of_images(
    tmp_path: Path,
    opened: list[str],  # noqa: F811
) -> None:
    counts = []
    for images in SIZES:
        root = written(tmp_path, images)
        started(root, tmp_path)
        opened.clear()
        source = started(root, tmp_path)
        counts.append(len(opened))
        opened.clear()
        for _ in range(2):
            assert epoch(source) == len(source.parts["train"]) + len(source.parts["val"])
        assert opened == []  # an epoch reads what is mapped
    assert counts[0] == counts[1] < 10


def test_a_second_start_asks_the_system_three_times_about_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is it a file, is it a link, size and times; a resolved path for each of them took ten more."""
    asked = []
    for images in SIZES:
        root = written(tmp_path, images)
        started(root, tmp_path)
        names = ("stat", "lstat", "scandir", "listdir")
        asked.append(calls(monkeypatch, names, lambda root=root: started(root, tmp_path)))
    more = {name: asked[1][name] - asked[0][name] for name in asked[1]}
    files = 2 * (SIZES[1] - SIZES[0])
    assert more.pop("stat") == 2 * files and more.pop("lstat") == files
    assert set(more.values()) == {0}


def test_a_linked_file_has_the_name_of_what_it_links_to(tmp_path: Path) -> None:
    root = tmp_path / "data"
    (root / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere").write_bytes(b"x")
    (root / "deep" / "own").write_bytes(b"x")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "other").symlink_to(root)
    files = [root / "linked", tmp_path / "other" / "deep" / "own", root / "deep" / "own"]
    assert digests._names(root, files) == ["../elsewhere", "deep/own", "deep/own"]
    assert digests._names(root, files) == [os.path.relpath(file.resolve(), root) for file in files]


def test_thumbnails_are_not_read_until_they_are_looked_at(tmp_path: Path) -> None:
    root = written(tmp_path, 12)
    store = started(root, tmp_path)._stores["full"]
    assert isinstance(store.thumbs, np.memmap) and isinstance(store.pixels, np.memmap)
    assert not hasattr(store.entries["img_000"], "__dict__")  # 100,000 of them are in memory


# ---- drawing


def by_table(sizes: list[int], wanted: int) -> list[int]:
    """What `_nearest_subset` is to find, by the full table of which sums the first i sizes reach."""
    limit = max(2 * wanted, min(sizes))
    reachable = [{0}]
    for size in sizes:
        reachable.append(reachable[-1] | {s + size for s in reachable[-1] if s + size <= limit})
    total = min(reachable[-1] - {0}, key=lambda s: (abs(s - wanted), s))
    chosen = []
    for i in reversed(range(len(sizes))):
        if total not in reachable[i]:
            chosen.append(i)
            total -= sizes[i]
    return chosen[::-1]


def test_the_nearest_subset_is_that_of_the_full_table() -> None:
    generator = np.random.default_rng(0)
    for highest in (1, 2, 9, 40):
        for _ in range(100):
            sizes = generator.integers(1, highest, size=generator.integers(1, 25), endpoint=True).tolist()
            wanted = int(generator.integers(1, sum(sizes), endpoint=True))
            assert _nearest_subset(sizes, wanted) == by_table(sizes, wanted)


def test_drawing_takes_memory_for_each_id_alone() -> None:
    peaks = []
    for number in (10_000, 20_000):
        ids = [f"{i:06d}" for i in range(number)]
        tracemalloc.start()
        holdout(ids, val=0.4, test=0.4)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2.3 * peaks[0]


# ---- near-duplicates


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pairs were compared, call by call; never all of them."""
    monkeypatch.setattr(duplicates, "ALL_PAIRS", 0)
    real, counts = duplicates._similarities_of_pairs, []
    monkeypatch.setattr(duplicates, "_similarities_of_pairs", lambda a, b: counts.append(len(a)) or real(a, b))
    monkeypatch.setattr(duplicates, "similarities", None)
    return counts


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_without_comparing_all(change: str, compared: list[int]) -> None:
    images = {f"image{number}": scene(number) for number in range(12)}
    images["copy"] = CHANGES[change](images["image3"])
    thumbs, ids = np.stack([thumbnail(image) for image in images.values()]), list(images)
    (match,) = near_duplicates(thumbs, ids)
    assert match[:2] == ("image3", "copy")
    (match,) = near_duplicates(thumbs[:12], ids[:12], (thumbs[12:], ids[12:]))
    assert match[:2] == ("image3", "copy")
    assert sum(compared) < 12 * 13 / 2


def test_comparisons_grow_with_the_images(compared: list[int]) -> None:
    counts = []
    for number in (400, 800):
        thumbs = np.random.default_rng(0).integers(0, 256, (number, SIDE, SIDE, 3), dtype=np.uint8)
        thumbs[number // 2 :] = thumbs[: number // 2]  # half of them copies
        compared.clear()
        assert len(near_duplicates(thumbs, [str(i) for i in range(number)])) == number // 2
        counts.append(sum(compared))
    assert counts == [200, 400]


def test_many_of_one_picture_are_compared_with_a_few_of_them(compared: list[int]) -> None:
    counts = []
    for number in (100, 200):
        thumbs = np.repeat(thumbnail(scene(1))[None], number, axis=0)
        compared.clear()
        assert len(near_duplicates(thumbs, [str(i) for i in range(number)])) == sum(compared)
        counts.append(sum(compared))
    assert counts[1] - counts[0] == 100 * hashed.MATES


def test_who_searches_by_hashes_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = written(tmp_path, 12)
    assert not [note for note in started(root, tmp_path).leak_notes() if "hashes" in note]
    monkeypatch.setattr(duplicates, "ALL_PAIRS", 12 * 11)
    assert [note for note in started(root, tmp_path).leak_notes() if "hashes" in note] == [duplicates.NOT_ALL]


# ---- scoring


def test_predictions_that_were_not_kept_are_made_again_and_are_the_same(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained_run, tmp_path / "run")
    kept = []
    real = thresholds.Kept.of
    monkeypatch.setattr(thresholds.Kept, "of", lambda *args: kept.append(1) or real(*args))
    known = evaluate_run(tmp_path / "run", parts=["val"], choose=True)
    monkeypatch.setattr(evaluate, "KEPT", 0)
    anew = evaluate_run(tmp_path / "run", parts=["val"], choose=True)
    assert len(kept) == len(known.rows) == 5 and known.rows == anew.rows
    assert all(np.array_equal(a.bits, b.bits) for a, b in zip(known.masks, anew.masks, strict=True))
    assert max(mask.bits.nbytes for mask in known.masks) <= 32 * 1024
