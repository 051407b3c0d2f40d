"""A short run on the real images of each dataset, and the weights in the box; skipped where they are not at hand."""

import os
import shutil
from pathlib import Path

import pytest

from src.config import composed
from src.evaluate import evaluate_run
from src.files import read_csv
from src.rundir import RunDir
from src.train import train
from src.trained import PRETRAINED

from .conftest import quick

DATA = os.environ.get("EMISNET_DATA", "")
SHORT = (
    "data.size=64",
    "data.batch_size=8",
    "optim.lr=0.01",
    "trainer.max_epochs=4",
    "trainer.limit_train_batches=4",
    "trainer.limit_val_batches=2",
)


@pytest.mark.parametrize(
    ("dataset", "val", "parts"),
    [
        pytest.param("kvasir_seg", 88, ["val"], marks=pytest.mark.slow),
        ("glas", 17, ["val"]),
        pytest.param("isic2018", 200, ["val", "test"], marks=pytest.mark.slow),
    ],
)
def test_a_short_run_on_real_images(tiny_on, dataset: str, val: int, parts: list[str]) -> None:
    if not (Path(DATA) / dataset).is_dir() or not DATA:
        pytest.skip(f"EMISNET_DATA={DATA!r} has no {dataset}; set it to the folder that holds the datasets")
    config = tiny_on(dataset, *SHORT)
    train(config)
    run = RunDir(Path(config["run_dir"]))
    metrics = run.metrics()
    assert run.status()["state"] == "finished"
    assert list(metrics["scores"]) == parts and metrics["scores"]["val"]["n"] == val
    rows = [row for row in read_csv(run.path / "per_image.csv") if row["part"] == "val"]
    assert len({(row["height"], row["width"]) for row in rows}) > (0 if dataset == "isic2018" else 1)  # native sizes
    assert all(0 < float(row["area_fraction"]) < 1 for row in rows)
    assert bool(metrics["protocol"]["caveat"]) == (dataset == "isic2018")
    losses = [float(row["train/loss"]) for row in read_csv(run.path / "history.csv")]
    assert losses[-1] < losses[0]


BOX = sorted(folder.name for folder in PRETRAINED.glob("*/"))


@pytest.mark.parametrize("name", quick(BOX, ("emisnet_kvasir", "emisnet_glas")))
def test_weights_in_the_box_score_what_their_card_says(name: str, tmp_path: Path) -> None:
    """On their val images, of which the card's table is; another processor rounds otherwise."""
    shutil.copytree(PRETRAINED / name, tmp_path / name)
    told = RunDir(tmp_path / name).metrics()
    dataset = told["protocol"]["dataset"]
    if not (Path(DATA) / dataset).is_dir() or not DATA:
        pytest.skip(f"EMISNET_DATA={DATA!r} has no {dataset}; set it to the folder that holds the datasets")
    data = composed(f"data={dataset}", f"data.size={told['protocol']['size'][0]}", "model=unet")["data"]
    again = evaluate_run(tmp_path / name, data=data, parts=["val"], metrics=["overlap"])
    assert again.scores["val"]["dice"] == pytest.approx(told["scores"]["val"]["dice"], abs=2e-3)
    assert again.scores["val"]["n"] == told["scores"]["val"]["n"]
    assert again.protocol["split_hash"] == told["protocol"]["split_hash"]
