"""The rivals: built without a network, for any image, trained in every parameter, as large as others measured them."""

import functools
import socket
from pathlib import Path
from typing import Any, NoReturn

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from src.models.baselines import ARCHITECTURES, DEPTHS, SCALED, Baseline
from src.models.cost import measure_cost
from tests.nets import BASELINES, build, worst_gradient

# Millions of parameters and GMACs at 3x256x256. The first two as measured with the rivals' own code, apart from this
# project (they are not ours to correct); the others are ours, to notice a change of smp or timm.
PUBLISHED = {"unetplusplus": (26.079, 18.384), "segformer": (3.714, 1.746)}
OURS = {"unet": (24.436, 7.814), "deeplabv3plus": (22.437, 7.884), "fpn": (23.155, 6.855)}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> NoReturn:
        pytest.fail(f"a network connection was tried: {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@functools.cache
def net_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build(name)


def test_every_architecture_has_a_config_and_the_other_way_round() -> None:
    assert sorted(ARCHITECTURES) == BASELINES
    assert sorted(PUBLISHED | OURS) == BASELINES


@pytest.mark.parametrize("size", [(33, 47), (32, 32), (70, 96)], ids=str)
@pytest.mark.parametrize("name", BASELINES)
def test_logits_have_the_images_size(name: str, size: tuple[int, int]) -> None:
    logits = net_of(name).eval()(torch.randn(1, 3, *size))
    assert logits.shape == (1, 1, *size)
    assert logits.isfinite().all() and logits.std() > 0


@pytest.mark.parametrize("name", BASELINES)
def test_other_channels_and_classes(name: str) -> None:
    net = build(name, "model.in_channels=5", "model.num_classes=4").eval()
    assert (net.in_channels, net.num_classes) == (5, 4)
    assert net(torch.randn(1, 5, 40, 64)).shape == (1, 4, 40, 64)


@pytest.mark.parametrize("name", BASELINES)
def test_every_parameter_gets_a_finite_gradient(name: str) -> None:
    """All of them take part in the forward pass: timm's encoders come without their classifier."""
    net = net_of(name).train()
    net.zero_grad()
    logits = net(torch.randn(2, 3, 33, 47))
    F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits)).backward()
    assert worst_gradient(net) == []


@pytest.mark.parametrize("name", BASELINES)
def test_size_and_cost_are_those_measured_elsewhere(name: str) -> None:
    params, gmacs = (PUBLISHED | OURS)[name]
    cost = measure_cost(net_of(name))
    assert cost.params / 1e6 == pytest.approx(params, rel=0.005)
    assert cost.macs / 1e9 == pytest.approx(gmacs, rel=0.005)


@pytest.mark.parametrize("encoder_name", ["resnet18", "tu-mobilenetv3_small_050", "tu-mobilenetv3_small_050.lamb_in1k"])
def test_encoders_of_smp_and_of_timm(encoder_name: str) -> None:
    net = build("unet", f"model.encoder_name={encoder_name}").eval()
    assert net(torch.randn(1, 3, 33, 47)).shape == (1, 1, 33, 47)


def test_an_unknown_architecture_is_answered_with_the_possible_ones() -> None:
    with pytest.raises(ValueError) as error:
        Baseline(architecture="unet3", encoder_name="resnet18")
    assert "'unet3'" in str(error.value)
    assert [name for name in ARCHITECTURES if name not in str(error.value)] == []


@pytest.mark.parametrize(("received", "near"), [("resnet43", "resnet34"), ("tu-resnet34d0", "tu-resnet34d")])
def test_an_unknown_encoder_is_answered_with_the_nearest(received: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"'{received}'.*Near it: .*{near}"):
        Baseline(architecture="unet", encoder_name=received)


def file_of(path: Path, name: str = "resnet18") -> dict[str, torch.Tensor]:
    """A file as timm's hub has it, with the classifier; returns what it holds."""
    torch.manual_seed(7)
    state = timm.create_model(name, pretrained=False).state_dict()
    save_file(state, path)
    return state


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "convnext_atto"])  # the last renames its modules
def test_an_encoder_starts_from_a_local_file_of_timms(name: str, tmp_path: Path) -> None:
    held = file_of(tmp_path / "model.safetensors", name)
    options = (f"model.encoder_name=tu-{name}", f"model.encoder_weights={tmp_path}/model.safetensors")
    encoder = build("unet", *options).net.encoder.model.state_dict()
    ordered = iter(held.values())  # of the same order, whatever the names are
    assert len(encoder) > 50
    for value in encoder.values():
        assert any(torch.equal(value, other) for other in ordered)
    fresh = build("unet", *options[:1]).net.encoder.model.state_dict()
    assert not any(torch.equal(fresh[key], value) for key, value in encoder.items() if value.dim() == 4)


