"""ROI extraction as a command: what lies on disk afterwards, and what bad files and settings get."""

import csv
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from src.data.pictures import find_files, read_picture
from src.evaluate import evaluate_run
from src.inference import MODES, Segmenter
from src.outputs import Extras, crop, mask_path, overlay
from src.predict import main, predict_files
from src.rois import PostProcess, find_rois
from src.rundir import RunDir
from src.subject import own_source
from src.trained import open_trained

from . import dicoms
from .conftest import REPO, Call


def command(*arguments: str, cwd: Path = REPO) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    return subprocess.run(
        [sys.executable, "-m", "src.predict", *arguments], cwd=cwd, capture_output=True, text=True, env=environment
    )


@pytest.fixture
def photos(trained_run: Path, tmp_path: Path) -> Path:
    """The val images of the run as PNG files."""
    source = evaluate_source(trained_run)
    folder = tmp_path / "photos"
    folder.mkdir()
    for id_ in source.require("val"):
        cv2.imwrite(str(folder / f"{id_}.png"), cv2.cvtColor(source.load(id_)[0], cv2.COLOR_RGB2BGR))
    return folder


def evaluate_source(run: Path):
    return own_source(RunDir(run))


@pytest.fixture(scope="session")
def middle(trained_run: Path) -> float:
    """A threshold that divides the pixels of the val images: the run is hardly trained, and 0.5 would not."""
    source = evaluate_source(trained_run)
    maps = open_trained(trained_run).segmenter().probabilities([source.load(id_)[0] for id_ in source.require("val")])
    return round(float(np.median(np.concatenate([probs.ravel() for probs in maps]))), 4)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def segment(run: Path, given: Path | list[str], output: Path, *, mode: str = "full", **settings):
    trained = open_trained(run)
    segmenter = trained.segmenter(mode=mode, device="cpu", threshold=settings.pop("threshold", None))
    files = find_files([str(one) for one in given] if isinstance(given, list) else str(given), output)
    return predict_files(trained, segmenter, files, output, post=settings.pop("post", PostProcess()), **settings)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "oracle_crop"])
def test_masks_are_those_that_evaluate_scored(
    trained_run: Path, photos: Path, tmp_path: Path, mode: str, middle: float
) -> None:
    """To the pixel: its counts of every image are computed again, from the files."""
    threshold = middle
    evaluation = evaluate_run(trained_run, parts=["val"], mode=mode, threshold=threshold, device="cpu")
    segment(trained_run, photos, tmp_path / "out", mode=mode, threshold=threshold)
    assert len(evaluation.rows) == len(list(photos.iterdir())) > 3
    found = 0
    for row in evaluation.rows:
        mask = np.asarray(Image.open(mask_path(tmp_path / "out", row["id"])))
        truth = evaluation.source.load(row["id"])[1] > 0
        assert mask.shape == truth.shape and set(np.unique(mask)) <= {0, 255}
        pred = mask > 0
        counts = [int((pred & truth).sum()), int((pred & ~truth).sum()), int((~pred & truth).sum())]
        assert counts == [row["tp"], row["fp"], row["fn"]]
        found += counts[0]
    assert found > 0


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside pycocotools
def test_a_call_leaves_masks_overlays_crops_and_tables(
    trained_run: Path, photos: Path, tmp_path: Path, middle: float, call: Call
) -> None:
    out = tmp_path / "out"
    place = f"run={trained_run}", f"input={photos}", f"output={out}"
    done = call(main, *place, f"threshold={middle}", "rle=true", "spacing=0.5")
    assert done.returncode == 0, done.stderr
    files = sorted(file.stem for file in photos.iterdir())
    images, rois = read(out / "images.csv"), read(out / "rois.csv")
    told = json.loads((out / "rois.json").read_text())
    assert [Path(row["file"]).stem for row in images] == files and {row["status"] for row in images} == {"done"}
    assert f"{len(files)} of {len(files)} images" in done.stdout and f"{len(rois)} ROIs" in done.stdout
    assert told["model"]["name"] == trained_run.name and told["settings"]["threshold"] == middle
    assert told["settings"]["postprocess"] is None and told["settings"]["size"] == [32, 32]
    assert (
        len(rois) == sum(len(image["rois"]) for image in told["images"]) == sum(int(row["rois"]) for row in images) > 0
    )
    for row, image in zip(images, told["images"], strict=True):
        mask = np.asarray(Image.open(out / row["mask"])) > 0
        pixels = read_picture(image["file"]).pixels
        assert mask.shape == (int(row["height"]), int(row["width"])) == pixels.shape[:2]
        assert float(row["foreground"]) == pytest.approx(mask.mean(), abs=1e-6)
        shown = np.asarray(Image.open(out / "overlays" / f"{Path(row['file']).stem}.jpg"))
        assert shown.shape == pixels.shape
        assert (
            sum(coco.decode(coco.frPyObjects(roi["segmentation"], *mask.shape)) for roi in image["rois"]).sum()
            == mask.sum()
        )
        for roi in image["rois"]:
            x, y, width, height = roi["bbox"]
            more = round(0.1 * max(width, height))
            expected = pixels[max(0, y - more) : y + height + more, max(0, x - more) : x + width + more]
            file = out / "crops" / Path(row["file"]).stem / f"roi{roi['id']}.png"
            assert (np.asarray(Image.open(file)) == expected).all()
            of_table = next(r for r in rois if r["file"] == row["file"] and int(r["roi"]) == roi["id"])
            assert float(of_table["area"]) == pytest.approx(roi["area_px"] / 4, rel=1e-5)
            assert of_table["area_unit"] == "mm2"


