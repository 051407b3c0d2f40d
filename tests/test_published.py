"""The registry of published numbers: each has a protocol and a source, or is refused."""

from pathlib import Path

import pytest
import yaml

from src.reporting.published import REGISTRY, published_on

HEAD = {"protocols": {"OFF": "official parts"}}
ENTRY = {"model": "Net", "protocol": "OFF", "source": "somewhere", "dice": 80.0}


def test_every_entry_of_ours_has_protocol_and_source() -> None:
    registry = yaml.safe_load(REGISTRY.read_text())
    datasets = [name for name in registry if name != "protocols"]
    assert set(datasets) == {"isic2018", "kvasir_seg", "glas"}
    entries = [entry for name in datasets for entry in published_on(name)]
    assert len(entries) >= 20 and {entry.protocol for entry in entries} == set(registry["protocols"].values())
    assert all(50 < (entry.dice or 0) < 100 and (entry.iou is None or entry.iou < entry.dice) for entry in entries)


def test_other_data_have_none() -> None:
    assert published_on("synthetic") == [] and published_on("protocols") == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "ODD"}, "protocol=ODD. Explained are OFF"),
        ({"source": ""}, "it has no source"),
        ({"dise": 1.0}, "dise"),
    ],
)
def test_an_entry_that_says_too_little_is_refused(change: dict, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({**HEAD, "mine": [{**ENTRY, **change}]}))
    with pytest.raises(ValueError, match=message):
        published_on("mine", tmp_path / "r.yaml")
