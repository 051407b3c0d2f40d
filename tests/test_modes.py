"""The modes that look at a crop: where it lies, what becomes of it, and what a run stores and says of each mode."""

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from src.config import composed
from src.data.datasets import Synthetic
from src.data.transforms import lesion_box
from src.evaluate import evaluate_run, main
from src.inference import LEAKS, MODES, Prediction, Segmenter, checked_modes, crop_box
from src.rundir import RunDir
from src.scoring import protocol_id, read_rows, summarize
from src.tables import write_evaluation
from src.thresholds import Kept, stored_threshold
from src.train import train
from src.trained import open_trained
from src.weights import write_safetensors

from .conftest import Call
from .test_evaluate import write_folder
from .test_inference import NATIVE, SIZE, images


class Brightness(nn.Module):
    """A logit per pixel, of its own brightness alone: positive above a half."""

    def forward(self, image: Tensor) -> Tensor:
        return 20 * image[:, :1]


def seeing_brightness(mode: str, size: tuple[int, int] = SIZE, **settings: float) -> Segmenter:
    return Segmenter(Brightness(), size=size, mean=(0.5,) * 3, std=(0.5,) * 3, mode=mode, **settings)


def grey(plane: np.ndarray) -> np.ndarray:
    """(H, W) of 0..255 as an image."""
    return np.repeat(plane.astype(np.uint8)[..., None], 3, axis=2)


def dice(pred: np.ndarray, mask: np.ndarray) -> float:
    return 2 * (pred & mask).sum() / (pred.sum() + mask.sum())


def test_the_crop_is_the_one_that_training_makes_on_average() -> None:
    mask = np.zeros((200, 300), bool)
    mask[90:110, 100:150] = True  # 20 x 50: side 50 * 1.6 = 80 around (100, 125)
    assert crop_box(mask) == (slice(60, 140), slice(85, 165))
    rng = np.random.default_rng(0)
    drawn = np.array([[s for part in lesion_box(mask, rng) for s in (part.start, part.stop)] for _ in range(4000)])
    assert drawn.mean(0) == pytest.approx([60, 140, 85, 165], abs=0.5)
    mask[:, :100] = True  # touches three borders, and is too long for the image
    assert crop_box(mask) == (slice(0, 200), slice(0, 300))
    assert crop_box(np.zeros((20, 30), bool)) == (slice(0, 20), slice(0, 30))


def test_the_crop_is_pasted_to_the_pixel_it_came_from() -> None:
    """Noise in a crop of exactly the network's size: nothing is resized, so each pixel must come back to its place."""
    noise = np.random.default_rng(0).integers(0, 256, (120, 160))
    mask = np.zeros(noise.shape, np.uint8)
    mask[40:60, 100:130] = 1  # side 30 * 1.6 = 48 around (50, 115)
    box = (slice(26, 74), slice(91, 139))
    (probs,) = seeing_brightness("oracle_crop", (48, 48)).probabilities([grey(noise)], [mask])
    expected = 1 / (1 + np.exp(-20 * (noise / 255 - 0.5) / 0.5))
    np.testing.assert_allclose(probs[box], expected[box], atol=1e-6)
    probs[box] = 0
    assert probs.shape == noise.shape and not probs.any()  # outside of it is background


def test_outside_the_crop_the_coarse_result_stands() -> None:
    plane = np.random.default_rng(0).integers(0, 100, (120, 160))
    plane[40:60, 100:130] = 255
    image = grey(plane)
    (full,) = seeing_brightness("full").probabilities([image])
    box = crop_box(full > 0.5)
    (alone,) = seeing_brightness("full").probabilities([np.ascontiguousarray(image[box])])  # the crop as an image
    (probs,) = seeing_brightness("coarse_to_fine").probabilities([image])
    assert (probs[box] == alone).all() and not (probs[box] == full[box]).all()
    outside = np.ones(plane.shape, bool)
    outside[box] = False
    assert (probs[outside] == full[outside]).all() and full[outside].any()


def test_a_small_object_is_right_only_from_near() -> None:
    plane = np.zeros((480, 720))
    cv2.circle(plane, (500, 100), 24, 255, 6)  # a thin ring: 3 px of a network that sees the whole image
    image, mask = grey(plane), plane > 0
    found = {
        mode: dice(seeing_brightness(mode, coarse_threshold=0.01).probabilities([image], [mask])[0] > 0.5, mask)
        for mode in MODES
    }
    assert found["full"] < 0.6 and found["coarse_to_fine"] > 0.85 and found["oracle_crop"] > 0.85


