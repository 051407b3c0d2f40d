"""Tables on disk: what a cell held comes back, and no spreadsheet computes it."""

import csv
from pathlib import Path

import pytest

from src.files import read_csv, write_csv

TEXTS = [
    "=HYPERLINK(1)",
    "@x",
    "-2+3",
    "+x",
    "\tx",
    "'quoted",
    "'=x",
    "''",
    "'",
    "-",
    "plain",
    "a,b\nc",
    "é \u202e",
    "",
]


def test_texts_come_back_and_none_is_a_formula(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [{"id": text, "dice": 0.1} for text in TEXTS])
    assert [row["id"] for row in read_csv(tmp_path / "a.csv")] == TEXTS
    with (tmp_path / "a.csv").open(newline="") as file:  # as a spreadsheet sees them
        assert not [row for row in csv.DictReader(file) if row["id"].startswith(("=", "+", "-", "@", "\t"))]


@pytest.mark.parametrize("number", [-0.5, "-0.5", "-1e-05", -3, "+inf", "nan", None, True])
def test_numbers_stay_numbers(tmp_path: Path, number: object) -> None:
    write_csv(tmp_path / "a.csv", [{"value": number, "id": "x"}])
    assert read_csv(tmp_path / "a.csv")[0]["value"] == ("" if number is None else str(number))
