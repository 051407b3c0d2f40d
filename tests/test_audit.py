"""The audit of a dataset: what spoils a score is named and gives exit code 1, a bad file does not end it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.audit import Audit, examine, write_audit
from src.data.datasets import Folder, GlaS, Synthetic
from src.files import read_csv

from .conftest import REPO
from .layouts import scene, write_folder, write_glas

KINDS = "masks of several kinds"
IDS = [f"p{number:02d}" for number in range(10)]


def labels_of(number: int, size: tuple[int, int] = (180, 240)) -> np.ndarray:
    labels = np.zeros(size, np.uint8)
    labels[20 : 60 + number, 30:90] = 255
    return labels


def folder(root: Path, ids: list[str] = IDS, seed: int = 0) -> Folder:
    """Different images, half-open boxes as masks."""
    write_folder(root, {id_: (scene(seed + n), labels_of(n)) for n, id_ in enumerate(ids)}, image_type=".png")
    return Folder(root=str(root))


def across(source: Folder) -> tuple[str, str]:
    """The last id of train, the first of test."""
    return source.parts["train"][-1], source.parts["test"][0]


def path_of(source: Folder, id_: str) -> Path:
    return source.root / "images" / f"{id_}.png"


def kinds(audit: Audit) -> dict[str, dict[str, int]]:
    return {severity: dict(counts) for severity, counts in audit.kinds().items()}


def write_and_read(audit: Audit, folder: Path) -> str:
    write_audit(audit, folder)
    return (folder / "audit.html").read_text()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "src.audit", *arguments]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)


def test_clean_data_ends_with_0_and_is_described(tmp_path: Path) -> None:
    folder(tmp_path / "mine")
    ended = run("data=folder", f"data.root={tmp_path / 'mine'}", f"out={tmp_path / 'out'}")
    assert ended.returncode == 0, ended.stderr
    assert "leak" not in ended.stdout and "train" in ended.stdout
    rows = read_csv(tmp_path / "out" / "audit.csv")
    assert [row["id"] for row in rows] == IDS and {row["mask_kind"] for row in rows} == {"0 and 255"}
    assert (rows[3]["height"], rows[3]["width"], rows[3]["objects"], rows[3]["holes"]) == ("180", "240", "1", "0")
    assert float(rows[3]["area"]) == pytest.approx(43 * 60 / (180 * 240))
    page = (tmp_path / "out" / "audit.html").read_text()
    assert "No leaks and no faults" in page and "data:image/jpeg" in page
    assert "http" not in page.replace("http-equiv", "")  # nothing is fetched


def test_a_leak_and_the_other_dataset_end_with_1(tmp_path: Path) -> None:
    source = folder(tmp_path / "mine")
    train, test = across(source)
    brighter = np.clip(scene(IDS.index(train)) * 0.8 + 40, 0, 255).astype(np.uint8)
    Image.fromarray(brighter).save(path_of(source, test))
    other = folder(tmp_path / "other", IDS[:4], seed=50)
    path_of(source, "p00").write_bytes(path_of(other, "p02").read_bytes())
    path_of(other, "p03").write_bytes(b"no picture")
    place = f"data.root={source.root}", f"against.root={other.root}", f"out={tmp_path / 'out'}"
    ended = run("data=folder", "against=folder", *place)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr, ended.stderr
    assert f"{train} (train) and {test} (test) near-duplicates in train and test" in ended.stdout
    assert "against:p02" in ended.stdout and "same pixels in both datasets" in " ".join(ended.stdout.split())
    report = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert report["counts"] == {"leak": 2, "fault": 1} and report["against"] == str(other.root)
    page = (tmp_path / "out" / "audit.html").read_text()
    assert train in page and "against:p02" in page


def test_without_data_it_says_so() -> None:
    ended = run()
    assert ended.returncode == 2 and "data=" in ended.stderr and "Traceback" not in ended.stderr
    with pytest.raises(ValueError, match="no files to audit"):
        examine(Synthetic())


def test_copies_across_parts_are_leaks_and_inside_a_part_notes(tmp_path: Path) -> None:
    source = folder(tmp_path)
    train, test = across(source)
    path_of(source, test).write_bytes(path_of(source, train).read_bytes())
    assert kinds(examine(source)) == {"leak": {"same pixels": 1}}
    folder(tmp_path)
    path_of(source, source.parts["train"][0]).write_bytes(path_of(source, train).read_bytes())
    audit = examine(source)
    assert kinds(audit) == {"note": {"same pixels": 1}} and not audit.spoils


def test_bad_files_are_listed_and_end_nothing(tmp_path: Path) -> None:
    source = folder(tmp_path)
    path_of(source, "p01").write_bytes(b"no picture")
    masks = tmp_path / "masks"
    Image.fromarray(labels_of(2)[:100]).save(masks / "p02.png")
    ringing = labels_of(3)
    ringing[0, :5] = [3, 90, 120, 200, 254]
    Image.fromarray(ringing).save(masks / "p03.png")
    Image.fromarray(np.zeros((180, 240), np.uint8)).save(masks / "p04.png")
    holed = labels_of(5)
    holed[30:35, 40:45] = 0
    holed[179, 239] = 255
    Image.fromarray(holed).save(masks / "p05.png")
    audit = examine(source)
    assert kinds(audit) == {"fault": {"unusable file": 3}, "note": {"empty mask": 1, "specks": 1, KINDS: 1}}
    faults = {finding.images[0][0]: finding.text for finding in audit.findings if finding.severity == "fault"}
    assert "not a readable" in faults["p01"] and "100x240" in faults["p02"] and "data.mask=threshold" in faults["p03"]
    look = {look.id: look for look in audit.looks}
    assert look["p03"].mask_values == 7 and look["p03"].mask_kind == "labels or grey" and look["p03"].area is None
    assert (look["p05"].objects, look["p05"].holes, look["p05"].smallest_object) == (2, 1, 1)
    assert look["p05"].touches_border and not look["p06"].touches_border
    assert "not a readable" in write_and_read(audit, tmp_path / "out")


def test_unpaired_files_are_faults_and_the_others_are_read(tmp_path: Path) -> None:
    source = folder(tmp_path)
    image = next(iter(source.pairs.values())).image
    (image.parent / f"lonely{image.suffix}").write_bytes(image.read_bytes())
    audit = examine(Folder(root=str(tmp_path)))
    assert kinds(audit)["fault"] == {"unpaired files": 1} and len(audit.looks) == len(IDS)


def test_patients_on_two_sides_of_the_official_split_are_said_to_be_the_authors(tmp_path: Path) -> None:
    ids = [*(f"train_{n}" for n in range(1, 86)), *(f"testA_{n}" for n in range(1, 61)), "testB_1"]
    patients = {id_: str(n) for n, id_ in enumerate(ids)} | {"testA_1": "0"}
    pairs = {id_: (scene(n), (labels_of(n) > 0).astype(np.uint8)) for n, id_ in enumerate(ids[:3])}
    write_glas(tmp_path, False, pairs, patients)
    audit = examine(GlaS(root=str(tmp_path)))
    assert kinds(audit)["leak"] == {"same group": 1}
    assert audit.findings[0].images == (("train_1", "train"), ("testA_1", "testA"))
    assert "published so" in audit.findings[0].text
    assert "<strong>testA_1</strong> (testA)" in write_and_read(audit, tmp_path / "out")


def test_names_cannot_write_html(tmp_path: Path) -> None:
    evil = "<script>alert(1)<"
    source = folder(tmp_path / "<b>mine", [evil, *IDS])
    path_of(source, "p01").write_bytes(path_of(source, evil).read_bytes())
    path_of(source, "p02").write_bytes(b"no picture")
    page = write_and_read(examine(source), tmp_path / "out")
    assert "<script" not in page and "<b>" not in page and "&lt;script&gt;alert(1)&lt;" in page