@pytest.mark.parametrize(("low", "high"), [(0, 0), (0, 255)], ids=["nothing is found", "the crop is the whole image"])
def test_coarse_to_fine_may_have_nothing_to_add(low: int, high: int) -> None:
    plane = np.full((64, 96), low)
    plane[8:56, 8:88] = high
    calls = []
    fine = seeing_brightness("coarse_to_fine")
    fine.net.register_forward_hook(lambda *_: calls.append(1))
    (probs,) = fine.probabilities([grey(plane)])
    assert (probs == seeing_brightness("full").probabilities([grey(plane)])[0]).all() and len(calls) == 1


def test_an_empty_true_mask_leaves_the_whole_image() -> None:
    (image,) = images([(64, 96)])
    (probs,) = seeing_brightness("oracle_crop").probabilities([image], [np.zeros((64, 96), np.uint8)])
    assert (probs == seeing_brightness("full").probabilities([image])[0]).all()


@pytest.mark.parametrize("mode", MODES)
def test_batch_mates_do_not_matter_in_any_mode(mode: str) -> None:
    given, masks = [], []
    for i, size in enumerate(NATIVE):
        plane = np.full(size, 40)
        plane[4 : 4 + 3 * i, 2 : 2 + 2 * i] = 220  # none in the first, so that only some are cropped
        given.append(grey(plane))
        masks.append(plane > 100)
    ours = seeing_brightness(mode)
    together = ours.probabilities(given, masks)
    assert len(together) == len(given)
    for image, mask, probs in zip(given, masks, together, strict=True):
        assert probs.shape == image.shape[:2] and probs.dtype == np.float32
        np.testing.assert_allclose(ours.probabilities([image], [mask])[0], probs, atol=1e-6)


def test_the_coarse_mask_has_its_own_threshold() -> None:
    plane = np.zeros((64, 96))
    plane[20:30, 30:40], plane[50:54, 80:84] = 255, 120  # the second has a probability near 0.3
    boxes = {}
    for cut in (0.1, 0.5):
        (found,) = seeing_brightness("coarse_to_fine", coarse_threshold=cut, threshold=0.9).predict([grey(plane)])
        boxes[cut] = found.layers[-1][1]
    assert boxes[0.5][0].stop < 50 < 54 <= boxes[0.1][0].stop


def test_later_layers_cover_earlier_ones() -> None:
    whole, part = torch.full((1, 1, 4, 4), 2.0), torch.full((1, 1, 4, 4), -2.0)
    box, corner = (slice(0, 6), slice(0, 8)), (slice(3, 6), slice(4, 8))
    probs = Prediction((6, 9), ((whole, box), (part, corner))).probabilities()
    expected = np.zeros((6, 9))
    expected[:, :8], expected[3:, 4:8] = 1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2))
    np.testing.assert_allclose(probs, expected, atol=1e-6)


def test_each_mode_is_a_protocol_of_its_own_and_leaks_are_told() -> None:
    told = {mode: seeing_brightness(mode).protocol() for mode in MODES}
    assert len({protocol_id(each) for each in told.values()}) == len(MODES) == 4
    assert all(each["mode"] == mode for mode, each in told.items())
    assert [mode for mode, each in told.items() if "leaks" in each] == ["oracle_crop"] == list(LEAKS)
    assert "margin 0.3" in told["coarse_to_fine"]["crop"]


def test_what_a_mode_needs() -> None:
    with pytest.raises(ValueError, match=r"none are given\. Use coarse_to_fine"):
        seeing_brightness("oracle_crop").probabilities(images([(40, 40)]))
    with pytest.raises(
        ValueError, match=r"mode 'fine' is not known\. Possible: full, coarse_to_fine, tiled, oracle_crop"
    ):
        seeing_brightness("fine")
    assert checked_modes("oracle_crop") == ["full", "oracle_crop"]
    assert checked_modes(["oracle_crop", "full", "oracle_crop"]) == ["full", "oracle_crop"] and checked_modes([]) == [
        "full"
    ]


# ---- runs


def copy_of(run: Path, place: Path) -> RunDir:
    """A run that a test may write in."""
    shutil.copytree(run, place / "run")
    return RunDir(place / "run")


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of images of each call of the network's one user."""
    counts: list[int] = []
    predict = Segmenter.predict

    def counting(self: Segmenter, images: Any, masks: Any = None) -> Any:
        counts.append(len(images))
        return predict(self, images, masks)

    monkeypatch.setattr(Segmenter, "predict", counting)
    return counts