def test_one_file_goes_the_same_way_as_many(trained_run: Path, photos: Path, tmp_path: Path, middle: float) -> None:
    segment(trained_run, photos, tmp_path / "all", threshold=middle)
    for file in sorted(photos.iterdir())[:2]:
        segment(trained_run, file, tmp_path / file.stem, threshold=middle)
        one, other = mask_path(tmp_path / file.stem, file.stem), mask_path(tmp_path / "all", file.stem)
        assert one.read_bytes() == other.read_bytes()


def test_nothing_is_overwritten_unless_said(trained_run: Path, photos: Path, tmp_path: Path, middle: float) -> None:
    out = tmp_path / "out"
    segment(trained_run, photos, out, threshold=middle)
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    with pytest.raises(ValueError, match=r"holds results already.*overwrite=true"):
        segment(trained_run, photos, out, threshold=0.99)
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before
    told = segment(trained_run, photos, out, threshold=0.99, overwrite=True)
    crops = sum(1 for _ in (out / "crops").rglob("*.png"))
    assert crops == sum(len(image["rois"]) for image in told["images"]) < len([f for f in before if "crops" in str(f)])


def test_a_single_mask_in_the_way_counts(trained_run: Path, photos: Path, tmp_path: Path) -> None:
    file = sorted(photos.iterdir())[0]
    mask_path(tmp_path / "out", file.stem).parent.mkdir(parents=True)
    mask_path(tmp_path / "out", file.stem).write_text("mine")
    with pytest.raises(ValueError, match="holds results already"):
        segment(trained_run, file, tmp_path / "out")
    assert mask_path(tmp_path / "out", file.stem).read_text() == "mine"


@pytest.mark.parametrize("place", ["images.csv", "rois.csv", "rois.json"])
def test_links_in_the_output_are_not_written_through(
    trained_run: Path, photos: Path, tmp_path: Path, place: str
) -> None:
    """Also dangling ones, which do not exist for whoever asks after what they lead to."""
    file, out = sorted(photos.iterdir())[0], tmp_path / "out"
    out.mkdir()
    for target in (tmp_path / "absent", tmp_path / "there"):
        (out / place).unlink(missing_ok=True)
        (out / place).symlink_to(target)
        if target.name == "there":
            target.write_text("mine")
        with pytest.raises(ValueError, match="holds results already"):
            segment(trained_run, file, out)
    segment(trained_run, file, out, overwrite=True)
    assert (tmp_path / "there").read_text() == "mine" and not (tmp_path / "absent").exists()
    assert (out / place).is_file() and not (out / place).is_symlink()


def test_postprocessing_is_done_where_asked_for_and_told(
    trained_run: Path, photos: Path, tmp_path: Path, middle: float
) -> None:
    post = PostProcess(fill_holes=True, largest_only=True)
    told = segment(trained_run, photos, tmp_path / "out", threshold=middle, post=post)
    assert told["settings"]["postprocess"] == "holes filled, largest object only"
    assert {len(image["rois"]) for image in told["images"]} <= {0, 1}
    segmenter = open_trained(trained_run).segmenter(threshold=middle)
    for image in told["images"]:
        (probs,) = segmenter.probabilities([read_picture(image["file"]).pixels])
        expected = find_rois(probs, middle, post)[0] > 0
        assert ((np.asarray(Image.open(tmp_path / "out" / image["mask"])) > 0) == expected).all()


