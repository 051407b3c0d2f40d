"""The audit of a dataset: what spoils a score is named and gives exit code 1, a bad file does not end it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.audit import Audit, examine, main, write_audit
from src.audit_print import print_audit
from src.data.datasets import Folder, GlaS, Synthetic
from src.data.findings import Finding, leak_findings, look_findings, singular, tally
from src.data.leaks import Leak
from src.data.survey import Look
from src.files import read_csv

from .conftest import Call
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


def flat(text: str) -> str:
    """Without the line ends of the console."""
    return " ".join(text.split())


def glas(root: Path, **patient_of: str) -> GlaS:
    """Three of the official images on disk; every image a patient of its own, but for those given."""
    ids = [*(f"train_{n}" for n in range(1, 86)), *(f"testA_{n}" for n in range(1, 61))]
    ids += [f"testB_{n}" for n in range(1, 21)]
    patients = {id_: str(n) for n, id_ in enumerate(ids)} | patient_of
    pairs = {id_: (scene(n), (labels_of(n) > 0).astype(np.uint8)) for n, id_ in enumerate(ids[:3])}
    write_glas(root, False, pairs, patients)
    return GlaS(root=str(root))


def test_clean_data_ends_with_0_and_is_described(tmp_path: Path, call: Call) -> None:
    folder(tmp_path / "mine")
    ended = call(main, "data=folder", f"data.root={tmp_path / 'mine'}", f"out={tmp_path / 'out'}")
    assert ended.returncode == 0, ended.stderr
    assert "leak" not in ended.stdout and "train" in ended.stdout
    rows = read_csv(tmp_path / "out" / "audit.csv")
    assert [row["id"] for row in rows] == IDS and {row["mask_kind"] for row in rows} == {"0 and 255"}
    assert (rows[3]["height"], rows[3]["width"], rows[3]["objects"], rows[3]["holes"]) == ("180", "240", "1", "0")
    assert float(rows[3]["area"]) == pytest.approx(43 * 60 / (180 * 240))
    page = (tmp_path / "out" / "audit.html").read_text()
    assert "No leaks and no faults" in page and "data:image/jpeg" in page
    assert "http" not in page.replace("http-equiv", "")  # nothing is fetched


def test_a_leak_and_the_other_dataset_end_with_1(tmp_path: Path, call: Call) -> None:
    source = folder(tmp_path / "mine")
    train, test = across(source)
    brighter = np.clip(scene(IDS.index(train)) * 0.8 + 40, 0, 255).astype(np.uint8)
    Image.fromarray(brighter).save(path_of(source, test))
    other = folder(tmp_path / "other", IDS[:4], seed=50)
    path_of(source, "p00").write_bytes(path_of(other, "p02").read_bytes())
    path_of(other, "p03").write_bytes(b"no picture")
    place = f"data.root={source.root}", f"against.root={other.root}", f"out={tmp_path / 'out'}"
    ended = call(main, "data=folder", "against=folder", *place)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr, ended.stderr
    printed = flat(ended.stdout)
    assert f"leak: {train} (train) and {test} (test): near-duplicates in train and test" in printed
    assert "against:p02 (against:folder): same pixels in both datasets" in printed
    assert "2 leaks: 1 pair of near-duplicates, 1 pair of the same pixels" in printed and "1 unusable file " in printed
    assert f"3 images of folder ({other.root}) compared with 10 of folder: 1 pair in common" in printed
    report = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert report["counts"] == {"leak": 2, "fault": 1} and report["against"]["root"] == str(other.root)
    page = (tmp_path / "out" / "audit.html").read_text()
    assert train in page and "against:p02" in page and "below 0.87 were confirmed" in page


def test_nothing_in_common_is_said_too(tmp_path: Path) -> None:
    source, other = folder(tmp_path / "mine"), folder(tmp_path / "other", IDS[:4], seed=50)
    audit = examine(source, other, name="my_polyps", other_name="theirs")
    said = f"4 images of theirs ({other.root}) compared with 10 of my_polyps: 0 pairs in common"
    assert said in write_and_read(audit, tmp_path / "out")
    report = json.loads((tmp_path / "out" / "audit.json").read_text())
    counts = {"images": 4, "compared_with": 10, "pairs_in_common": 0}
    assert report["against"] == {"name": "theirs", "root": str(other.root), **counts}


def test_configs_splits_and_others_have_folders_of_their_own(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(tmp_path / "mine")
    (tmp_path / "conf" / "data").mkdir(parents=True)
    (tmp_path / "conf" / "data" / "my_polyps.yaml").write_text(f"defaults: [folder, _self_]\nroot: {source.root}\n")
    chosen = f"--config-dir={tmp_path / 'conf'}", "data=my_polyps", "data.split=kfold", "data.fold=1"
    monkeypatch.chdir(tmp_path)
    ended = call(main, *chosen)
    assert ended.returncode == 0, ended.stderr
    page = (tmp_path / "audits" / "my_polyps-kfold5-1" / "audit.html").read_text()
    assert "<h1>Audit of my_polyps</h1>" in page and "my_polyps, split kfold5-1" in ended.stdout
    audit = examine(source, source, name="my_polyps", other_name="kvasir_seg")
    assert audit.folder == Path("audits/my_polyps-holdout-against-kvasir_seg")
    other = folder(tmp_path / "theirs", IDS[:4], seed=50)
    assert examine(source).folder == Path("audits/folder-mine-holdout")
    assert examine(source, other).folder == Path("audits/folder-mine-holdout-against-folder-theirs")


def test_deep_images_are_read_with_the_range_of_their_source(tmp_path: Path) -> None:
    def deep(root: Path, low: int, high: int) -> Folder:
        folder(root)
        for path in (root / "images").iterdir():
            grey = np.asarray(Image.open(path).convert("L")).astype(np.float64) / 255
            Image.fromarray((low + grey * (high - low)).round().astype(np.uint16)).save(path)
        return Folder(root=str(root), intensity=[low, high])

    source, other = deep(tmp_path / "mine", 0, 4095), deep(tmp_path / "other", 1000, 60000)
    audit = examine(source, other)
    assert not [finding for finding in audit.findings if finding.severity == "fault"]
    assert audit.other and audit.other.pairs == len(IDS)  # each found in the other's range
    for id_ in ("p03", "against:p03"):
        assert np.abs(audit.picture(id_).astype(int) - source.load("p03")[0]).max() <= 1
    assert "data:image/jpeg" in write_and_read(audit, tmp_path / "out")


def test_without_data_it_says_so(call: Call) -> None:
    ended = call(main)
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
    assert "pairs inside train (1) weigh twice" in write_and_read(audit, tmp_path / "out")
    folder(tmp_path)
    first, second = (Folder(root=str(tmp_path), val=0.3, test=0.3).parts["val"])[:2]
    path_of(source, first).write_bytes(path_of(source, second).read_bytes())
    audit = examine(Folder(root=str(tmp_path), val=0.3, test=0.3))
    assert kinds(audit) == {"note": {"same pixels": 1}}
    assert "weigh twice" not in write_and_read(audit, tmp_path / "out")


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
    assert kinds(audit) == {"fault": {"unusable file": 3, KINDS: 1}, "note": {"empty mask": 1, "specks": 1}}
    faults = {finding.images[0][0]: finding.text for finding in audit.findings if finding.kind == "unusable file"}
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
    assert tally(audit.of("fault")) == "1 fault: 1 image without a mask"


def test_masks_of_several_kinds_are_a_fault_where_the_rule_is_guessed(tmp_path: Path) -> None:
    folder(tmp_path)
    for number in (1, 4):
        Image.fromarray(labels_of(number) // 255).save(tmp_path / "masks" / f"p{number:02d}.png")
    Image.fromarray(np.zeros((180, 240), np.uint8)).save(tmp_path / "masks" / "p07.png")  # of every kind
    audit = examine(Folder(root=str(tmp_path)))
    (fault,) = audit.of("fault")
    assert fault.kind == KINDS and "7 of 0 and 255 (PNG L); 2 of 0 and 1 (PNG L): p01, p04." in fault.text
    audit = examine(Folder(root=str(tmp_path), mask="binary"))
    assert not audit.spoils and "p01, p04" in next(f.text for f in audit.of("note") if f.kind == KINDS)
    folder(tmp_path)
    Image.fromarray(labels_of(1) > 0).save(tmp_path / "masks" / "p01.png")  # one bit a pixel: 0 and 1
    assert examine(Folder(root=str(tmp_path))).spoils
    Image.fromarray(labels_of(1)).save(tmp_path / "masks" / "p01.bmp")
    (tmp_path / "masks" / "p01.png").unlink()
    assert kinds(examine(Folder(root=str(tmp_path)))) == {"note": {KINDS: 1}}  # only another file type


def test_many_masks_of_a_rarer_kind_are_counted() -> None:
    looks = [Look(f"m{n:02d}", mask_kind="0 and 255" if n < 40 else "lossy", mask_format="PNG") for n in range(65)]
    (finding,) = look_findings(looks, {}, "auto")
    assert "m40, " in finding.text and "m59, ... and 5 more" in finding.text and "m00" not in finding.text


def test_every_note_is_printed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = folder(tmp_path)
    for id_ in IDS[:5]:
        Image.fromarray(np.zeros((180, 240), np.uint8)).save(tmp_path / "masks" / f"{id_}.png")
    print_audit(examine(source))
    assert flat(capsys.readouterr().out).endswith("note: no foreground (5): p00, p01, p02, ... and 2 more")


def test_published_leaks_are_listed_and_do_not_spoil(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    audit = examine(glas(tmp_path, testA_1="0", testA_2="10", testB_1="2"))
    assert kinds(audit)["published leak"] == {"same patient": 3} and not audit.of("leak") and not audit.spoils
    assert audit.findings[0].images == (("train_1", "train"), ("testA_1", "testA"))
    page = write_and_read(audit, tmp_path / "out")
    assert "<strong>testA_1</strong> (testA)" in page and page.count("published so") == 1
    print_audit(audit)
    printed = flat(capsys.readouterr().out)
    assert printed.count("published so") == 1 and "3 published leaks: 3 pairs of the same patient" in printed
    assert "same patient in train and testA (2): train_1 and testA_1, train_11 and testA_2" in printed


def test_leaks_of_train_and_val_or_of_our_splits_spoil(tmp_path: Path) -> None:
    parts = glas(tmp_path).parts
    source = glas(tmp_path, **{parts["val"][0]: "p", parts["train"][0]: "p"})
    audit = examine(source)
    assert kinds(audit)["leak"] == {"same patient": 1} and audit.spoils
    leak = Leak("group", "a", "train", "b", "test")
    for split, dataset, severity, kind in (
        ("holdout", "glas", "leak", "same patient"),
        ("official", "kvasir_seg", "published leak", "same group"),
    ):
        (finding,) = leak_findings([leak], split, dataset)
        assert (finding.severity, finding.kind) == (severity, kind)


def test_one_is_singular() -> None:
    assert singular("1 images without a mask: a.png") == "1 image without a mask: a.png"
    assert singular("1 images on disk are in no part") == "1 image on disk is in no part"
    assert singular("21 images on disk are in no part") == "21 images on disk are in no part"
    findings = [Finding("fault", "unusable file", "bad")] * 3
    assert tally(findings) == "3 faults: 3 unusable files" and tally(findings[:1]) == "1 fault: 1 unusable file"


def test_names_cannot_write_html(tmp_path: Path) -> None:
    evil = "<script>alert(1)<"
    source = folder(tmp_path / "<b>mine", [evil, *IDS])
    path_of(source, "p01").write_bytes(path_of(source, evil).read_bytes())
    path_of(source, "p02").write_bytes(b"no picture")
    page = write_and_read(examine(source), tmp_path / "out")
    assert "<script" not in page and "<b>" not in page and "&lt;script&gt;alert(1)&lt;" in page
