"""The cache gives the same pixels as decoding, reads no source file again, and is whole or absent."""

import builtins
import errno
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from src.data import cache as cache_module
from src.data import checks
from src.data.cache import PixelStore
from src.data.datasets import Folder
from src.data.samples import SampleDataset
from src.data.stores import main

from .conftest import PATIENCE, REPO
from .layouts import example_pairs, write_folder

IDS = [f"img_{number:02d}" for number in range(12)]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    write_folder(root, example_pairs(IDS, (90, 120)), image_type=".png")
    return root


def source_of(root: Path, cache: Path | None, **options: object) -> Folder:
    settings = {"size": 32, "batch_size": 4, "num_workers": 0, "mask": "instances", "allow_leaks": True, **options}
    source = Folder(root=str(root), cache=str(cache) if cache else None, **settings)
    source.setup("fit")
    return source


def stores(folder: Path) -> dict[str, int]:
    """Directory name -> when its pixels were written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("folder/*/pixels.bin")}


def training_stream(source: Folder) -> list[tuple[str, bytes, bytes]]:
    return [
        (id_, image.numpy().tobytes(), mask.numpy().tobytes())
        for loader in (source.train_dataloader(), source.val_dataloader())
        for batch in loader
        for id_, image, mask in zip(batch["id"], batch["image"], batch["mask"], strict=True)
    ]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of all files that this process opens."""
    names: list[str] = []
    real = builtins.open

    def counting(file, *args, **kwargs):
        names.append(str(file))
        return real(file, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", counting)
    monkeypatch.setattr("io.open", counting)  # pathlib's
    yield names


# ---- the same pixels


@pytest.mark.parametrize("crop", ["full", "lesion", "mixed"])
def test_cached_training_is_uncached_training(images: Path, tmp_path: Path, crop: str) -> None:
    plain, cached = (source_of(images, cache, crop=crop, seed=5) for cache in (None, tmp_path / "cache"))
    assert training_stream(cached) == training_stream(plain)


@pytest.mark.parametrize("mask", ["instances", "auto"])
def test_a_second_start_reads_no_source_image(images: Path, tmp_path: Path, opened: list[str], mask: str) -> None:
    def sources_read() -> int:
        number = sum(name.startswith(str(images)) for name in opened)
        opened.clear()
        return number

    first = training_stream(source_of(images, tmp_path / "cache", crop="mixed", mask=mask))
    assert sources_read() >= 2 * len(IDS)
    assert training_stream(source_of(images, tmp_path / "cache", crop="mixed", mask=mask)) == first
    assert sources_read() == 0
    assert training_stream(source_of(images, None, crop="mixed", mask=mask)) == first
    assert sources_read() >= 2 * len(IDS)  # the count sees what is read


def test_masks_of_several_kinds_are_refused_by_a_second_start_too(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PIL.Image.fromarray(np.full((90, 120), 255, np.uint8)).save(images / "masks" / f"{IDS[2]}.png")
    real, decoded = checks.mask_kind, []
    monkeypatch.setattr(checks, "mask_kind", lambda path: decoded.append(path.stem) or real(path))
    for _ in range(2):
        with pytest.raises(ValueError, match=f"11 of kind 'labels or grey', but 0 and 255: {IDS[2]}"):
            source_of(images, tmp_path / "cache", mask="auto")
    assert sorted(decoded) == IDS  # once each
    PIL.Image.fromarray(np.ones((90, 120), np.uint8)).save(images / "masks" / f"{IDS[2]}.png")  # a map of one label
    source_of(images, tmp_path / "cache", mask="auto")
    assert len(decoded) == 2 * len(IDS)  # a changed mask has them looked at again


def test_workers_share_the_mapped_file(images: Path, tmp_path: Path) -> None:
    source = source_of(images, tmp_path / "cache")
    dataset = SampleDataset(source, source.parts["train"], training=True)
    sent = pickle.dumps(dataset)
    assert len(sent) < 20_000 < source._stores["full"].pixels.nbytes
    assert (pickle.loads(sent)[0, 1]["image"] == dataset[0, 1]["image"]).all()


def test_pixels_are_not_changed_by_their_readers(images: Path, tmp_path: Path) -> None:
    image, mask = source_of(images, tmp_path / "cache").views("full")(IDS[0])
    for pixels in (image, mask):
        with pytest.raises(ValueError, match="read-only"):
            pixels[0] = 1
    (batch,) = source_of(images, tmp_path / "cache", val=0.2).val_dataloader()
    batch["image"][0] = 0  # a copy
    assert batch["image"].is_contiguous()


def test_areas_are_those_of_the_native_masks(images: Path, tmp_path: Path) -> None:
    source = source_of(images, tmp_path / "cache")
    source.views("full")
    entries = source._stores["full"].entries
    assert {id_: entries[id_].area for id_ in IDS} == {id_: source.load(id_)[1].mean() for id_ in IDS}


# ---- what leads to which store


def test_a_store_serves_any_split_and_seed_and_crop_mode(images: Path, tmp_path: Path) -> None:
    for options in ({}, {"split_seed": 3}, {"seed": 4}, {"val": 0.3}, {"crop": "mixed"}, {"crop": "lesion"}):
        source_of(images, tmp_path / "cache", **options)
    kinds = sorted(name.split("-")[0] for name in stores(tmp_path / "cache"))
    assert kinds == ["full", "lesion"]


@pytest.mark.parametrize("options", [{"size": 48}, {"mask": "auto"}])
def test_what_changes_pixels_leads_to_another_store(images: Path, tmp_path: Path, options: dict[str, object]) -> None:
    source_of(images, tmp_path / "cache")
    source_of(images, tmp_path / "cache", **options)
    assert len(stores(tmp_path / "cache")) == 2


@pytest.fixture
def bitmaps(tmp_path: Path) -> Path:
    """Images and masks whose files keep their size whatever they show."""
    root = tmp_path / "bitmaps"
    for id_, (image, labels) in example_pairs(IDS, (90, 120)).items():
        for part, pixels in (("images", image), ("masks", (labels > 0).astype(np.uint8))):
            (root / part).mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(pixels).save(root / part / f"{id_}.bmp")
    return root


@pytest.mark.parametrize("part", ["images", "masks"])
@pytest.mark.parametrize("how", ["in place", "replaced, its time of modification kept"])
def test_a_changed_source_file_is_decoded_again(bitmaps: Path, tmp_path: Path, part: str, how: str) -> None:
    before = training_stream(source_of(bitmaps, tmp_path / "cache"))
    target = bitmaps / part / f"{IDS[0]}.bmp"
    stat, content = target.stat(), bytearray(target.read_bytes())
    end = len(content) - 2000
    content[end:] = bytes(255 - value if part == "images" else 1 - value for value in content[end:])
    if how == "in place":
        target.write_bytes(content)
    else:
        (tmp_path / "new").write_bytes(content)
        os.utime(tmp_path / "new", ns=(stat.st_atime_ns, stat.st_mtime_ns))
        (tmp_path / "new").rename(target)
        assert target.stat().st_mtime_ns == stat.st_mtime_ns
    assert target.stat().st_size == stat.st_size
    after = training_stream(source_of(bitmaps, tmp_path / "cache"))
    assert after == training_stream(source_of(bitmaps, None))
    changed = {a[0] for a, b in zip(after, before, strict=True) if a != b}
    assert changed == {IDS[0]} & {a[0] for a in after} and len(stores(tmp_path / "cache")) == 2


def test_a_file_that_changes_while_it_is_read_is_noticed(
    bitmaps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, real = bitmaps / "images" / f"{IDS[5]}.bmp", cache_module.view

    def meddling(*arguments: Any) -> Any:
        os.utime(target, ns=(1, 1))
        return real(*arguments)

    monkeypatch.setattr(cache_module, "view", meddling)
    with pytest.raises(ValueError, match="changed while they were read; start again"):
        source_of(bitmaps, tmp_path / "cache")
    assert stores(tmp_path / "cache") == {}


def test_a_dataset_has_one_store_however_its_place_is_written(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    source_of(images, tmp_path / "cache")
    (tmp_path / "link").symlink_to(images)
    monkeypatch.chdir(tmp_path)
    opened.clear()
    for place in (Path("images"), tmp_path / "link", images):
        source_of(place, tmp_path / "cache")
    assert not [name for name in opened if name.endswith(".png")]


def test_a_moved_dataset_and_touched_files_keep_their_store(images: Path, tmp_path: Path) -> None:
    source_of(images, tmp_path / "cache")
    written = stores(tmp_path / "cache")
    for file in (images / "images").iterdir():
        os.utime(file)
    source_of(images, tmp_path / "cache")
    shutil.copytree(images, tmp_path / "copy")
    source_of(tmp_path / "copy", tmp_path / "cache")
    assert stores(tmp_path / "cache") == written


def test_an_image_more_or_less_leads_to_another_store(images: Path, tmp_path: Path) -> None:
    source_of(images, tmp_path / "cache")
    for part in ("images", "masks"):
        (images / part / f"{IDS[3]}.png").unlink()
    source = source_of(images, tmp_path / "cache")
    assert len(stores(tmp_path / "cache")) == 2 and IDS[3] not in source._stores["full"].entries


# ---- whole or absent


@pytest.mark.parametrize("damage", ["cut pixels", "cut index", "no index", "no pixels"])
def test_a_damaged_store_is_built_anew(images: Path, tmp_path: Path, damage: str) -> None:
    expected = training_stream(source_of(images, tmp_path / "cache"))
    (path,) = (tmp_path / "cache").glob("folder/full-*/")
    victim = path / ("pixels.bin" if "pixels" in damage else "index.json")
    if damage.startswith("cut"):
        victim.write_bytes(victim.read_bytes()[:-100])
    else:
        victim.unlink()
    with pytest.raises((ValueError, OSError)):
        PixelStore(path)
    assert training_stream(source_of(images, tmp_path / "cache")) == expected
    PixelStore(path)


BUILD = """
import sys
from src.data import cache
from src.data.datasets import Folder
view = cache.view
def slow(*a):
    import time; time.sleep(0.05); sys.stdout.write("at work\\n"); sys.stdout.flush(); return view(*a)
cache.view = slow
source = Folder(root=sys.argv[1], cache=sys.argv[2], size=32, num_workers=0, mask="instances", allow_leaks=True)
source.setup("fit")
print("done", len(source._stores["full"].entries), flush=True)
"""


def builder(root: Path, cache: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", BUILD, str(root), str(cache)]
    return subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_at_once_build_one_store(images: Path, tmp_path: Path) -> None:
    processes = [builder(images, tmp_path / "cache") for _ in range(2)]
    said = [process.communicate(timeout=PATIENCE) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert sum(out.count("at work") for out, _ in said) == len(IDS)  # the other one waited, and read
    assert all(f"done {len(IDS)}" in out for out, _ in said)
    assert len(stores(tmp_path / "cache")) == 1


def test_a_killed_build_leaves_nothing_that_is_taken_for_whole(images: Path, tmp_path: Path) -> None:
    process = builder(images, tmp_path / "cache")
    assert process.stdout
    for _ in range(4):
        assert process.stdout.readline() == "at work\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    folder = tmp_path / "cache" / "folder"
    assert list(folder.glob(".full-*")) and not list(folder.glob("full-*/"))
    assert training_stream(source_of(images, tmp_path / "cache")) == training_stream(source_of(images, None))
    assert not list(folder.glob(".full-*"))  # the killed one's leftovers are gone


# ---- what goes wrong is said


def test_all_faulty_files_are_named_at_once(images: Path, tmp_path: Path) -> None:
    (images / "images" / f"{IDS[1]}.png").write_bytes(b"not an image")
    whole = (images / "masks" / f"{IDS[4]}.png").read_bytes()
    (images / "masks" / f"{IDS[4]}.png").write_bytes(whole[: len(whole) // 2])
    small = write_folder(tmp_path / "small", example_pairs([IDS[7]], (80, 120)))
    (small / "masks" / f"{IDS[7]}.png").rename(images / "masks" / f"{IDS[7]}.png")
    with pytest.raises(ValueError, match="3 things are wrong") as error:
        source_of(images, tmp_path / "cache")
    for told in (f"images/{IDS[1]}.png: not a readable", f"masks/{IDS[4]}.png: ", f"{IDS[7]}: the image is 90x120"):
        assert told in str(error.value)
    assert stores(tmp_path / "cache") == {} and not list((tmp_path / "cache" / "folder").glob(".full*"))


def test_no_room_is_said_before_anything_is_decoded(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 40_000, 40_000))
    monkeypatch.setattr(cache_module, "view", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=r"no room for the decoded images of folder \(0 MB .* data\.cache=null"):
        source_of(images, tmp_path / "cache")  # 12 images of 32 x 32 x 4 bytes: 49 kB


def test_a_disk_that_fills_up_leaves_nothing(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache_module.os, "fsync", full)
    with pytest.raises(ValueError, match="no room"):
        source_of(images, tmp_path / "cache")
    assert not list((tmp_path / "cache" / "folder").glob("*full*/"))


def test_a_folder_that_cannot_be_written_is_said(images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file: .*data\.cache="):
        source_of(images, tmp_path / "file")


# ---- what takes room


def test_other_stores_are_told_listed_and_removed(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("EMISNET_CACHE", str(cache))
    source_of(images, cache)
    assert "other stores" not in capsys.readouterr().err
    source_of(images, cache, size=48)
    source_of(images, cache, mask="auto")
    assert "other stores of folder at this size take 0 MB: python -m src.data.cache" in capsys.readouterr().err
    first, _, last = sorted(stores(cache), key=lambda name: (cache / "folder" / name / "index.json").stat().st_mtime_ns)
    os.utime(cache / "folder" / last / "index.json", (0, 0))
    assert main([]) == 0
    rows = [line.split()[-1] for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 3 and rows[0] == f"folder/{last}"  # the one unused for longest comes first
    source_of(images, cache, mask="auto")  # which uses it
    assert main([]) == 0 and capsys.readouterr().out.splitlines()[-1].endswith(f"folder/{last}")
    assert main(["--remove", f"folder/{first}"]) == 0
    assert f"removed          folder/{first}" in capsys.readouterr().out
    assert first not in stores(cache) and len(stores(cache)) == 2 and not list(cache.glob("folder/.*"))
    with pytest.raises(SystemExit):
        main(["--remove", f"folder/{first}"])
    assert f"holds no folder/{first}" in capsys.readouterr().err
    source_of(images, cache)
