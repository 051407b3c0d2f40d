"""Valid files, damaged at random in a fixed number of ways: whoever reads one gets a value of the right kind or a
ValueError that names the file; no other error, no crash, no warning, and all in a short time."""

import io
import json
import random
import shutil
import struct
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from src.data.archives import extract
from src.data.decode import image_size, read_mask
from src.data.pictures import Picture, read_picture
from src.files import read_csv
from src.rundir import RunDir
from src.trained import Trained, onnx_metadata, open_trained
from src.weights import read_checkpoint, read_state

from ..odd.files import encoded, whole
from ..odd.medical import medical
from ..odd.readable import alpha, modes, turned

MUTATIONS = 300  # of each kind of file
SECONDS = 60.0  # for one reading, on a machine ten times as slow as ours
MAX_PIXELS = 1_000_000  # what a damaged header declares is not to fill the memory of a test
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """`content` with one to four changes of the kinds that disks, networks, tools and attackers make."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not changed:
            break
        at, length = rng.randrange(len(changed)), rng.choice((1, 2, 4, 16, 100))
        if rng.random() < 0.5:
            at = rng.randrange(min(len(changed), 256))  # headers are read with the least care
        kind = rng.randrange(8)
        if kind == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at : at + length] = rng.randbytes(length)
        elif kind == 2:
            changed[at : at + length] = bytes([rng.choice((0, 0xFF))]) * length
        elif kind == 3:
            order, width = rng.choice("<>"), rng.choice(((1, "B"), (2, "H"), (4, "I")))
            value = rng.choice(EXTREMES) % (1 << 8 * width[0])
            changed[at : at + width[0]] = struct.pack(f"{order}{width[1]}", value)
        elif kind == 4:
            del changed[at : at + length]
        elif kind == 5:
            changed[at:at] = changed[at : at + length]
        elif kind == 6:
            del changed[at:]
        else:
            other = rng.randrange(len(changed))
            changed[at : at + length] = changed[other : other + length]
    return bytes(changed)


def mutated_png(content: bytes, rng: random.Random) -> bytes:
    """Half of them with right check sums, or nothing behind those would ever be reached."""
    if rng.random() < 0.5:
        return mutated(content, rng)
    chunks, place = [], 8
    while place < len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        chunks.append((kind, content[place + 8 : place + 8 + length]))
        place += 12 + length
    chosen = rng.randrange(len(chunks))
    kind, data = chunks[chosen]
    if kind == b"IDAT" and rng.random() < 0.5:  # rows that are packed well, but are others
        data = zlib.compress(mutated(zlib.decompress(data), rng))
    elif rng.random() < 0.8:
        data = mutated(data, rng)
    chunks[chosen] = (kind, data)
    if rng.random() < 0.2:
        rng.shuffle(chunks)
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def readings(
    path: Path,
    seeds: list[bytes],
    read: Callable[[Path], object],
    mutate: Callable[[bytes, random.Random], bytes] = mutated,
) -> Iterator[object]:
    """What was read of MUTATIONS damaged files, or the ValueError; fails for anything else, naming how to make it."""
    for number in range(MUTATIONS):
        path.write_bytes(mutate(seeds[number % len(seeds)], random.Random(number)))
        begun = time.monotonic()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            warnings.filterwarnings("ignore", category=Warning, module="PIL")  # as src.data.decode does
            try:
                found = read(path)
            except ValueError as error:
                assert str(path) in str(error), f"mutation {number}: {error}"
                found = error
            except Exception as error:
                pytest.fail(f"mutation {number} of {path.name}: {type(error).__name__}: {error}")
        assert not warned, f"mutation {number}: {warned[0].message}"
        assert time.monotonic() - begun < SECONDS, f"mutation {number} took {time.monotonic() - begun:.1f} s"
        yield found


def refused_share(found: list[object]) -> float:
    return sum(isinstance(one, ValueError) for one in found) / len(found)


def seeds_of(suffix: str, folder: Path) -> list[bytes]:
    """The files of one format that the corpus has and that can be read."""
    folder.mkdir()
    contents = []
    for odd in (*modes(), *turned(), *alpha(), *medical()):
        if odd.name.endswith(f".{suffix}") and not odd.is_refused:
            odd.write(folder / odd.name)
            contents.append((folder / odd.name).read_bytes())
    return contents


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "bmp", "dcm"])
def test_damaged_pictures(tmp_path: Path, suffix: str) -> None:
    def read(path: Path) -> Picture:
        return read_picture(path, max_pixels=MAX_PIXELS)

    mutate = mutated_png if suffix == "png" else mutated
    found = list(readings(tmp_path / f"a.{suffix}", seeds_of(suffix, tmp_path / "whole"), read, mutate))
    for picture in found:
        if isinstance(picture, Picture):
            assert picture.pixels.dtype == np.uint8 and picture.pixels.ndim == 3 and picture.pixels.shape[2] == 3
    assert 0.2 < refused_share(found) < 1  # else nothing was damaged, or nothing reached


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_damaged_masks(tmp_path: Path, suffix: str) -> None:
    def read(path: Path) -> tuple[np.ndarray, tuple[int, int]]:
        return read_mask(path, "auto"), image_size(path)

    blob = np.zeros((30, 40), np.uint8)
    blob[5:20, 8:30] = 255
    kind = {"png": "PNG", "tif": "TIFF"}[suffix]
    seeds = [
        encoded(kind, blob),
        encoded(kind, blob, "1"),
        encoded(kind, blob, "P"),
        encoded(kind, blob.astype(np.uint16)),
    ]
    found = list(readings(tmp_path / f"a.{suffix}", seeds, read, mutated_png if suffix == "png" else mutated))
    for one in found:
        if isinstance(one, tuple):
            mask, size = one
            assert mask.dtype == np.uint8 and set(np.unique(mask)) <= {0, 1} and mask.shape == size
    assert 0.2 < refused_share(found) < 1


@pytest.mark.parametrize("name", ["config.yaml", "metrics.json", "threshold.json", "status.json"])
def test_damaged_files_of_a_run(trained_run: Path, tmp_path: Path, name: str) -> None:
    def read(path: Path) -> object:
        return getattr(RunDir(path.parent), path.stem)()

    found = list(readings(tmp_path / name, [(trained_run / name).read_bytes()], read))
    assert all(isinstance(one, dict | ValueError) for one in found) and 0.1 < refused_share(found) < 1


def test_damaged_checkpoints(tmp_path: Path) -> None:
    stream = io.BytesIO()
    torch.save(
        {"epoch": 3, "state_dict": {"net.a": torch.randn(4, 4), "net.b": torch.ones(3)}, "more": [1, "x"]}, stream
    )
    found = list(readings(tmp_path / "a.ckpt", [stream.getvalue()], read_checkpoint))
    assert all(isinstance(one, dict | ValueError) for one in found) and refused_share(found) > 0.2


def test_damaged_safetensors(tmp_path: Path) -> None:
    whole_file = save({"a": torch.randn(4, 4), "b": torch.ones(3)})
    found = list(readings(tmp_path / "a.safetensors", [whole_file], read_state))
    assert all(isinstance(one, dict | ValueError) for one in found) and 0.1 < refused_share(found) < 1


def test_damaged_archives(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images/a.png", whole("png"))
        archive.writestr("images/b.txt", b"word " * 40)
        archive.writestr("masks/", b"")
    into = tmp_path / "into"

    def unpack(path: Path) -> list[str]:
        into.mkdir()
        try:
            extract(path, into)
        except ValueError:
            assert not list(into.iterdir())  # nothing of it
            raise
        finally:
            held = [file for file in into.rglob("*") if file.is_file()]
            shutil.rmtree(into)
        return [file.name for file in held]

    found = list(readings(tmp_path / "a.zip", [stream.getvalue()], unpack))
    assert 0.2 < refused_share(found) < 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_damaged_tables(trained_run: Path, tmp_path: Path) -> None:
    found = list(readings(tmp_path / "a.csv", [(trained_run / "per_image.csv").read_bytes()], read_csv))
    for rows in found:
        if isinstance(rows, list):
            assert all(isinstance(key, str) and isinstance(value, str) for row in rows for key, value in row.items())
    assert 0.1 < refused_share(found) < 1


def test_damaged_words_in_an_onnx_file(trained_run: Path, tmp_path: Path) -> None:
    """Its metadata; ONNX Runtime answers for the rest of the file."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    held = json.dumps(onnx_metadata(open_trained(trained_run))).encode()
    image = onnx.helper.make_tensor_value_info("image", 1, ["b", 3, "h", "w"])
    logits = onnx.helper.make_tensor_value_info("logits", 1, ["b", 1, "h", "w"])
    mean = onnx.helper.make_node("ReduceMean", ["image"], ["logits"], axes=[1])
    graph = onnx.helper.make_graph([mean], "net", [image], [logits])
    opset = [onnx.helper.make_opsetid("", 17)]

    def with_damaged_words(words: bytes, rng: random.Random) -> bytes:
        model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
        text = mutated(words, rng).decode("utf-8", "replace")
        model.metadata_props.add(key="emisnet", value=text)
        return model.SerializeToString()

    found = list(readings(tmp_path / "a.onnx", [held], open_trained, with_damaged_words))
    assert all(isinstance(one, Trained | ValueError) for one in found) and 0.2 < refused_share(found) < 1
