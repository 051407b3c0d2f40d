"""What a run was made with is recorded, and compared where it goes on or is looked at again."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from src.cli import ConfigError
from src.data.source import DataSource
from src.provenance import machine, processor, short_commit
from src.recheck import recheck
from src.rundir import RunDir
from src.train import train

from .layouts import example_pairs, write_kvasir_seg

IDS = [f"picture_{number:02}" for number in range(12)]
OF_FOLDER = ("data.size=32", "data.batch_size=4", "data.mask=threshold", "trainer.max_epochs=1")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_kvasir_seg(tmp_path / "pictures", False, example_pairs(IDS, (48, 64)))


def source(root: Path, **arguments: Any) -> DataSource:
    from src.data.datasets import Folder

    made = {"root": str(root), "size": 32, "mask": "threshold", "allow_leaks": True, **arguments}
    return Folder(**made)


def darken(file: Path) -> None:
    """The same size, other pixels."""
    with Image.open(file) as image:
        Image.eval(image, lambda value: value // 2).save(file, quality=95)


def test_contents_are_of_the_bytes_not_of_the_place(root: Path, tmp_path: Path) -> None:
    before = source(root)
    parts = list(before.parts)
    digests = before.contents(parts)
    assert set(digests) == {"train", "val", "test"} and len(set(digests.values())) == 3
    moved = source(shutil.copytree(root, tmp_path / "moved"), cache=str(tmp_path / "cache"))
    assert moved.contents(parts) == digests == moved.contents(parts)
    assert source(root).contents(["val"]) == {"val": digests["val"]}


@pytest.mark.parametrize("kind", ["images", "masks"])
@pytest.mark.parametrize("cached", [True, False])
def test_one_changed_file_changes_its_part_alone(root: Path, tmp_path: Path, kind: str, cached: bool) -> None:
    more = {"cache": str(tmp_path / "cache")} if cached else {}
    before = source(root, **more)
    parts = list(before.parts)
    digests = before.contents(parts)
    darken(root / kind / f"{before.parts['val'][0]}.jpg")
    after = source(root, **more).contents(parts)
    assert {part for part in parts if after[part] != digests[part]} == {"val"}


def test_a_part_that_is_not_all_there_has_none(root: Path) -> None:
    whole = source(root)
    assert whole.parts["test"]
    del whole.pairs[whole.parts["test"][0]]
    assert set(whole.contents(["train", "val", "test"])) == {"train", "val"}


def test_the_machine_is_told_without_its_name() -> None:
    assert machine("cpu") == {"processor": processor(), "device": "cpu"} and processor()


def test_generated_images_have_no_contents(trained_run: Path) -> None:
    status, metrics = RunDir(trained_run).status(), RunDir(trained_run).metrics()
    for held in (status, metrics):
        assert held["contents"] == {} and held["machine"] == machine("cpu")


def test_other_pixels_under_the_same_names_are_no_resumption_and_no_match(tiny_on: Any, root: Path) -> None:
    config = tiny_on("folder", *OF_FOLDER, f"data.root={root}", "data.cache=null", "data.allow_leaks=true")
    train(config)
    run = RunDir(Path(config["run_dir"]))
    assert set(run.metrics()["contents"]) == {"train", "val", "test"} == set(run.status()["contents"])
    assert recheck(run.path).matches
    (image,) = (root / "images").glob(f"{source(root).parts['test'][0]}.*")
    darken(image)
    found = recheck(run.path)
    assert "test: images or masks have other content than those that were scored, under the same ids" in found.faults
    run.mark("failed", reason="a failure before anything begins keeps what the run was made with")
    assert set(run.status()["contents"]) == {"train", "val", "test"}
    run.mark("failed", contents={"train": run.status()["contents"]["train"]})  # an attempt without the test images
    with pytest.raises(ConfigError, match=r"other images or masks of test: .*resume=never"):
        train(config)


@pytest.mark.slow
def test_another_machine_is_told_of(tiny: Any, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny("trainer.max_epochs=1")
    train(config)
    run = RunDir(Path(config["run_dir"]))
    commit = run.status()["commit"].removesuffix("+dirty")
    other = commit if run.status()["commit"].endswith("+dirty") else f"{commit}+dirty"  # the same, but for its files
    run.mark("interrupted", machine={"processor": "Abacus (2 cores)", "device": "cpu"}, commit=other)
    train(config)
    told = capsys.readouterr().err
    assert f"processor Abacus (2 cores) -> {processor()}" in told and "device" not in told
    assert commit == "unknown" or f"commit {short_commit(other)} -> " in told
    assert run.status()["machine"] == machine("cpu")
