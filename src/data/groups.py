"""Which images belong together, so that no split may tear them apart: copies of one view, images of one patient."""

import csv
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from src.data.pairs import GLAS_ARCHIVE, listed, one_spelling

# Groups that show one lesion from one view, some recoloured or at another zoom; a person looked at each. Found by
# correlating thumbnails and matching keypoints (`src.data.duplicates`), in kvasir_seg over all pairs of the authors'
# 880. In isic2018 only a part of the pairs of the 2000 was searched by keypoints, so these are surely not all.
NEAR_DUPLICATES = {
    "kvasir_seg": (
        ("cju30bmab08bi0835mvlr6e0r", "cju77k828z46w0871r0avuoo9"),
        ("cju886ryxnsl50801r93jai7q", "cju8amfdtqi4x09871tygrgqe"),
        ("cju772304yw5t0818vbw8kkjf", "cju76lsehyia10987u54vn8rb"),
        ("cju5fydrud94708507vo6oy21", "cju7avvi51iox0817ym55y6tt"),
        ("cju1hhj6mxfp90835n3wofrap", "cju3x9lttikfb0818a0g104zn"),
        ("cju3xhpvvimda0987ygrpzni2", "cju5bf6hxa6m50817rbwettgu"),
        ("cju5vbo6jldrt0871jf6f1700", "cju7aqkue1i2k09879uzcpt8r"),
        ("cju43b8daly4408170e5ev06g", "cju8bbznkrf5g0871jncffynk", "cju42dwedlmk60871jbgu4ehi"),
        ("cju6uzxk0v83p0801rcwnexdu", "cju89y9h0puti0818i5yw29e6"),
        ("cju31ugmfb3dz0855xtqshki6", "cju77bvg0yv4r0987yh60xmjo"),
        ("cju6wuojavt740818b5qcv3iw", "cju88rl5eo94l0850kf5wtrm1"),
        ("cju42qet0lsq90871e50xbnuv", "cju6xa0qmvzun0818xjukgncj"),
        ("cju2qxxko229x08786gvxxhur", "cju6xlygpw7bs0818n691jsq4"),
        ("cju77afzlz3kp07550x5nafzs", "cju84kplnl1y30755ropua1b0"),
        ("cju1d50a94qf50855wsowacrc", "cju774fmayxif0818u2g79usw"),
    ),
    "isic2018": (
        ("ISIC_0000160", "ISIC_0014963"),
        ("ISIC_0000162", "ISIC_0014826"),
        ("ISIC_0000164", "ISIC_0014795"),
        ("ISIC_0000165", "ISIC_0014788"),
        ("ISIC_0000169", "ISIC_0015132"),
        ("ISIC_0000171", "ISIC_0015124"),
        ("ISIC_0000173", "ISIC_0015110"),
        ("ISIC_0000182", "ISIC_0015395"),
        ("ISIC_0000186", "ISIC_0014698"),
        ("ISIC_0000189", "ISIC_0015161"),
        ("ISIC_0000196", "ISIC_0014957"),
        ("ISIC_0000198", "ISIC_0014667"),
        ("ISIC_0000212", "ISIC_0014927"),
        ("ISIC_0000213", "ISIC_0015201"),
        ("ISIC_0000215", "ISIC_0015313"),
        ("ISIC_0000217", "ISIC_0014973"),
        ("ISIC_0000220", "ISIC_0015202"),
        ("ISIC_0000221", "ISIC_0015139"),
        ("ISIC_0000225", "ISIC_0014778"),
        ("ISIC_0000227", "ISIC_0015034"),
        ("ISIC_0000229", "ISIC_0014771"),
        ("ISIC_0000230", "ISIC_0014763"),
        ("ISIC_0000249", "ISIC_0010374"),
        ("ISIC_0000397", "ISIC_0010074"),
        ("ISIC_0000416", "ISIC_0011292"),
        ("ISIC_0000420", "ISIC_0009910"),
        ("ISIC_0000423", "ISIC_0010571"),
        ("ISIC_0000427", "ISIC_0011333"),
        ("ISIC_0000439", "ISIC_0010853"),
        ("ISIC_0000453", "ISIC_0011097"),
        ("ISIC_0001105", "ISIC_0009950"),
        ("ISIC_0001128", "ISIC_0010358"),
        ("ISIC_0001134", "ISIC_0010016"),
        ("ISIC_0012205", "ISIC_0013204"),
        ("ISIC_0012222", "ISIC_0016003"),
        ("ISIC_0012290", "ISIC_0013594"),
        ("ISIC_0012756", "ISIC_0013184"),
        ("ISIC_0013109", "ISIC_0013163"),
        ("ISIC_0015945", "ISIC_0015946"),
    ),
}


def near_duplicates(dataset: str) -> dict[str, str]:
    """id -> group, for the ids of a dataset that have a near-duplicate."""
    return {id_: group[0] for group in NEAR_DUPLICATES.get(dataset, ()) for id_ in group}


def glas_patients(root: str | Path) -> dict[str, str]:
    """id -> patient, from Grade.csv: of all 165 images, absent ones too. ValueError: no such file or columns."""
    root = Path(root)
    places = [root / "Grade.csv", root / GLAS_ARCHIVE / "Grade.csv"]
    table = next((place for place in places if place.is_file()), None)
    if table is None:
        raise ValueError(
            f"glas: no Grade.csv in {root} or in {GLAS_ARCHIVE}/ there, and patients are known from it alone; "
            "copy it from the archive"
        )
    return dict(_two_columns(table, "name", "patient ID"))


def read_groups(table: str | Path, ids: Collection[str]) -> dict[str, str]:
    """id -> group for each of `ids`, from a CSV with the columns id and group (of one patient, say); others may stand
    there too.

    ValueError: no such file or columns, ids that stand twice, any of `ids` without a group.
    """
    table = Path(table)
    if not table.is_file():
        raise ValueError(f"{table}: no such file; a CSV with the columns id and group is required")
    rows = [(one_spelling(id_), group) for id_, group in _two_columns(table, "id", "group")]
    if twice := sorted(id_ for id_, count in Counter(id_ for id_, _ in rows).items() if count > 1):
        raise ValueError(f"{table}: {len(twice)} ids stand twice: {listed(twice)}; keep one row for each")
    group_of = dict(rows)
    if ungrouped := sorted(id_ for id_ in ids if not group_of.get(id_)):
        raise ValueError(
            f"{table}: {len(ungrouped)} images have no group there: {listed(ungrouped)}; add a row with id and group "
            "for each, or a patient might be on two sides (an id is the path below the image folder, without suffix)"
        )
    return {id_: group_of[id_] for id_ in ids}


def _two_columns(table: Path, key: str, value: str) -> list[tuple[str, str]]:
    """By column name, and stripped: tables differ in the order of columns, and blanks stand before names and values."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            raw = list(csv.DictReader(file))
    except UnicodeDecodeError as error:
        raise ValueError(f"{table}: not UTF-8 text ({error}); save it as CSV in UTF-8") from error
    rows = [{str(k).strip().lower(): str(v or "").strip() for k, v in row.items()} for row in raw]
    if not rows or not {key.lower(), value.lower()} <= rows[0].keys():
        found = ", ".join(rows[0]) if rows else "no rows"
        raise ValueError(
            f"{table}: columns {key!r} and {value!r}, separated by commas, are required, found {found}; restore the "
            "file or rename its columns"
        )
    return [(row[key.lower()], row[value.lower()]) for row in rows if row[key.lower()]]
