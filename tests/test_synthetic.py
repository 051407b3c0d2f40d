"""The generated data set: repeatable, exactly labelled, and not solvable by a threshold."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from src.data.synthetic import KINDS, baselines, generate, sheet
from src.data.synthetic.__main__ import main

SMALL = (96, 96)


@pytest.mark.parametrize("kind", KINDS)
def test_same_arguments_give_same_bytes(kind: str) -> None:
    first = generate(kind, 5, size=SMALL, seed=3)
    np.random.seed(1)  # global state must not leak in
    generate(kind, 6, size=SMALL, seed=3)
    again = generate(kind, 5, size=SMALL, seed=3)
    assert first[0].tobytes() == again[0].tobytes()
    assert first[1].tobytes() == again[1].tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_index_and_seed_change_image_and_mask(kind: str) -> None:
    image, mask = generate(kind, 0, size=SMALL)
    for other_image, other_mask in (generate(kind, 1, size=SMALL), generate(kind, 0, size=SMALL, seed=1)):
        assert not np.array_equal(image, other_image)
        assert not np.array_equal(mask > 0, other_mask > 0)


def test_kinds_differ() -> None:
    assert len({generate(kind, 0, size=SMALL)[0].tobytes() for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(32, 32), (96, 96), (48, 130), (131, 47), (32, 400)])
def test_shape_and_dtype(kind: str, size: tuple[int, int]) -> None:
    image, mask = generate(kind, 2, size=size)
    assert image.shape == (*size, 3) and image.dtype == np.uint8
    assert mask.shape == size and mask.dtype == (np.uint16 if kind == "gland" else np.uint8)
    assert image.std() > 5
    assert mask.any() and not mask.all()


@pytest.mark.parametrize("kind", KINDS)
def test_small_picture_is_the_large_one_shrunk(kind: str) -> None:
    for index in range(4):
        large_image, large = generate(kind, index, size=(256, 256))
        small_image, small = generate(kind, index, size=(128, 128))
        shrunk = cv2.resize((large > 0).astype(np.float32), (128, 128), interpolation=cv2.INTER_AREA) > 0.5
        dice = 2 * (shrunk & (small > 0)).sum() / (shrunk.sum() + (small > 0).sum())
        assert dice > 0.96
        shrunk_image = cv2.resize(large_image, (128, 128), interpolation=cv2.INTER_AREA)
        assert np.abs(shrunk_image.astype(int) - small_image).mean() < 12


@pytest.mark.parametrize("kind", KINDS)
def test_foreground_fraction(kind: str) -> None:
    masks = [generate(kind, i, size=SMALL)[1] for i in range(60)]
    fractions = np.array([(mask > 0).mean() for mask in masks])
    assert fractions.min() > 0.02 and fractions.max() < 0.6
    assert np.mean((fractions > 0.03) & (fractions < 0.5)) > 0.9
    assert fractions.std() > 0.03  # the size must vary
    if kind != "gland":
        assert all(set(np.unique(mask)) == {0, 1} for mask in masks)


def test_glands_are_separate_connected_pieces() -> None:
    counts, touching_border = [], 0
    for index in range(40):
        _, mask = generate("gland", index, size=(160, 128))
        count = int(mask.max())
        counts.append(count)
        assert set(np.unique(mask)) == set(range(count + 1))
        for label in range(1, count + 1):
            pieces, _ = cv2.connectedComponents((mask == label).astype(np.uint8), connectivity=8)
            assert pieces == 2, f"gland {label} of picture {index} is in {pieces - 1} pieces"
        together, _ = cv2.connectedComponents((mask > 0).astype(np.uint8), connectivity=4)
        assert together - 1 == count, f"picture {index}: neighbouring glands touch"
        touching_border += bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())
    assert np.mean(np.array(counts) >= 2) > 0.95
    assert len(set(counts)) > 3
    assert touching_border > 0


@pytest.mark.parametrize("kind", KINDS)
def test_mask_border_lies_on_an_edge_of_the_picture(kind: str) -> None:
    """A mask that is shifted against its image would still pass every test of the mask alone."""
    here, elsewhere = [], []
    for index in range(30):
        image, mask = generate(kind, index, size=(128, 128))
        blurred = cv2.GaussianBlur(image, (0, 0), 1.5).astype(np.float32)
        strength = np.hypot(cv2.Sobel(blurred, cv2.CV_32F, 1, 0), cv2.Sobel(blurred, cv2.CV_32F, 0, 1)).sum(-1)
        outline = cv2.morphologyEx((mask > 0).astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        inner = np.zeros_like(outline)
        inner[16:-16, 16:-16] = True
        here.append(np.median(strength[outline & inner]))
        elsewhere.append(np.median(strength[np.roll(outline, (13, 13), (0, 1)) & inner]))
    assert np.mean(here) > 1.3 * np.mean(elsewhere)


@pytest.mark.parametrize("kind", [*KINDS, None])
def test_simple_predictors_fail(kind: str | None) -> None:
    scores = baselines(kind, size=SMALL, choose=45, score=30)
    assert set(scores) == {"constant", "threshold", "otsu"}
    assert 0.1 < scores["constant"] < 0.65
    assert 0.1 < scores["threshold"] < 0.7
    assert 0.1 < scores["otsu"] < 0.7


def test_baselines_match_a_direct_computation(monkeypatch: pytest.MonkeyPatch) -> None:
    """One bright square on dark ground: threshold and Otsu are perfect, the constant predictor has 2f / (1 + f)."""
    mask = np.zeros((40, 40), np.uint8)
    mask[:20, :20] = 1
    image = np.where(mask[..., None] > 0, 200, 50).astype(np.uint8).repeat(3, -1)
    monkeypatch.setitem(baselines.__globals__, "generate", lambda *_, **__: (image, mask))
    scores = baselines("lesion", choose=3, score=2)
    assert scores["threshold"] == pytest.approx(1) and scores["otsu"] == pytest.approx(1)
    assert scores["constant"] == pytest.approx(2 * 0.25 / 1.25)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"'kidney'.*lesion, polyp, gland"):
        generate("kidney", 0)
    with pytest.raises(ValueError, match="31"):
        generate("lesion", 0, size=(31, 64))
    with pytest.raises(ValueError, match="-1"):
        generate("lesion", -1)


def test_sheet_is_written(tmp_path) -> None:
    path = sheet(tmp_path / "new" / "sheet.png", n=2, size=(64, 80))
    drawn = np.asarray(cv2.imread(str(path)))[..., ::-1]
    assert drawn.shape == (6 * 64, 2 * 80, 3)
    np.testing.assert_array_equal(drawn[:64, :80], generate("lesion", 0, size=(64, 80))[0])
    assert (drawn[64:128] != drawn[:64]).any()  # outlines


def test_command_line(tmp_path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "src.data.synthetic.__main__.baselines", lambda *_, **__: {"constant": 0.1, "threshold": 0.2, "otsu": 0.3}
    )
    main([str(tmp_path / "out.png")])
    assert (tmp_path / "out.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert all(word in printed for word in (*KINDS, "mix", "0.200"))
