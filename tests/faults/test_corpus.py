"""Odd and damaged files through every command that reads images: a right answer, or a message that names the file and
says what to do; never a traceback, a hang, a wrong mask in silence or a batch that ends with its first bad file."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src import audit, evaluate, train
from src.data.decode import read_mask
from src.data.pairs import IMAGE_SUFFIXES
from src.data.pictures import read_picture
from src.files import plain_cell, read_csv
from src.trained import open_trained
from src.webapp.session import Looker, Settings, draw

from ..conftest import PATIENCE, QUIET, REPO, TINY_MODEL, Call
from ..corpus import corpus, odd_masks
from ..layouts import scene
from ..odd.files import PICTURE, Odd, encoded, whole
from ..odd.masks import BLOB, OddMask, other_sizes, refused_masks
from ..odd.places import NAMES, NO_TEXT

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),  # as src.data.decode does outside of tests
    pytest.mark.filterwarnings("ignore:Glyph .* missing from font"),  # names that Matplotlib cannot draw
]
SECONDS = 60  # for one file, of which the slowest takes one, on a machine ten times as slow as ours
REMEDY = re.compile(
    r"restore|convert|correct|remove|move it away|make it readable|flatten|save (it|the|as|0|them)|downscale|replace"
    r"|set (intensity|data\.)|set mask|started with|give both"
)
DIVIDES = 0.0004  # the threshold at which the network takes about half of PICTURE
SMALL = (*TINY_MODEL, *QUIET, "data=folder", "data.size=32", "data.batch_size=4", "trainer.max_epochs=1")


@pytest.fixture(scope="module")
def odds() -> list[Odd]:
    return corpus()


@pytest.fixture(scope="module")
def photos(odds: list[Odd], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all of them."""
    folder = tmp_path_factory.mktemp("photos") / "odd"
    folder.mkdir()
    for odd in odds:
        odd.write(folder / odd.name)
    return folder


def test_there_are_hundreds(odds: list[Odd]) -> None:
    masks = odd_masks()
    assert len(odds) >= 400 and len({odd.name for odd in odds}) == len(odds)
    assert len(masks) >= 60 and len({mask.name for mask in masks}) == len(masks)
    assert sum(odd.is_refused for odd in odds) > 150 and sum(odd.truth is not None for odd in odds) > 200


# ---- the readers


def wrong_with(odd: Odd, path: Path) -> str:
    """What is wrong with the answer of `read_picture`, nothing if it is right."""
    begun = time.monotonic()
    try:
        pixels = read_picture(path).pixels
    except ValueError as error:
        if not odd.is_refused and not odd.either:
            return f"refused: {error}"
        if not str(error).startswith(str(path)) or not REMEDY.search(str(error).removeprefix(str(path))):
            return f"no file or no remedy in: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    else:
        if odd.truth is None:
            return "read in silence"
        if pixels.shape != odd.truth.shape or pixels.dtype != np.uint8:
            return f"{pixels.shape}, not {odd.truth.shape}"
        if (most := int(np.abs(pixels.astype(int) - odd.truth).max())) > odd.tolerance:
            return f"off by {most}"
    took = time.monotonic() - begun
    return f"took {took:.1f} s" if took > SECONDS else ""


def test_every_file_is_read_rightly_or_refused_by_name(odds: list[Odd], photos: Path) -> None:
    wrong = {odd.name: fault for odd in odds if (fault := wrong_with(odd, photos / odd.name))}
    assert not wrong, "\n".join(f"{name!r}: {fault}" for name, fault in wrong.items())


def test_every_mask_means_what_was_drawn_or_is_refused_by_name(tmp_path: Path) -> None:
    sized_otherwise = {mask.name for mask in other_sizes()}
    for mask in odd_masks():
        path = tmp_path / mask.name
        mask.write(path)
        if mask.truth is not None:
            np.testing.assert_array_equal(read_mask(path, "auto"), mask.truth, err_msg=mask.name)
        elif mask.name not in sized_otherwise:
            with pytest.raises(ValueError, match=REMEDY) as error:
                read_mask(path, "auto")
            assert str(path) in str(error.value)