@pytest.mark.parametrize("smaller_or_larger", ["resnet10t", "resnet34"])
def test_a_file_of_another_encoder_is_refused(smaller_or_larger: str, tmp_path: Path) -> None:
    file_of(tmp_path / "other.safetensors", smaller_or_larger)
    with pytest.raises(ValueError, match=r"other.safetensors is of another encoder than tu-resnet18.*such as"):
        _started(str(tmp_path / "other.safetensors"))


@pytest.mark.parametrize("name", ["noise.safetensors", "absent.safetensors"])
def test_a_file_that_cannot_be_read_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "noise.safetensors").write_bytes(b"weights")
    with pytest.raises(ValueError, match=f"{name} is not a readable safetensors file"):
        _started(str(tmp_path / name))


@pytest.mark.parametrize("word", ["imagenett", "/home/ann/model.pth", ""])
def test_no_other_word_is_a_wish_to_download(word: str) -> None:
    with pytest.raises(ValueError, match=f"encoder_weights={word} is not possible. Use null, imagenet, or the path"):
        _started(word)


def _started(weights: str) -> Baseline:
    return Baseline(architecture="unet", encoder_name="tu-resnet18", encoder_weights=weights)


@pytest.mark.parametrize("architecture", SCALED)
@pytest.mark.parametrize("depth", DEPTHS)
def test_a_rival_can_be_made_smaller(architecture: str, depth: int) -> None:
    overrides = [f"model.encoder_depth={depth}", f"model.decoder_channels={[48, 32, 16, 16, 8][:depth]}"]
    net = build(architecture, "model.encoder_name=tu-resnet18", *overrides).eval()
    image = torch.randn(1, 3, 64, 96)
    assert net.segment(image).shape == (1, 1, 64, 96)  # forward would cut what is larger
    whole = build(architecture, "model.encoder_name=tu-resnet18")
    assert measure_cost(net).macs < 0.9 * measure_cost(whole).macs


@pytest.mark.parametrize("encoder", ["tf_efficientnet_lite0", "mobilenetv3_small_100", "resnet18", "convnext_atto"])
@pytest.mark.parametrize("depth", DEPTHS)
def test_a_smaller_rival_has_no_weights_that_do_nothing(encoder: str, depth: int) -> None:
    overrides = [f"model.encoder_depth={depth}", f"model.decoder_channels={[32, 24, 16, 8, 8][:depth]}"]
    net = build("unet", f"model.encoder_name=tu-{encoder}", *overrides).eval()
    image = torch.randn(1, 3, 64, 64)
    net.segment(image).sum().backward()
    assert not [name for name, value in net.named_parameters() if value.grad is None]
    whole = timm.create_model(encoder, features_only=True).eval()
    whole.load_state_dict(net.net.encoder.model.state_dict(), strict=False)  # what is read is all there
    mine = net.net.encoder(image)
    levels = [level for level in mine[1:] if level.shape[1]]  # the image itself, and what a transformer does not have
    assert all(torch.equal(a, b) for a, b in zip(whole(image), levels, strict=False)) and len(levels) >= depth - 1


@pytest.mark.parametrize("encoder", ["resnet18", "tu-hrnet_w18_small"])
def test_an_encoder_that_keeps_what_it_leaves_out_is_refused(encoder: str) -> None:
    with pytest.raises(ValueError, match=rf"encoder_depth=4 of encoder_name={encoder}: it keeps .* as tu-resnet18"):
        Baseline(architecture="unet", encoder_name=encoder, encoder_depth=4, decoder_channels=[32, 24, 16, 8])


@pytest.mark.parametrize(
    ("depth", "channels"),
    [(4, None), (None, [8, 8]), (2, [8, 8]), (5, [8, 8, 8, 8, 0]), (5, [40000] * 5)],
)
def test_other_depths_and_widths_are_refused(depth: int | None, channels: Any) -> None:
    with pytest.raises(ValueError, match="needed are 3, 4 or 5 levels and a whole number from 1 to 512 for each"):
        Baseline(architecture="unet", encoder_name="mit_b0", encoder_depth=depth, decoder_channels=channels)


def test_depths_and_widths_are_of_u_nets() -> None:
    with pytest.raises(ValueError, match="encoder_depth and decoder_channels are of unet and unetplusplus"):
        Baseline(architecture="fpn", encoder_name="tu-resnet18", encoder_depth=4)
