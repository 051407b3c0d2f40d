"""The one way from weights and images to probability maps, against the same steps taken apart."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.inference import Segmenter, channel_stats, normalize
from src.weights import read_weights

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = (32, 48)  # neither square nor a native size below, so that swapped axes show
NATIVE = [(64, 96), (20, 30), SIZE, (96, 64), (37, 101)]  # a smaller, a larger, an equal, a turned, an odd one


def small_net(seed: int = 0, width: int = 6) -> nn.Module:
    torch.manual_seed(seed)
    last = nn.Conv2d(width, 1, 3, padding=1)
    last.weight.data *= 10  # logits of several units, where a sigmoid bends
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.5), last)


def segmenter(net: nn.Module) -> Segmenter:
    return Segmenter(net, size=SIZE, mean=MEAN, std=STD)


def images(sizes: list[tuple[int, int]]) -> list[np.ndarray]:
    return [np.random.default_rng(i).integers(0, 256, (*size, 3), dtype=np.uint8) for i, size in enumerate(sizes)]


def taken_apart(net: nn.Module, image: np.ndarray, *, late_sigmoid: bool = True) -> np.ndarray:
    """Resize, normalise, segment, resize the logits back, sigmoid: one image, float64 where the steps allow."""
    height, width = image.shape[:2]
    how = cv2.INTER_AREA if height * width > SIZE[0] * SIZE[1] else cv2.INTER_LINEAR
    small = cv2.resize(image, SIZE[::-1], interpolation=how).astype(np.float64)
    normal = (small / 255 - np.array(MEAN)) / np.array(STD)
    net = net.eval().double()
    with torch.no_grad():
        plane = net(torch.from_numpy(normal).permute(2, 0, 1)[None])
        if not late_sigmoid:
            plane = plane.sigmoid()
        plane = F.interpolate(plane, (height, width), mode="bilinear", align_corners=False)[0, 0].numpy()
    return 1 / (1 + np.exp(-plane)) if late_sigmoid else plane


def test_equals_the_steps_taken_apart() -> None:
    given = images(NATIVE)
    maps = segmenter(small_net()).probabilities(given)
    assert len(maps) == len(given)
    for image, probs in zip(given, maps, strict=True):
        assert probs.dtype == np.float32 and probs.shape == image.shape[:2]
        np.testing.assert_allclose(probs, taken_apart(small_net(), image), atol=1e-5)
    early = taken_apart(small_net(), given[0], late_sigmoid=False)
    assert np.abs(maps[0] - early).max() > 0.01  # to resize probabilities is another thing, and would have shown


def test_batch_mates_do_not_matter() -> None:
    ours, given = segmenter(small_net()), images(NATIVE)
    together = ours.probabilities(given)
    for i, image in enumerate(given):
        np.testing.assert_allclose(ours.probabilities([image])[0], together[i], atol=1e-6)
    for one, other in zip(ours.probabilities(given[::-1]), together[::-1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_images_and_network_stay_as_they_are() -> None:
    net, given = small_net().train(), images(NATIVE[:2])
    before = {name: value.clone() for name, value in net.state_dict().items()}
    copies = [image.copy() for image in given]
    ours = segmenter(net)
    first = ours.probabilities(given)
    second = ours.probabilities(given)  # dropout is off, batch statistics do not move
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert all((a == b).all() for a, b in zip(given, copies, strict=True))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_confident_logits_are_certain() -> None:
    class Bright(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return 100 * image[:, :1]

    class Half(Bright):  # as autocast would leave them
        def forward(self, image: Tensor) -> Tensor:
            return super().forward(image).to(torch.bfloat16)

    image = np.zeros((64, 96, 3), dtype=np.uint8)
    image[:, 48:] = 255
    for net in (Bright(), Half()):
        (probs,) = Segmenter(net, size=SIZE, mean=(0.5,) * 3, std=(0.5,) * 3).probabilities([image])
        assert probs.dtype == np.float32 and (probs[:, :45] == 0).all() and (probs[:, 51:] == 1).all()


def test_protocol_says_how_masks_come_about() -> None:
    ours = Segmenter(small_net(), size=SIZE, mean=MEAN, std=STD, threshold=0.3)
    assert ours.threshold == 0.3
    # the threshold, its rule and the device are told by whoever scores
    assert ours.protocol() == {"size": [32, 48], "mode": "full", "tta": None, "postprocess": None}


def test_normalize_formula() -> None:
    image = torch.tensor([0, 255, 51], dtype=torch.uint8).reshape(1, 3, 1, 1)
    normal = normalize(image, channel_stats((0.5, 0.4, 0.2)), channel_stats((0.25, 0.2, 0.1)))
    assert normal.dtype == torch.float32
    assert normal.flatten().tolist() == pytest.approx([-2.0, 3.0, 0.0], abs=1e-6)


def test_channel_stats_broadcast_over_images() -> None:
    stats = channel_stats([1, 2, 3])
    assert stats.shape == (3, 1, 1) and stats.dtype == torch.float32
    batch = torch.zeros(2, 3, 4, 5, dtype=torch.uint8)
    assert normalize(batch, stats, torch.ones(3, 1, 1))[1, :, 2, 3].tolist() == [-1, -2, -3]


# ---- weights


def checkpoint(path: Path, net: nn.Module) -> Path:
    state = {f"net.{name}": value for name, value in net.state_dict().items()}
    torch.save({"state_dict": {**state, "loss.weight": torch.ones(1)}, "epoch": 3}, path)
    return path


def test_weights_are_read(tmp_path: Path) -> None:
    trained, fresh = small_net(seed=1), small_net(seed=2)
    path = checkpoint(tmp_path / "best.ckpt", trained)
    assert read_weights(path, fresh) is fresh
    assert all(
        torch.equal(a, b) for a, b in zip(trained.state_dict().values(), fresh.state_dict().values(), strict=True)
    )
    given = images(NATIVE[:1])
    assert (segmenter(fresh).probabilities(given)[0] == segmenter(trained).probabilities(given)[0]).all()


class Payload:
    """What a malicious pickle does on loading."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch pwned",)