@pytest.fixture
def nobody() -> Iterator[None]:
    """Root reads every file: for a while this process is another's."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("suffix", ["png", "dcm"])
def test_a_file_that_may_not_be_read_is_no_damaged_one(tmp_path: Path, nobody: None, suffix: str) -> None:
    path = tmp_path / f"mine.{suffix}"
    if os.getuid():
        path.write_bytes(whole(suffix))
        path.chmod(0)
    with pytest.raises(ValueError, match=r"mine\.\w+: cannot be read \(Permission denied\); make it readable"):
        read_picture(path)


# ---- predict


def command(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"src.{module}", *arguments],
        cwd=REPO,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=PATIENCE,
    )


def row_name(path: Path) -> str:
    """What stands of a file in images.csv."""
    return plain_cell(str(path)).encode("utf-8", "backslashreplace").decode()


def masks_of_the_truths(folder: Path, odds: list[Odd]) -> dict[str, str]:
    """Writes the pixels of all that can be read exactly as PNG files; name of the odd file -> stem of that one."""
    folder.mkdir()
    stems: dict[bytes, str] = {}
    found = {}
    for odd in odds:
        if odd.truth is not None and odd.tolerance == 0:
            key = repr(odd.truth.shape).encode() + odd.truth.tobytes()
            stem = stems.setdefault(key, f"truth{len(stems)}")
            found[odd.name] = stem
            if not (folder / f"{stem}.png").exists():
                Image.fromarray(odd.truth).save(folder / f"{stem}.png")
    return found


def test_a_batch_of_them_is_segmented_to_its_end(odds: list[Odd], photos: Path, tmp_path: Path) -> None:
    stem_of = masks_of_the_truths(photos.parent / "truths", odds)
    out = tmp_path / "out"
    done = command(
        *("predict", "weights=emisnet_kvasir", f"input={photos.parent}", f"output={out}", "max_pixels=64000000"),
        *("threads=1", "device=cpu", "overlays=false", "crops=false", f"threshold={DIVIDES}"),
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr + done.stdout, done.stderr[-3000:]
    assert "Warning" not in done.stderr
    rows = {row["file"]: row for row in read_csv(out / "images.csv")}
    for odd in odds:
        row = rows[row_name(photos / odd.name)]
        if odd.truth is None or (odd.either and row["status"] == "failed"):
            assert row["status"] == "failed" and REMEDY.search(row["reason"]), row
            assert odd.name.encode("utf-8", "backslashreplace").decode() in row["reason"]
            continue
        assert row["status"] == "done", row
        assert (int(row["height"]), int(row["width"])) == odd.truth.shape[:2]
        if odd.name in stem_of:
            mask, expected = out / os.fsdecode(unescaped(row["mask"])), out / "masks" / "truths" / stem_of[odd.name]
            assert mask.read_bytes() == expected.with_suffix(".png").read_bytes(), odd.name
    assert len(rows) == len(odds) + len(set(stem_of.values()))
    of_picture = np.asarray(Image.open(out / "masks" / "truths" / f"{stem_of['mode_RGB.png']}.png"))
    assert 0.1 < (of_picture > 0).mean() < 0.9  # else masks would be alike of any pixels


def unescaped(cell: str) -> bytes:
    r"""A name whose bytes are no text stands in tables with \udcXX in their place."""
    return re.sub(r"\\udc(..)", lambda found: os.fsdecode(bytes.fromhex(found[1])), cell).encode(
        "utf-8", "surrogateescape"
    )


# ---- the page


def test_the_page_answers_each_in_words_without_its_own_paths(
    odds: list[Odd], photos: Path, trained_run: Path, tmp_path: Path
) -> None:
    looker = Looker(open_trained(trained_run), max_pixels=64_000_000)
    wrong = []
    for odd in odds:
        try:
            seen = looker.look(photos / odd.name, "their file", "full")
        except ValueError as error:
            if not (odd.is_refused or odd.either):
                wrong.append(f"{odd.name!r} refused: {error}")
            if not str(error).startswith("their file") or "/" + str(photos).split("/")[1] in str(error):
                wrong.append(f"{odd.name!r} answered: {error}")
            continue
        if odd.truth is None or draw(seen, Settings(0.5)).mask.size == 0 or seen.shape != odd.truth.shape[:2]:
            wrong.append(f"{odd.name!r} seen as {seen.shape}")
    assert not wrong, "\n".join(wrong)


# ---- datasets


def dataset(root: Path, count: int = 8) -> Path:
    """Whole pairs under names that come before those of the odd ones."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number in range(count):
        write_pair(root, f"a{number}", number)
    return root