@pytest.mark.parametrize("mode", MODES)
def test_val_is_predicted_once_where_it_chooses_the_threshold(
    trained_run: Path, tmp_path: Path, predicted: list[int], mode: str
) -> None:
    run = copy_of(trained_run, tmp_path)
    run.threshold_file.unlink()
    chosen = evaluate_run(run.path, mode=mode, choose=True)
    twice = 5 if mode == "tiled" else 0  # its predictions are of native size, and not kept
    assert sum(predicted) == 5 + twice + 6  # val and test
    again = evaluate_run(run.path, mode=mode)  # from the stored threshold, predicted anew
    assert again.rows == chosen.rows and again.numbers() == chosen.numbers()
    assert stored_threshold(run, chosen.segmenter.way)["threshold"] == chosen.protocol["threshold_value"]


def test_each_mode_is_cut_where_val_says_in_that_mode(trained_run: Path, tmp_path: Path, predicted: list[int]) -> None:
    run = copy_of(trained_run, tmp_path)
    before = run.threshold()  # as it was written before there were modes
    assert "modes" not in before
    mode = "coarse_to_fine"
    first = evaluate_run(run.path, mode=mode, parts=["test"])
    assert sum(predicted) == 5 + 6  # val too, because no threshold was known for this mode
    told = stored_threshold(run, mode)
    assert told["chosen_on"] == "val" and told["n"] == 5
    assert run.threshold() == before | {"modes": {mode: told}} and stored_threshold(run)["dice"] == before["dice"]
    segmenter = open_trained(run.path).segmenter(mode=mode)
    assert (segmenter.threshold, segmenter.coarse_threshold) == (told["threshold"], before["threshold"])
    evaluate_run(run.path, mode=mode, parts=["test"])
    assert sum(predicted) == 5 + 6 + 6  # now it is
    for threshold in (0.2, told["threshold"]):
        given = evaluate_run(run.path, mode=mode, parts=["val"], threshold=threshold, metrics=["overlap"])
        assert given.scores["val"]["dice"] == pytest.approx(told["dice"][f"{threshold:g}"], abs=1e-9)
    assert first.protocol["threshold"].startswith("chosen on val") and first.protocol["coarse_threshold_value"]
    evaluate_run(run.path, choose=True)
    assert "modes" not in run.threshold()  # what cuts the coarse masks was chosen anew


def test_scores_of_two_modes_never_share_a_protocol(trained_run: Path, tmp_path: Path) -> None:
    run = copy_of(trained_run, tmp_path)
    found = {mode: evaluate_run(run.path, mode=mode, parts=["val"]) for mode in MODES}
    assert len({each.protocol["id"] for each in found.values()}) == len(MODES)
    for mode, each in found.items():
        assert {(row["mode"], row["protocol"]) for row in each.rows} == {(mode, each.protocol["id"])}
        assert ("leaks" in each.numbers()["protocol"]) == (mode == "oracle_crop")
    with pytest.raises(ValueError, match="mode 'oracle' is not known"):
        evaluate_run(run.path, mode="oracle")


def test_test_time_augmentation_is_cut_where_val_says_and_is_another_protocol(
    trained_run: Path, tmp_path: Path
) -> None:
    run = copy_of(trained_run, tmp_path)
    plain, turned = (evaluate_run(run.path, parts=["val"], tta=tta) for tta in ("none", "d4"))
    assert plain.protocol["id"] != turned.protocol["id"] and turned.protocol["tta"].startswith("d4")
    assert run.threshold()["modes"]["full+d4"]["threshold"] == turned.protocol["threshold_value"]
    half = evaluate_run(run.path, parts=["val"], precision="bf16-mixed")
    assert half.protocol["precision"] == "bf16-mixed" and half.protocol["id"] != plain.protocol["id"]
    assert plain.protocol["precision"] == "float32"