def test_extras_are_left_out(trained_run: Path, photos: Path, tmp_path: Path) -> None:
    segment(trained_run, photos, tmp_path / "out", extras=Extras(crops=False, overlays=False))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"masks", "images.csv", "rois.csv", "rois.json"}
    assert "segmentation" not in (tmp_path / "out" / "rois.json").read_text()


# ---- formats, and files that are none


def test_every_format_gives_its_mask(trained_run: Path, tmp_path: Path, middle: float) -> None:
    """Of one picture: lossless files the very mask, DICOM with the spacing it says."""
    pixels = evaluate_source(trained_run).load(evaluate_source(trained_run).require("val")[0])[0]
    folder = tmp_path / "in"
    folder.mkdir()
    for kind in ("png", "bmp", "tif", "webp", "jpg"):
        how = {"lossless": True} if kind == "webp" else {"quality": 95} if kind == "jpg" else {}
        Image.fromarray(pixels).save(folder / f"{kind}.{kind}", **how)
    dicoms.write(folder / "dicom.dcm", pixels, "RGB", PixelSpacing=[2.0, 0.5])
    exif = Image.Exif()
    exif[0x112] = 6  # stored lying on its side
    Image.fromarray(np.rot90(pixels, 1)).save(folder / "turned.png", exif=exif)
    told = segment(trained_run, folder, tmp_path / "out", threshold=middle)
    masks = {Path(i["file"]).stem: np.asarray(Image.open(tmp_path / "out" / i["mask"])) for i in told["images"]}
    assert (
        set(masks) == {"png", "bmp", "tif", "webp", "jpg", "dicom", "turned"} and 0.1 < (masks["png"] > 0).mean() < 0.9
    )
    for name in ("bmp", "tif", "webp", "dicom", "turned"):
        assert (masks[name] == masks["png"]).all(), name
    assert (masks["jpg"] == masks["png"]).mean() > 0.9
    by_name = {Path(image["file"]).stem: image for image in told["images"]}
    assert by_name["dicom"]["spacing"] == (2.0, 0.5) and by_name["dicom"]["unit"] == "mm"
    for roi in by_name["dicom"]["rois"]:
        assert roi["area"] == roi["area_px"]  # 2 * 0.5
    assert by_name["png"]["spacing"] is None and all(roi["area"] is None for roi in by_name["png"]["rois"])


