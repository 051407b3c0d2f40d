"""Run directories whose plain values ask for too much or are none: one message, soon, and no memory lost."""

import json
import resource
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from src.build import build_within
from src.evaluate import evaluate_run
from src.masks import read_masks
from src.recheck import recheck
from src.rundir import RunDir
from src.trained import open_trained
from tests.nets import MODELS, build, model_config

SOON, LITTLE = 60.0, 0.5e9  # s on a machine ten times as slow as ours; bytes


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained_run, tmp_path / "run")


def refused(open_it: Callable[[], Any], said: str) -> None:
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=said):
        open_it()
    assert time.monotonic() - begun < SOON
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < LITTLE


def changed(run: Path, key: str, value: Any) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    *above, last = key.split(".")
    node = config
    for name in above:
        node = node[name]
    node[last] = value
    (run / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.encoder_depths", [10**9] * 5),
        ("model.decoder_depths", [10**6] * 4),
        ("model.channels", [10**6] * 5),
        ("model.num_classes", 10**9),
        ("model.local_kernel_size", 999_999),
        ("threads", 10**6),
        ("threads", -1),
        ("threads", "many"),
        ("data.size", 10**6),
        ("data.size", 0),
        ("data.mean", None),
        ("data.counts", [10**9, 5, 6]),
        ("data.native_size", [10**6, 10**6]),
        ("data", None),
        ("model", "emisnet"),
    ],
)
def test_what_asks_for_too_much_is_refused(run: Path, key: str, value: Any) -> None:
    changed(run, key, value)
    refused(lambda: evaluate_run(run, device="cpu"), ".")


@pytest.mark.parametrize("name", ["cmunext", "mkunet", "mkunet_t"])
def test_a_rival_of_endless_depth_is_refused(name: str) -> None:
    model = model_config(name) | {"depths": [10**7, 1, 1, 1, 1]}
    refused(lambda: build_within(model, 10**12, "a stranger"), "a level has from 1 to 100 blocks")


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_built_within_what_its_file_holds(name: str) -> None:
    """Without memory first, which smp's mit encoders cannot be."""
    model = model_config(name)
    needed = sum(parameter.numel() * parameter.element_size() for parameter in build(name).parameters())
    assert build_within(model, needed, "a file")
    refused(lambda: build_within(model, needed - 1, "a file"), "asks for .* MB of parameters")


@pytest.mark.parametrize("key", ["num_classes", "in_channels"])
def test_a_network_that_must_be_built_to_be_measured_is_bounded_before(key: str) -> None:
    refused(lambda: build_within(model_config("segformer") | {key: 10**6}, 10**6, "a stranger"), "at most 1000 here")


BOMBS = {
    "aliases": "a: &a [1,1,1,1,1,1,1,1,1]\n"
    + "".join(
        f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "itself": "model: &a {inner: *a}\n",
    "nested": "model: " + "[" * 50_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_config_that_unfolds_without_end_is_refused(run: Path, name: str) -> None:
    (run / "config.yaml").write_text(BOMBS[name])
    refused(RunDir(run).config, r"config\.yaml cannot be read .*It was changed or damaged")


def test_a_config_with_some_aliases_is_read(run: Path) -> None:
    (run / "config.yaml").write_text("a: &a [1, 2]\nb: *a\nc: [*a, *a]\n")
    assert RunDir(run).config() == {"a": [1, 2], "b": [1, 2], "c": [[1, 2], [1, 2]]}


@pytest.mark.parametrize("name", ["metrics.json", "threshold.json", "split.json", "lineage.json", "per_image.csv"])
@pytest.mark.parametrize("text", ["[" * 200_000, "{}", "[]", "null", '{"a": ' * 5000, "height,width\n-5,5\nx,y\n"])
def test_malformed_values_are_messages(run: Path, name: str, text: str) -> None:
    (run / name).write_text(text)

    def look() -> None:
        from src.lineage import read_lineage

        open_trained(run)
        read_lineage(run)
        recheck(run, device="cpu")
        raise ValueError("all of it is possible")  # such as {} for a threshold that nobody chose

    refused(look, r"restore|damaged|cannot be read|holds a|none was|possible")


@pytest.mark.parametrize("state", [[1, 2], {1: torch.zeros(1)}, {"net.head.bias": "x"}, None])
def test_a_checkpoint_of_something_else_is_named(run: Path, state: Any) -> None:
    torch.save({"epoch": 0, "state_dict": state}, run / "checkpoints" / "best.ckpt")
    refused(lambda: open_trained(run), r"best\.ckpt is not a readable checkpoint")


def test_a_compressed_checkpoint_is_refused_before_it_unpacks(run: Path) -> None:
    path = run / "checkpoints" / "best.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x/data.pkl", "w") as entry:
        for _ in range(200):
            entry.write(bytes(10**7))
    refused(lambda: open_trained(run), r"best\.ckpt is not a readable checkpoint .*compressed")


@pytest.mark.parametrize("shape", [(10**13,), (3 * 10**9,)])
def test_masks_that_would_fill_the_memory_are_refused(tmp_path: Path, shape: tuple[int]) -> None:
    path = tmp_path / "masks.npz"
    header = json.dumps({"descr": "|u1", "fortran_order": False, "shape": list(shape)})
    header = header.replace("[", "(").replace("]", ",)").replace("false", "False").replace('"', "'").ljust(117) + "\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("ids", "parts", "shapes", "bits"):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                entry.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
                for _ in range(60 if shape[0] < 10**10 else 1):
                    entry.write(bytes(10**7))
    refused(lambda: read_masks(path, "val"), r"masks\.npz holds no masks")
    np.savez(path, ids=["a"], parts=["val"], shapes=[[2, 4]], bits=np.zeros(1, np.uint8))
    assert read_masks(path, "val").mask("a").shape == (2, 4)