def write_pair(root: Path, id_: str, number: int) -> None:
    Image.fromarray(scene(number, (30, 40))).save(root / "images" / f"{id_}.png")
    Image.fromarray(BLOB * np.uint8(255)).save(root / "masks" / f"{id_}.png")


def fits_a_folder(odd: Odd) -> bool:
    """Datasets hold no DICOM files, and pass over hidden ones."""
    is_named_so = Path(odd.name).suffix.lower() in IMAGE_SUFFIXES and not odd.name.startswith(".")
    return is_named_so and odd.name != "dcm_called.png"


def add_images(root: Path, odds: list[Odd]) -> list[str]:
    """Each with a mask, under an id of its own unless its name is what is odd; the names of their files."""
    added = []
    for number, odd in enumerate(odds):
        path = Path(odd.name)
        stem = path.stem if odd.name in NAMES else f"odd{number:03d}_{re.sub('[^a-z0-9_]', '', path.stem.lower())[:40]}"
        suffix = path.suffix
        odd.write(root / "images" / f"{stem}{suffix}")
        shape = (30, 40) if odd.truth is None else odd.truth.shape[:2]
        mask = np.zeros(shape, np.uint8)
        mask[: shape[0] // 2 + 1, : shape[1] // 2 + 1] = 255
        Image.fromarray(mask).save(root / "masks" / f"{stem}.png")
        added.append(f"{stem}{suffix}")
    return added


def add_masks(root: Path, masks: list[OddMask]) -> list[str]:
    added = []
    for number, mask in enumerate(masks):
        stem, suffix = f"mask{number:03d}_{Path(mask.name).stem}", Path(mask.name).suffix
        write_pair(root, stem, 100 + number)
        (root / "masks" / f"{stem}.png").unlink()
        mask.write(root / "masks" / f"{stem}{suffix}")
        added.append(f"{stem}{suffix}")
    return added


@pytest.fixture
def refused(odds: list[Odd], tmp_path: Path) -> tuple[Path, list[str]]:
    """A dataset with images and masks that must be refused, and the names of those files."""
    root = dataset(tmp_path / "refused")
    bad = [odd for odd in odds if odd.is_refused and fits_a_folder(odd)]
    return root, add_images(root, bad) + add_masks(root, [*refused_masks(), *other_sizes()])


Main = Callable[..., tuple[int, str]]


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, call: Call, tmp_path: Path) -> Main:
    """Runs an entry point in the test's own folder: exit code and all that it says."""
    monkeypatch.chdir(tmp_path)

    def run(entry: Callable[[], None], *arguments: str) -> tuple[int, str]:
        done = call(entry, *arguments)
        return done.returncode, done.stdout + done.stderr

    return run


def test_an_audit_names_every_file_that_training_would_refuse(refused: tuple[Path, list[str]], main: Main) -> None:
    root, names = refused
    code, said = main(audit.main, "data=folder", f"data.root={root}", "out=found")
    assert code == 1 and "Traceback" not in said, said[-3000:]
    faults = [row["fault"] for row in read_csv(Path("found/audit.csv")) if row["fault"]]
    unpaired = [name for name in names if "link_to_folder" in name]  # it is passed over, and its partner is named
    found = Path("found/audit.json").read_text()
    assert not [name for name in unpaired if Path(name).stem not in found] and len(unpaired) == 2
    assert not [name for name in names if name not in unpaired and not any(name in fault for fault in faults)]
    assert len(faults) == len(names) - len(unpaired)
    assert all(REMEDY.search(fault.lower()) for fault in faults)