def _png(width: int, height: int, data: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def hostile(folder: Path, whole: bytes) -> dict[str, str]:
    """Writes files that are no images to segment; name -> what is said of each."""
    animated = [Image.new("L", (8, 8), shade) for shade in (0, 90, 180)]
    animated[0].save(folder / "animated.webp", save_all=True, append_images=animated[1:])
    Image.new("I;16", (40, 40), 3000).save(folder / "deep.png")
    Image.new("RGBA", (40, 40), (255, 0, 0, 100)).save(folder / "glass.png")
    contents = {
        "empty.png": b"",
        "cut.png": whole[: len(whole) // 2],
        "text.jpg": b"no picture at all\n" * 30,
        "page.png": b"<html><script>alert(1)</script></html>",
        "drawing.png": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "postscript.tif": b"%!PS-Adobe-3.0\n(%pipe%touch owned) (w) file\n",
        "bomb.png": _png(50_000, 50_000, b"\0" * 1000),
        "starved.png": _png(4000, 4000, b"\0" * 1000),
        "bare.dcm": b"\0" * 128 + b"DICM",
        "zip.webp": b"PK\x03\x04" + b"\0" * 100,
        "noise.bmp": bytes(range(256)) * 8,
        "pickle.png": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0btouch owned\x85R.",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "broken_link.png").symlink_to(folder / "gone.png")
    contents["broken_link.png"] = b""
    said = dict.fromkeys(contents, "not a readable|cannot be decoded|no such file")
    return said | {
        "bomb.png": "2500000000 pixels.*the limit is 200,000,000",
        "animated.webp": "3 pages or frames",
        "deep.png": "mode I;16",
        "glass.png": "alpha channel is not opaque",
        "bare.dcm": "holds no pixels",
    }


def test_a_bad_file_is_reported_and_does_not_stop_the_rest(trained_run: Path, photos: Path, tmp_path: Path) -> None:
    import re

    good = sorted(file.name for file in photos.iterdir())
    said = hostile(photos, (photos / good[0]).read_bytes())
    out = tmp_path / "out"
    done = command(f"run={trained_run}", f"input={photos}", f"output={out}", "threshold=0.4", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert (
        f"{len(good)} of {len(good) + len(said)} images" in done.stdout and f"{len(said)} files failed" in done.stdout
    )
    rows = {Path(row["file"]).name: row for row in read(out / "images.csv")}
    assert {name for name, row in rows.items() if row["status"] == "done"} == set(good)
    for name, words in said.items():
        assert rows[name]["status"] == "failed" and re.search(words, rows[name]["reason"]), rows[name]
        assert name in rows[name]["reason"]
        assert not mask_path(out, Path(name).stem).exists()
    assert not any(path.name == "owned" for path in tmp_path.rglob("*"))
    told = json.loads((out / "rois.json").read_text())
    assert [image["status"] for image in told["images"]] == [row["status"] for row in read(out / "images.csv")]


def test_odd_shapes_are_segmented(trained_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name, size in {"dot": (1, 1), "line": (3000, 1), "tower": (2, 900)}.items():
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)).save(
            folder / f"{name}.png"
        )
    for mode in ("full", "coarse_to_fine", "tiled"):
        told = segment(trained_run, folder, tmp_path / mode, mode=mode, threshold=0.4)
        assert {(i["height"], i["width"]) for i in told["images"]} == {(1, 1), (3000, 1), (2, 900)}


MEMORY = """
import sys
from pathlib import Path
from src.predict import predict_files
from src.rois import PostProcess
from src.trained import open_trained
run, folder = sys.argv[1], Path(sys.argv[2])
trained = open_trained(run)
segmenter = trained.segmenter(mode="tiled", tile=512, threshold=float(sys.argv[3]), device="cpu")
for name in ("small", "large"):
    predict_files(trained, segmenter, [(folder / f"{name}.jpg", name)], folder / "out" / name, post=PostProcess())
    # the peak of this process; ru_maxrss would also know that of the one that started it
    print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024)
"""


@pytest.mark.slow
def test_memory_grows_by_few_bytes_a_pixel(trained_run: Path, tmp_path: Path, middle: float) -> None:
    """Of 12000 x 9000 pixels 32 bytes each would be 3.5 GB: with the libraries' 0.6 less than 4 GB are needed in all.
    (Only the first of the numbers below is of the small image; a peak does not fall.)"""
    height, width = 4500, 6000
    noise = np.random.default_rng(0).integers(0, 256, (height // 50, width // 50, 3), dtype=np.uint8)
    large = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(tmp_path / "large.jpg"), large)
    cv2.imwrite(str(tmp_path / "small.jpg"), large[:600, :600])
    words = [sys.executable, "-c", MEMORY, str(trained_run), str(tmp_path), str(middle)]
    done = subprocess.run(words, cwd=REPO, capture_output=True, text=True, check=True)
    small, whole = map(int, done.stdout.split())
    assert 0 < (whole - small) / (height * width) < 32
    assert np.asarray(Image.open(mask_path(tmp_path / "out" / "large", "large"))).shape == (height, width)


def test_a_call_over_another_leaves_nothing_of_it(
    trained_run: Path, photos: Path, tmp_path: Path, middle: float, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    segment(trained_run, photos, out, threshold=middle)
    first, *others = sorted(photos.iterdir())
    mine = out / "crops" / first.stem / "roi_annotated.png"
    mine.write_text("of someone's own")
    (out / "masks" / "elsewhere.png").touch()
    first.write_bytes(b"no longer a picture")
    told = segment(trained_run, photos, out, threshold=middle, overwrite=True, extras=Extras(overlays=False))
    assert [image["status"] for image in told["images"]] == ["failed"] + ["done"] * len(others)
    assert not mask_path(out, first.stem).exists() and not list((out / "overlays").iterdir())
    assert [path for path in (out / "crops" / first.stem).iterdir()] == [mine]
    assert "also holds the masks of 1 other images" in capsys.readouterr().err


def test_one_image_that_cannot_be_segmented_or_written(
    trained_run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, middle: float
) -> None:
    """Of one batch: the others of it are done, and the tables stay in the order of the files."""
    second, third = sorted(photos.iterdir())[1:3]
    marked = read_picture(second).pixels
    predict = Segmenter.predict

    def failing(self: Segmenter, images, masks=None):
        if any(image.shape == marked.shape and (image == marked).all() for image in images):
            raise FloatingPointError("not finite")
        return predict(self, images, masks)

    monkeypatch.setattr(Segmenter, "predict", failing)
    (tmp_path / "out" / "crops").mkdir(parents=True)
    (tmp_path / "out" / "crops" / third.stem).touch()  # where its crops' folder would be
    told = segment(trained_run, photos, tmp_path / "out", threshold=middle)
    by_name = {Path(image["file"]).name: image for image in told["images"]}
    assert list(by_name) == sorted(file.name for file in photos.iterdir())
    assert "not finite" in by_name[second.name]["reason"] and by_name[third.name]["status"] == "failed"
    assert [image["status"] for image in told["images"]].count("done") == len(by_name) - 2
    assert [row["status"] for row in read(tmp_path / "out" / "images.csv")] == [i["status"] for i in told["images"]]


def test_names_of_any_bytes_and_lengths(
    trained_run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = sorted(photos.iterdir())[0].read_bytes()
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in (b"\xff\xfe.png", b"=HYPERLINK(1).png", b"a" * 240 + b".png", "\u202egnp.png".encode(), b"a\nb.png"):
        (folder / os.fsdecode(name)).write_bytes(content)
    told = segment(trained_run, folder, tmp_path / "out", extras=Extras(crops=False))
    assert {image["status"] for image in told["images"]} == {"done"} and len(told["images"]) == 5
    with (tmp_path / "out" / "images.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 and all(Path(tmp_path / "out" / "masks").iterdir())
    assert segment(trained_run, [folder / "=HYPERLINK(1).png"], tmp_path / "one")["images"]
    monkeypatch.chdir(folder)
    segment(trained_run, ["=HYPERLINK(1).png"], tmp_path / "two")
    assert read(tmp_path / "two" / "images.csv")[0]["file"] == "'=HYPERLINK(1).png"


def test_a_call_that_is_stopped_leaves_what_was_done(trained_run: Path, photos: Path, tmp_path: Path) -> None:
    """SIGTERM, as Slurm and containers send it: the tables and rois.json of the images that were done."""
    slow = (
        "import time, src.outputs as o; write = o.write_image\n"
        "def slow(*a, **k): done = write(*a, **k); print('done', flush=True); time.sleep(1); return done\n"
        "o.write_image = slow\nfrom src.predict import main; main()"
    )
    words = [f"run={trained_run}", f"input={photos}", f"output={tmp_path / 'out'}"]
    with subprocess.Popen([sys.executable, "-c", slow, *words], cwd=REPO, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n" and process.stdout.readline() == "done\n"
        process.terminate()
        assert process.wait() == 143
    told = json.loads((tmp_path / "out" / "rois.json").read_text())
    assert len(told["images"]) == len(read(tmp_path / "out" / "images.csv")) >= 1


# ---- which files, and under which names


def test_names_of_results(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "b/a.png", "b/c.d.tif", "b/ e\nf.PNG", "...png", "notes.txt", "out/masks/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    named = {str(path.relative_to(tmp_path)): name for path, name in find_files(str(tmp_path), tmp_path / "out")}
    assert named == {
        "a.png": "a.png",
        "a.jpg": "a.jpg",
        "b/a.png": "b/a",
        "...png": "...png",
        "b/c.d.tif": "b/c.d",
        "b/ e\nf.PNG": "b/ e\nf",
    }
    assert find_files(str(tmp_path / "b" / "a.png"), tmp_path / "out") == [(tmp_path / "b" / "a.png", "a")]
    found = find_files(str(tmp_path / "**" / "a.*"), tmp_path / "out")
    assert [name for _, name in found] == ["a.jpg", "a.png", "b/a"]
    assert find_files([str(tmp_path / "a.png")] * 2, tmp_path / "out") == [(tmp_path / "a.png", "a")]
    with pytest.raises(ValueError, match="would have one name"):
        find_files([str(tmp_path / "a.png"), str(tmp_path / "b" / "a.png")], tmp_path / "out")
    (tmp_path / "b" / "sub").mkdir()
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "x.png").touch()
    with pytest.raises(ValueError, match="lies outside"):
        find_files(str(tmp_path / "b" / "*" / ".." / ".." / "inner" / "x.png"), tmp_path / "out")
    with pytest.raises(ValueError, match=r"nothing is there"):
        find_files(str(tmp_path / "absent.png"), tmp_path / "out")
    with pytest.raises(ValueError, match=r"no image among 1 files"):
        find_files(str(tmp_path / "*.txt"), tmp_path / "out")


def test_results_of_an_earlier_call_are_no_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "out/masks/a.png", "out/overlays/a.jpg", "out/crops/a/roi1.png", "masks/m.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    for given, output in ((".", "out"), (str(tmp_path), "out"), (".", str(tmp_path / "out"))):
        assert [name for _, name in find_files(given, Path(output))] == ["a", "masks/m"]
    assert [name for _, name in find_files(".", Path("."))] == [
        "a",
        "out/crops/a/roi1",
        "out/masks/a",
        "out/overlays/a",
    ]


def test_dicom_files_need_no_suffix(tmp_path: Path) -> None:
    pixels = np.zeros((4, 5), np.uint8)
    for name in ("IM0001", "1.2.840.113619.2.5", "scan.dcm"):
        dicoms.write(tmp_path / name, pixels)
    (tmp_path / "1.2.notes").write_text("no image")
    assert {path.name for path, _ in find_files(str(tmp_path), tmp_path / "out")} == {
        "IM0001",
        "1.2.840.113619.2.5",
        "scan.dcm",
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run=RUN", "input=IN", "+mod=tiled"], "there is no key or group 'mod'"),
        (["run=RUN", "input=IN", "overlap=a"], "overlap=a"),
        (["run=RUN", "input=IN", "batch_size='8'"], "batch_size=8 is not possible"),
        (["run=RUN", "input=IN", "tile=64.5"], "tile=64.5"),
        (["run=RUN", "input=IN", "tile=0"], "tile=0"),
        (["run=RUN", "input=IN", "margin=x"], "margin=x"),
        (["run=RUN", "input=IN", "device=banana"], "device=banana"),
        (["run=RUN", "input=IN", "spacing=true"], "spacing=True"),
        (["run=RUN", "input=IN", "intensity=[5]"], "intensity=[5]"),
        (["run=RUN", "input=IN", "output=/proc/none"], "output=/proc/none cannot be made"),
        (["input=x.png"], "which network"),
        (["run=a", "weights=b", "input=x.png"], "which network"),
        (["run=RUN"], "which images"),
        (["run=RUN", "input=absent.png"], "input=absent.png: nothing is there"),
        (["run=RUN", "input=IN", "mode=oracle_crop"], "oracle_crop needs true masks"),
        (["run=RUN", "input=IN", "mode=half"], "mode=half is not possible. Use full, coarse_to_fine, tiled."),
        (["run=RUN", "input=IN", "spacing=-1"], "spacing=-1"),
        (["run=RUN", "input=IN", "unit=inch"], "unit=inch"),
        (["run=RUN", "input=IN", "fill_holes=perhaps"], "fill_holes=perhaps"),
        (["run=nowhere/at_all", "input=IN"], "not a complete run directory"),
    ],
)
def test_bad_settings_end_with_code_2(
    trained_run: Path, photos: Path, tmp_path: Path, arguments, said: str, monkeypatch, call: Call
) -> None:
    words = [word.replace("RUN", str(trained_run)).replace("IN", str(photos)) for word in arguments]
    monkeypatch.chdir(tmp_path)
    done = call(main, f"output={tmp_path / 'out'}", *words)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()


# ---- pictures


def test_an_overlay_tints_the_mask_alone() -> None:
    image = np.full((50, 60, 3), 100, np.uint8)
    mask = np.zeros((50, 60), np.uint8)
    mask[10:30, 10:30] = 255
    shown = overlay(image, mask, 0.5)
    assert (shown[40:, 40:] == 100).all() and shown[20, 20].tolist() == [178, 85, 85]
    assert shown[10, 10].tolist() == [255, 70, 70]  # the border
    assert overlay(np.zeros((3000, 6000, 3), np.uint8), np.zeros((3000, 6000), np.uint8)).shape == (1024, 2048, 3)


def test_a_crop_stays_inside_the_image() -> None:
    image = np.arange(20 * 30 * 3, dtype=np.uint16).astype(np.uint8).reshape(20, 30, 3)
    probs = np.zeros((20, 30), np.float32)
    probs[0:10, 5:10] = 1
    _, (roi,) = find_rois(probs, 0.5)
    assert (crop(image, roi, 0) == image[0:10, 5:10]).all()
    assert (crop(image, roi, 0.2) == image[0:12, 3:12]).all()