def test_other_weights_are_scored_on_the_run_s_images(trained_run: Path, tmp_path: Path) -> None:
    run = copy_of(trained_run, tmp_path)
    own = evaluate_run(run.path, parts=["val"], threshold=0.5)
    net = open_trained(trained_run).net
    for parameter in net.parameters():
        parameter.data.neg_()
    shutil.copytree(run.path, tmp_path / "other", ignore=shutil.ignore_patterns("checkpoints"))
    write_safetensors(net, tmp_path / "other" / "weights.safetensors")
    same = evaluate_run(run.path, parts=["val"], threshold=0.5, weights=run.path / "checkpoints" / "best.ckpt")
    other = evaluate_run(run.path, parts=["val"], threshold=0.5, weights=tmp_path / "other" / "weights.safetensors")
    assert same.rows == own.rows and other.rows != own.rows
    assert [row["id"] for row in other.rows] == [row["id"] for row in own.rows]
    assert other.protocol["weights"]["sha256"] != same.protocol["weights"]["sha256"] and "weights" not in own.protocol
    # cut where they say themselves, and nothing of theirs is stored in the run
    told = json.loads((tmp_path / "other" / "threshold.json").read_text())
    (tmp_path / "other" / "threshold.json").write_text(json.dumps(told | {"threshold": 0.2}))
    before = run.threshold()
    for mode in ("full", "coarse_to_fine"):
        given = evaluate_run(run.path, parts=["val"], mode=mode, weights=tmp_path / "other")
        assert given.protocol["threshold_value"] == given.segmenter.threshold == 0.2
        assert (given.protocol["threshold"] == 0.2) == (mode != "full")  # for the other mode none was chosen
    assert run.threshold() == before


def test_a_mode_on_other_data_has_the_threshold_of_the_runs_own_val(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy_of(trained_run, tmp_path)
    write_folder(tmp_path / "mine")
    data = composed("data=folder", f"data.root={tmp_path / 'mine'}", "model=unet")["data"]
    evaluation = evaluate_run(run.path, mode="coarse_to_fine", data=data)
    told = stored_threshold(run, "coarse_to_fine")
    assert evaluation.scores["all"]["n"] == 3 and told["n"] == 5
    assert evaluation.protocol["threshold_value"] == told["threshold"]
    run.threshold_file.unlink()
    monkeypatch.setattr(Synthetic, "ids_on_disk", lambda self: set())  # the run's own images are not at hand
    with pytest.raises(ValueError, match=r"They choose the threshold of mode coarse_to_fine; or set threshold="):
        evaluate_run(run.path, mode="coarse_to_fine", data=data)
    assert evaluate_run(run.path, mode="coarse_to_fine", data=data, threshold=0.5).scores["all"]["n"] == 3


def test_training_scores_the_modes_that_were_asked_for(tiny) -> None:
    config = tiny("modes=[oracle_crop,coarse_to_fine]", "trainer.max_epochs=1", "test=false")
    train(config)
    run = RunDir(Path(config["run_dir"]))
    assert run.metrics()["protocol"]["mode"] == "full"
    for mode in ("oracle_crop", "coarse_to_fine"):
        folder = run.path / "evaluations" / mode
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics["protocol"]["mode"] == mode and ("leaks" in metrics["protocol"]) == (mode == "oracle_crop")
        rows = read_rows(folder / "per_image.csv")
        assert len(rows) == 5 and summarize(rows) == metrics["scores"]["val"]
        assert evaluate_run(run.path, mode=mode, parts=["val"]).scores == metrics["scores"]


def test_the_command_calls_a_leak_a_leak(trained_run: Path, tmp_path: Path, call: Call) -> None:
    run = copy_of(trained_run, tmp_path)
    shown = call(main, f"run={run.path}", "parts=val", "mode=oracle_crop")
    assert shown.returncode == 0, shown.stderr
    assert (
        "mode oracle_crop (LEAKS: uses the true masks)" in shown.stdout and "Warning: mode oracle_crop" in shown.stdout
    )
    (folder,) = (run.path / "evaluations").iterdir()
    assert "-oracle_crop-" in folder.name
    assert "where the lesion is" in json.loads((folder / "metrics.json").read_text())["protocol"]["leaks"]


def test_an_image_on_two_sheets_is_segmented_once(trained_run: Path, tmp_path: Path, predicted: list[int]) -> None:
    evaluation = evaluate_run(trained_run)
    predicted.clear()
    write_evaluation(evaluation, tmp_path, "title")  # all 6 test images are among the worst twelve
    assert sum(predicted) == 6


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.int64])
def test_kept_labels_are_the_labels(dtype: type) -> None:
    labels = np.random.default_rng(0).integers(0, 250, (37, 51)).astype(dtype)
    labels[0, 0] = np.iinfo(dtype).max
    kept = Kept.of(Prediction(labels.shape, ()), labels)
    assert kept.labels().dtype == dtype and (kept.labels() == labels).all()