@pytest.mark.parametrize("cache", ["null", "cached"])
def test_training_names_them_all_and_begins_nothing(refused: tuple[Path, list[str]], cache: str, main: Main) -> None:
    root, names = refused
    code, said = main(train.main, *SMALL, f"data.root={root}", f"data.cache={cache}", "runs=runs")
    assert code == 2 and "Traceback" not in said, said[-3000:]
    assert said.count("error: ") == 1 and "things are wrong" in said
    assert not [name for name in names if name not in said], said[-3000:]
    assert not list(Path("runs").rglob("*.ckpt"))


@pytest.mark.parametrize("cache", ["null", "cached"])
def test_training_takes_what_is_odd_and_good(odds: list[Odd], cache: str, main: Main, tmp_path: Path) -> None:
    root = dataset(tmp_path / "good")
    shapes = {(30, 40, 3), (3, 5, 3), (1, 1, 3), (1, 60_000, 3)}
    good = [odd for odd in odds if odd.truth is not None and not odd.either and odd.truth.shape in shapes]
    add_images(root, [odd for odd in good if fits_a_folder(odd)])
    words = [*SMALL, f"data.root={root}", f"data.cache={cache}", "data.allow_leaks=true", "data.mask=binary"]
    code, said = main(train.main, *words, "run_dir=run")
    assert code == 0, said[-3000:]
    assert float(read_csv(Path("run/history.csv"))[-1]["train/loss"]) > 0


def test_names_that_are_no_text_are_told_at_once(main: Main, tmp_path: Path) -> None:
    """Tables, splits and the cache could not hold them."""
    root = dataset(tmp_path / "data")
    write_pair(root, NO_TEXT, 9)
    for entry, more in ((train.main, (*SMALL, "run_dir=run")), (audit.main, ("data=folder", "out=found"))):
        code, said = main(entry, *more, f"data.root={root}")
        assert code in (1, 2) and "Traceback" not in said and "not UTF-8" in said and "latin1_" in said, said[-3000:]
    assert not Path("run").exists()


def damage_pixels(path: Path) -> None:
    """The header stays."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 100] = bytes(100)
    path.write_bytes(content)


@pytest.mark.parametrize("cache", ["null", "cached"])
def test_damage_behind_the_header_is_found_before_training(cache: str, main: Main, tmp_path: Path) -> None:
    root = dataset(tmp_path / "data")
    for name in ("images/a3.png", "masks/a5.png"):
        if name.startswith("masks"):  # a mask of few colours packs into less than a hundred bytes
            shutil.copy(root / "images" / "a5.png", root / name)
        damage_pixels(root / name)
    words = [*SMALL, f"data.root={root}", f"data.cache={cache}", "data.mask=threshold", "run_dir=run"]
    code, said = main(train.main, *words)
    assert code == 2 and "Traceback" not in said, said[-3000:]
    assert "a3.png: cannot be decoded" in said and "a5.png: cannot be decoded" in said and "restore it" in said
    assert not Path("run").exists()


def test_evaluate_names_an_image_that_was_damaged_since(main: Main, tmp_path: Path) -> None:
    root = dataset(tmp_path / "data")
    code, said = main(train.main, *SMALL, f"data.root={root}", "data.cache=null", "run_dir=run")
    assert code == 0, said[-3000:]
    for path in (root / "images").iterdir():
        damage_pixels(path)
    code, said = main(evaluate.main, "run=run")
    assert code == 2 and "Traceback" not in said, said[-3000:]
    assert re.search(r"error: \S+/a\d\.png: cannot be decoded .*restore it", said), said


def test_the_truth_is_no_turn_of_itself() -> None:
    """Or a picture that lies on its side would pass for upright."""
    turns = [np.rot90(flipped, k) for flipped in (PICTURE, PICTURE[:, ::-1]) for k in range(4)]
    same = [turn for turn in turns if turn.shape == PICTURE.shape and (np.abs(turn.astype(int) - PICTURE) < 20).all()]
    assert len(same) == 1 and encoded("PNG") == whole("png")
