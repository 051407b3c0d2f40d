"""ROI extraction: images in; masks, overlays, crops of the regions found, and a table of them out.

python -m src.predict weights=emisnet_kvasir input=photo.jpg output=found
python -m src.predict run=runs/... input=folder output=found spacing=0.5 unit=mm
"""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from src.cli import ConfigError, entry_point
from src.config import check_number, check_switches, plain, user_errors

if TYPE_CHECKING:  # imported inside functions otherwise, so that --help does not wait for torch
    from src.data.dicom import Picture
    from src.inference import Segmenter
    from src.outputs import Extras
    from src.rois import PostProcess
    from src.trained import Trained

JSON = "rois.json"
BATCH_PIXELS = 16_000_000  # of images that go through the network together; a larger image goes alone
UNITS = ("mm", "um")
MODES = ("full", "coarse_to_fine", "tiled")  # of src.inference; oracle_crop needs the true mask
IMAGE_FAULTS = (ValueError, OSError, MemoryError, FloatingPointError, RuntimeError)  # RuntimeError: torch's for memory
SEGMENTER = ("mode", "tta", "threshold", "tile", "overlap", "precision", "batch_size", "device")  # keys of the config


def predict_files(
    trained: "Trained",
    segmenter: "Segmenter",
    files: "Sequence[tuple[Path, str]]",
    output: Path,
    *,
    post: "PostProcess",
    spacing: tuple[float, float] | None = None,
    unit: str = "mm",
    intensity: Sequence[float] | None = None,
    extras: "Extras | None" = None,
    max_pixels: int = 200_000_000,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Segments `files` (path, and the name that its results get under `output`) and writes what was found.

    A file that cannot be read, segmented or written for is told of and skipped. Tables grow image by image, so that
    what was done is not lost if the rest is interrupted. `spacing` (rows, columns) in `unit` is that of all images;
    without it a DICOM file's own (mm) is taken.

    Returns what rois.json holds: model, settings, and a record of each image.

    Raises:
        ValueError: results of the same name are there, and `overwrite` is not said; with it, all results of that name
            are removed first.
    """
    from src.data.decode import allow_pixels
    from src.files import write_text
    from src.outputs import Extras, Tables, forget, others, write_image

    names = [name for _, name in files]
    _refuse_to_overwrite(output, names, overwrite)
    for name in names:
        forget(output, name)
    if left := others(output, names):
        print(f"note: {output} also holds the masks of {left} other images, of an earlier call.", file=sys.stderr)
    allow_pixels(max_pixels)
    _make(output)
    settings = {
        **segmenter.protocol(),
        **{"threshold": segmenter.threshold, "precision": segmenter.precision, "postprocess": post.told()},
        **{"spacing": spacing, "unit": unit if spacing else "mm of DICOM files", "intensity": intensity},
    }
    told: dict[str, Any] = {"model": {"name": trained.name, **trained.told}, "settings": settings, "images": []}
    told["model"] |= {"file": str(trained.file), "sha256": trained.sha256}
    with ExitStack() as stack:
        (output / JSON).unlink(missing_ok=True)
        stack.callback(
            lambda: write_text(output / JSON, json.dumps(told))
        )  # also of what was done before an interruption
        tables = stack.enter_context(Tables(output))
        for path, name, picture in _segmented(segmenter, files, intensity, max_pixels):
            record: dict[str, Any] = {"file": str(path)}
            rows: list[dict[str, Any]] = []
            failure = picture if isinstance(picture, str) else ""
            if not failure:
                pixels, probs, own_spacing = picture
                its_spacing, its_unit = (spacing, unit) if spacing else (own_spacing, "mm")
                try:
                    cut = segmenter.threshold
                    more, rows = write_image(
                        pixels, probs, cut, output, name, post, its_spacing, its_unit, extras or Extras()
                    )
                    record |= {"status": "done", **more}
                except IMAGE_FAULTS as error:
                    failure = _fault(path, error)
            if failure:
                record |= {"status": "failed", "reason": failure}
                print(f"\n{failure}", file=sys.stderr)
            tables.add(record, rows)
            told["images"].append(record)
    return told


# ---- steps of predict_files


def _segmented(
    segmenter: "Segmenter", files: "Sequence[tuple[Path, str]]", intensity: Sequence[float] | None, max_pixels: int
) -> Iterator[tuple[Path, str, Any]]:
    """path, name, and either (pixels, probabilities, spacing) or why the file could not be read."""
    from src.progress import progress

    waiting: list[tuple[Path, str, Picture]] = []

    def ready() -> Iterator[tuple[Path, str, Any]]:
        try:
            predictions = list(segmenter.predict([picture.pixels for _, _, picture in waiting]))
        except IMAGE_FAULTS:
            predictions = []  # each by itself, to see which it is
        while waiting:  # each let go of before the next is made
            path, name, picture = waiting.pop(0)
            try:
                prediction = predictions.pop(0) if predictions else segmenter.predict([picture.pixels])[0]
                yield path, name, (picture.pixels, prediction.probabilities(), picture.spacing)
            except IMAGE_FAULTS as error:
                yield path, name, _fault(path, error)
            bar.update()

    with progress(len(files), "segmenting") as bar:
        for path, name in files:
            picture = _read(path, intensity, max_pixels)
            if isinstance(picture, str):
                yield from ready()  # in the order of the files
                yield path, name, picture
                bar.update()
                continue
            pixels = picture.pixels.size // 3 + sum(other.pixels.size // 3 for _, _, other in waiting)
            if waiting and (pixels > BATCH_PIXELS or len(waiting) >= segmenter.batch_size):
                yield from ready()
            waiting.append((path, name, picture))
            del picture
        yield from ready()


def _fault(path: Path, error: BaseException) -> str:
    return str(error) if str(path) in str(error) else f"{path}: {type(error).__name__}: {error}"


def _read(path: Path, intensity: Sequence[float] | None, max_pixels: int) -> "Picture | str":
    """The picture, or why there is none."""
    from src.data.pictures import read_picture

    try:
        return read_picture(path, max_pixels=max_pixels, intensity=intensity)
    except ValueError as error:
        return str(error)
    except MemoryError:
        return f"{path}: not enough memory to decode it; tile or downscale it first"


def _refuse_to_overwrite(output: Path, names: Sequence[str], overwrite: bool) -> None:
    from src.outputs import TABLES, mask_path

    paths = [*(output / table for table in TABLES), *(mask_path(output, name) for name in names)]
    there = [path for path in paths if os.path.lexists(path)]  # a link, too: what it leads to would be written
    if there and not overwrite:
        raise ValueError(
            f"output={output} holds results already, such as {there[0]}. Choose another output, or say overwrite=true."
        )


# ---- the command


def _run(cfg: DictConfig) -> None:
    with user_errors():
        config = plain(cfg)
        check_switches(config, "overwrite", "overlays", "crops", "rle", "fill_holes", "largest_only")
        given = [word for word in (config["run"], config["weights"]) if word]
        if len(given) != 1:
            raise ConfigError("which network? Give one of run=<directory or file> and weights=<name or file>.")
        if not config["input"]:
            raise ConfigError("which images? Give a file, a folder or a pattern: input=photo.jpg")
        for key, least in (("min_area", 0), ("max_pixels", 1), ("batch_size", 1)):
            check_number(config, key, least, whole=True)
        for key, least in (("tile", 32), ("threads", 1)):
            check_number(config, key, least, whole=True, optional=True)
        check_number(config, "margin", 0, whole=False)
        check_number(config, "threshold", 0, whole=False, optional=True)
        if config["unit"] not in UNITS:
            raise ConfigError(f"unit={config['unit']} is not known. Possible: {', '.join(UNITS)}.")
        output = Path(config["output"])
        if config["mode"] == "oracle_crop":
            raise ConfigError("mode=oracle_crop needs true masks; see python -m src.evaluate. Use coarse_to_fine.")
        if config["mode"] not in MODES:
            raise ConfigError(f"mode={config['mode']} is not possible. Use {', '.join(MODES)}.")
        from src.build import pin_threads
        from src.data.decode import checked_intensity
        from src.data.pictures import find_files
        from src.outputs import Extras
        from src.rois import PostProcess, checked_spacing
        from src.trained import open_trained

        files = find_files(config["input"], output)
        post = PostProcess(**{key: config[key] for key in ("fill_holes", "min_area", "largest_only")})
        spacing = checked_spacing(config["spacing"])
        if config["intensity"] is not None:
            checked_intensity(config["intensity"])
        pin_threads(config["threads"])
        trained = open_trained(given[0])
        segmenter = trained.segmenter(**{key: config[key] for key in SEGMENTER})
        extras = Extras(**{key: config[key] for key in ("crops", "margin", "overlays", "rle")})
        _tell_network(trained, segmenter)
        begun = time.perf_counter()
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # else rois.json would not be written
        told = predict_files(  # a ValueError of an image is told of in there
            trained,
            segmenter,
            files,
            output,
            post=post,
            spacing=spacing,
            extras=extras,
            **{key: config[key] for key in ("unit", "intensity", "max_pixels", "overwrite")},
        )
    failed = [image for image in told["images"] if image["status"] == "failed"]
    done = [image for image in told["images"] if image["status"] == "done"]
    empty = sum(not image["rois"] for image in done)
    print(
        f"{len(done)} of {len(files)} images segmented in {time.perf_counter() - begun:.1f} s: "
        f"{sum(len(image['rois']) for image in done)} ROIs, {empty} images without any; {len(failed)} files failed"
    )
    print(f"masks, overlays, crops, images.csv, rois.csv, rois.json: {output}")
    if failed:
        print("failed (images.csv says why): " + ", ".join(image["file"] for image in failed[:10]), file=sys.stderr)
        raise SystemExit(1)


def _make(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"output={output} cannot be made ({error.strerror}). Choose another.") from error


def _tell_network(trained: "Trained", segmenter: "Segmenter") -> None:
    told = trained.told
    whence = f", trained on {told['trained_on']} ({told['split']})" if told else ""
    size = "x".join(str(side) for side in trained.size)
    print(f"{trained.name}{whence}: {size} px, cut at {segmenter.threshold:g}, mode {segmenter.way}", file=sys.stderr)
    if segmenter.way not in trained.thresholds and segmenter.way != "full":
        print(
            f"note: no threshold was chosen for {segmenter.way} (python -m src.evaluate chooses one); that of full "
            "is taken.",
            file=sys.stderr,
        )


main = entry_point("predict", _run)

if __name__ == "__main__":
    main()
