"""Images that belong together are known by name, from tables as people save them."""

from pathlib import Path

import pytest

from src.data.groups import glas_patients, read_groups
from tests.layouts import example_pairs, write_glas


@pytest.mark.parametrize("official", [False, True], ids=["plain", "official"])
def test_glas_patients_come_from_the_grade_table(tmp_path: Path, official: bool) -> None:
    patients = {"train_1": "7", "train_2": "7", "testA_1": "12"}
    root = write_glas(tmp_path, official, example_pairs(["train_1", "train_2"]), patients)
    assert glas_patients(root) == patients


def test_glas_patients_read_columns_by_name(tmp_path: Path) -> None:
    (tmp_path / "Grade.csv").write_text(
        "\ufeffname, patient ID , grade (GlaS)\n train_1 , 3, benign\n", encoding="utf-8"
    )
    assert glas_patients(tmp_path) == {"train_1": "3"}


@pytest.mark.parametrize(
    ("text", "said"), [(None, "no Grade.csv"), ("id,grade\n1,2\n", "found id, grade"), ("", "no rows")]
)
def test_glas_without_a_usable_grade_table(tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / "Grade.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        glas_patients(tmp_path)


# ---- own data


def _table(folder: Path, text: str) -> Path:
    path = folder / "patients.csv"
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        "id,group\na,p1\nb,p1\nc/d,p2\n",
        "\ufeffid,group\r\na,p1\r\nb,p1\r\nc/d,p2\r\n",
        " Group , age, ID \n p1 , 40, a\n p1,40,b \n\np2,51,c/d\np3,9,not an image of ours\n",
    ],
)
def test_groups_as_spreadsheets_save_them(tmp_path: Path, text: str) -> None:
    assert read_groups(_table(tmp_path, text), ["c/d", "a", "b"]) == {"a": "p1", "b": "p1", "c/d": "p2"}


def test_accents_in_ids_are_read_in_either_spelling(tmp_path: Path) -> None:
    assert read_groups(_table(tmp_path, "id,group\nro\u0308ntgen,p1\n"), ["r\u00f6ntgen"]) == {"r\u00f6ntgen": "p1"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,group\na,p1\n", "columns 'id' and 'group', separated by commas, are required, found name, group; "),
        ("id;group\na;p1\n", "found id;group; "),
        ("", "found no rows; "),
        ("id,group\na,p1\nb,p2\na,p1\n", "1 ids stand twice: a; keep one row"),
        ("id,group\na,p1\n", "2 images have no group there: b, c; add a row"),
        ("id,group\na,p1\nb\nc, \n", "2 images have no group there: b, c; add a row"),
    ],
)
def test_a_table_that_leaves_a_group_unknown_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=rf"patients\.csv: .*{said}"):
        read_groups(_table(tmp_path, text), ["b", "a", "c"])


def test_a_table_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.csv: no such file; a CSV with the columns id and group"):
        read_groups(tmp_path / "gone.csv", [])
    latin_1 = tmp_path / "latin.csv"
    latin_1.write_bytes("id,group\nröntgen,p1\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.csv: not UTF-8 text .*save it as CSV in UTF-8"):
        read_groups(latin_1, [])
