"""Scoring a finished run again, on its own and on other data."""

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from src.config import composed
from src.evaluate import evaluate_run, main
from src.files import read_csv
from src.rundir import RunDir
from src.scoring import read_rows, strata, summarize
from src.trained import open_trained

from .conftest import Call


def write_folder(root: Path, count: int = 3) -> None:
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for i in range(count):
        cv2.imwrite(str(root / "images" / f"a{i}.png"), rng.integers(0, 256, (50 + i, 60, 3), dtype=np.uint8))
        mask = np.zeros((50 + i, 60), np.uint8)
        mask[10:30, 20:40] = 255
        cv2.imwrite(str(root / "masks" / f"a{i}.png"), mask)


def test_evaluate_gives_the_numbers_of_the_training(trained_run: Path) -> None:
    again = evaluate_run(trained_run)
    assert again.scores == RunDir(trained_run).metrics()["scores"]
    written = read_csv(trained_run / "per_image.csv")
    assert [{key: str(value) for key, value in row.items()} for row in again.rows] == written


def test_masks_come_from_logits_resized_to_native_size(trained_run: Path) -> None:
    evaluation = evaluate_run(trained_run, parts=["val"])
    row = evaluation.rows[0]
    image, mask = evaluation.source.load(row["id"])
    segmenter = open_trained(trained_run).segmenter()
    small = cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    normal = (small - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    with torch.no_grad():
        logits = segmenter.net(torch.from_numpy(normal.transpose(2, 0, 1))[None])
    native = torch.nn.functional.interpolate(logits, size=mask.shape, mode="bilinear", align_corners=False)
    pred = native[0, 0].sigmoid().numpy() > segmenter.threshold
    assert row["tp"] == (pred & (mask > 0)).sum() and row["fp"] == (pred & (mask == 0)).sum()
    assert row["area_fraction"] == pytest.approx(mask.mean())


def test_other_data_is_scored_as_one_part(trained_run: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "mine")
    data = composed("data=folder", f"data.root={tmp_path / 'mine'}", "model=unet")["data"]
    evaluation = evaluate_run(trained_run, data=data)
    assert evaluation.scores["all"]["n"] == 3
    assert [(row["height"], row["width"]) for row in evaluation.rows] == [(50, 60), (51, 60), (52, 60)]
    assert evaluation.protocol["dataset"] == "folder" and evaluation.protocol["trained_on"] == "synthetic"


def test_the_same_dataset_keeps_the_split_of_the_run(trained_run: Path) -> None:
    # with other counts, the data's own split would call training images `test`
    data = RunDir(trained_run).config()["data"] | {"counts": [4, 4, 15]}
    evaluation = evaluate_run(trained_run, data=data)
    assert evaluation.scores == RunDir(trained_run).metrics()["scores"]


def test_two_images_of_other_data_are_enough(trained_run: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "mine", count=2)
    data = composed("data=folder", f"data.root={tmp_path / 'mine'}", "model=unet")["data"]
    assert evaluate_run(trained_run, data=data).scores["all"]["n"] == 2


def test_damaged_weights_are_not_scored_as_empty_masks(trained_run: Path) -> None:
    segmenter = open_trained(trained_run).segmenter()
    segmenter.net.head.bias.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"):
        segmenter.probabilities([np.zeros((40, 40, 3), np.uint8)])


def test_errors_name_what_is_possible(trained_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="val, test"):
        evaluate_run(trained_run, parts=["tset"])
    with pytest.raises(ValueError, match="not a complete run directory"):
        evaluate_run(tmp_path)


def test_summary_by_hand() -> None:
    names = dict.fromkeys(("precision", "recall", "specificity", "accuracy", "area_fraction"), 0.0)
    rows = [
        {"dice": 1.0, "iou": 1.0, "tp": 9, "fp": 0, "fn": 0, "tn": 1, "pred_area_fraction": 0.3, **names},
        {"dice": 0.0, "iou": 0.0, "tp": 0, "fp": 1, "fn": 0, "tn": 9, "pred_area_fraction": 0.1, **names},
    ]
    summary = summarize(rows)
    assert summary["n"] == 2 and summary["dice"] == 0.5
    assert summary["dice_pooled"] == pytest.approx(18 / 19) and summary["iou_pooled"] == pytest.approx(9 / 10)
    assert summary["area_bias"] == pytest.approx(0.2)


@pytest.mark.parametrize("other", [False, True])
def test_the_command_prints_and_writes_what_it_found(
    trained_run: Path, tmp_path: Path, call: Call, other: bool
) -> None:
    write_folder(tmp_path / "mine")
    more = ["data=folder", f"data.root={tmp_path / 'mine'}"] if other else ["parts=val", "lens=true"]
    shown = call(main, f"run={trained_run}", f"out={tmp_path / 'out'}", *more)
    assert shown.returncode == 0, shown.stderr
    part, n = ("all", 3) if other else ("val", 5)
    assert f"│ {part}" in shown.stdout and len(read_csv(tmp_path / "out" / "per_image.csv")) == n
    assert {row["part"] for row in read_csv(tmp_path / "out" / "strata.csv")} == {part}
    assert "calibration error" in shown.stdout and "one object" in shown.stdout
    figures = {file.name for file in (tmp_path / "out" / "figures").iterdir()}
    assert figures == {"overlays.png", "worst.png"}
    written = json.loads((tmp_path / "out" / "metrics.json").read_text(), parse_constant=pytest.fail)  # no NaN
    assert 0 <= written["calibration"][part]["ece"] <= 1
    assert ("MALUNet" in shown.stdout) != other
    if not other:
        assert len(read_csv(tmp_path / "out" / "lens.csv")) == 6 and written["lens"]["val"][0]["iou"] > 0


# ---- the threshold


def test_the_threshold_is_chosen_on_val_and_used_by_all(trained_run: Path) -> None:
    run = RunDir(trained_run)
    chosen = run.threshold()
    evaluation = evaluate_run(trained_run)
    split = evaluation.source.split
    assert chosen["chosen_on"] == "val" and chosen["n"] == len(split.parts["val"])
    assert chosen["split_hash"] == split.sha256
    assert chosen["dice"][f"{chosen['threshold']:g}"] == max(chosen["dice"].values())
    assert (
        open_trained(trained_run).segmenter().threshold == chosen["threshold"] == evaluation.protocol["threshold_value"]
    )
    # what the curve says of a threshold is what scoring with it gives, on val and nowhere else
    for threshold in (0.1, chosen["threshold"], 0.9):
        given = evaluate_run(trained_run, parts=["val"], threshold=threshold, metrics=["overlap"])
        assert given.scores["val"]["dice"] == pytest.approx(chosen["dice"][f"{threshold:g}"], abs=1e-9)


def test_a_given_threshold_is_another_protocol(trained_run: Path) -> None:
    chosen = evaluate_run(trained_run, parts=["val"])
    given = evaluate_run(trained_run, parts=["val"], threshold=0.7)
    assert (
        chosen.protocol["threshold"].startswith("chosen on val: best mean Dice") and given.protocol["threshold"] == 0.7
    )
    assert chosen.protocol["id"] != given.protocol["id"]


def test_a_run_without_a_threshold_is_cut_at_a_half(trained_run: Path, tmp_path: Path) -> None:
    older = tmp_path / "run"
    shutil.copytree(trained_run, older)
    RunDir(older).threshold_file.unlink()
    evaluation = evaluate_run(older, parts=["val"])
    assert evaluation.protocol["threshold"] == evaluation.protocol["threshold_value"] == 0.5


# ---- protocols and metrics


def test_every_row_says_how_it_came_about(trained_run: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "mine")
    data = composed("data=folder", f"data.root={tmp_path / 'mine'}", "model=unet")["data"]
    own, other = evaluate_run(trained_run), evaluate_run(trained_run, data=data)
    for evaluation, dataset in ((own, "synthetic"), (other, "folder")):
        told = {(row["dataset"], row["trained_on"], row["protocol"]) for row in evaluation.rows}
        assert told == {(dataset, "synthetic", evaluation.protocol["id"])}
    assert own.protocol["id"] == RunDir(trained_run).metrics()["protocol"]["id"] != other.protocol["id"]


def test_what_changes_scores_changes_the_protocol(trained_run: Path) -> None:
    def id_of(**settings: Any) -> str:
        return evaluate_run(trained_run, parts=["val"], **settings).protocol["id"]

    usual = id_of()
    assert id_of(device="cpu") == id_of(lens=True) == usual
    assert len({usual, id_of(tau=1.0), id_of(metrics=["overlap"]), id_of(metrics=["objects"], min_object_area=9)}) == 4


def test_another_reading_of_the_masks_is_another_protocol(trained_run: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "mine")
    write_folder(tmp_path / "other")
    ids = set()
    for place, mask in (("mine", "binary"), ("mine", "instances"), ("other", "binary")):
        data = composed("data=folder", f"data.root={tmp_path / place}", f"data.mask={mask}", "model=unet")["data"]
        ids.add(evaluate_run(trained_run, data=data).protocol["id"])
    assert len(ids) == 3


def test_the_rows_alone_make_the_table(trained_run: Path) -> None:
    rows = read_rows(trained_run / "per_image.csv")
    metrics = RunDir(trained_run).metrics()
    for part, scores in metrics["scores"].items():
        of_part = [row for row in rows if row["part"] == part]
        assert summarize(of_part) == scores and strata(of_part) == metrics["strata"][part]


def test_metrics_by_name(trained_run: Path) -> None:
    scores = evaluate_run(trained_run, parts=["val"], metrics=["isic", "objects"]).scores["val"]
    assert {"dice", "threshold_jaccard", "object_f1"} <= scores.keys() and "hd95" not in scores
    with pytest.raises(ValueError, match=r"metrics=\['hd'\] are not known"):
        evaluate_run(trained_run, metrics=["hd"])


def test_the_command_without_a_run_says_so(call: Call) -> None:
    shown = call(main)
    assert shown.returncode == 2 and "run=" in shown.stderr and "Traceback" not in shown.stderr