def _truncated(path: Path) -> None:
    checkpoint(path, small_net())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "nothing")


NOT_CHECKPOINTS: dict[str, Callable[[Path], object]] = {
    "absent": lambda path: None,
    "empty": lambda path: path.touch(),
    "text": lambda path: path.write_text("state_dict: yes\n" * 20),
    "picture": lambda path: path.write_bytes(bytes(range(256)) * 50),
    "folder": lambda path: path.mkdir(),
    "truncated": _truncated,
    "archive": _archive,
    "payload": lambda path: torch.save({"state_dict": Payload()}, path),
    "list": lambda path: torch.save([1, 2], path),
    "tensor": lambda path: torch.save(torch.ones(3), path),
}


@pytest.mark.parametrize("what", NOT_CHECKPOINTS)
def test_a_file_that_is_no_checkpoint(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "best.ckpt"
    NOT_CHECKPOINTS[what](path)
    with pytest.raises(ValueError, match=r"best\.ckpt is not a readable checkpoint"):
        read_weights(path, small_net())
    assert not (tmp_path / "pwned").exists()


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    """torch.load would give another weight without a word."""
    path = checkpoint(tmp_path / "best.ckpt", small_net())
    content = path.read_bytes()
    weights = small_net().state_dict()["0.weight"].numpy().tobytes()
    (place,) = [i for i in range(len(content)) if content.startswith(weights, i)]
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    torch.load(path, weights_only=True)
    with pytest.raises(ValueError, match=r"best\.ckpt is not a readable checkpoint .*check sum of .* is wrong"):
        read_weights(path, small_net())


@pytest.mark.parametrize("key", ["epoch", "state_dict"])
def test_a_checkpoint_that_lacks_a_key(tmp_path: Path, key: str) -> None:
    path = checkpoint(tmp_path / "best.ckpt", small_net())
    whole = torch.load(path, weights_only=True)
    torch.save({name: value for name, value in whole.items() if name != key}, path)
    with pytest.raises(ValueError, match=rf"best\.ckpt is not a readable checkpoint \(it has no {key}\)"):
        read_weights(path, small_net())


@pytest.mark.parametrize(
    ("net", "said"),
    [
        pytest.param(small_net(width=7), r"size mismatch for 0\.weight", id="wider"),
        pytest.param(nn.Conv2d(3, 1, 1), r"Missing key\(s\) in state_dict: \"weight\"", id="other"),
        pytest.param(nn.Identity(), r"Unexpected key\(s\) in state_dict", id="nothing"),
    ],
)
def test_weights_of_another_network(net: nn.Module, said: str, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "best.ckpt", small_net())
    with pytest.raises(ValueError, match=rf"best\.ckpt holds the weights of another network: {said}"):
        read_weights(path, net)


def test_a_checkpoint_without_weights(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "best.ckpt")
    with pytest.raises(ValueError, match=r"best\.ckpt"):
        read_weights(tmp_path / "best.ckpt", small_net())
