"""Weights to start from, teachers, and what they have seen."""

import copy
import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from src.build import build_net
from src.cli import ConfigError
from src.data.splits import Split, read_split
from src.distillation import Teacher, distillation_loss
from src.evaluate import evaluate_run
from src.exporting.bundle import write_bundle
from src.files import read_csv
from src.lineage import LINEAGE, Ancestor, faults, identity, lineage, lineage_json, read_lineage
from src.losses import BCELoss
from src.rundir import LATER, RunDir, run_hash
from src.task import SegmentationTask
from src.train import train
from src.trained import open_trained
from src.weights import read_state, start_from, write_safetensors

from .conftest import quick

IDLE = ("optim.lr=1e-12", "optim.weight_decay=0", "trainer.max_epochs=1")  # a training that moves no weight to speak of


def parameters(path: Path) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in open_trained(path).net.parameters()])


# ---- init


def test_a_run_starts_from_the_weights_of_another(tiny, trained_run: Path) -> None:
    started = tiny(f"init={trained_run}", *IDLE)
    train(started)
    given, found = parameters(trained_run), parameters(Path(started["run_dir"]))
    torch.testing.assert_close(found, given, atol=1e-7, rtol=0)
    fresh = tiny(*IDLE, "seed=1")
    train(fresh)
    assert (parameters(Path(fresh["run_dir"])) - given).abs().max() > 0.01


def test_a_start_is_remembered_with_what_it_saw(tiny, trained_run: Path) -> None:
    config = tiny(f"init={trained_run}", *IDLE)
    train(config)
    (one,) = read_lineage(Path(config["run_dir"]))
    split = read_split(trained_run / "split.json")
    assert (one.role, one.source, one.via, one.dataset) == ("init", trained_run.name, "", "synthetic seed 0")
    assert one.train == split.parts["train"] and one.val == split.parts["val"]
    assert any(trained_run.name in note for note in RunDir(Path(config["run_dir"])).metrics()["notes"])
    grandchild = tiny(f"init={config['run_dir']}", *IDLE)
    line = lineage(RunDir(Path(grandchild["run_dir"])), grandchild, resuming=False)
    child = Path(config["run_dir"]).name
    assert [(ancestor.source, ancestor.via) for ancestor in line] == [(child, ""), (trained_run.name, child)]
    assert f"by way of {child}" in str(line[1])


class Stopped(Exception):
    pass


def stop_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next training ends with an error after so many steps, its last checkpoint saved at the end of an epoch."""
    plain, done = SegmentationTask.training_step, []

    def step(self, *batch):
        if len(done) == steps:
            raise Stopped
        done.append(1)
        return plain(self, *batch)

    monkeypatch.setattr(SegmentationTask, "training_step", step)


MIXED = ("data.mix=0.5", "ema=0.9")


@pytest.mark.parametrize("role", ["init", "teacher"])
@pytest.mark.parametrize("more", quick([(), MIXED], [MIXED]), ids=["plain", "mixed and averaged"])
def test_a_resumed_run_is_the_uninterrupted_one(
    tiny, trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str, more: tuple[str, ...]
) -> None:
    """Whose start is gone by then: the weights are the checkpoint's. A teacher is needed to the end."""
    source = shutil.copytree(trained_run, tmp_path / "source")
    whole = tiny(f"{role}={source}", *more)
    train(whole)
    config = tiny(f"{role}={source}", *more, f"run_dir={tmp_path / 'cut'}")
    with monkeypatch.context() as patched:
        stop_after(4, patched)  # of 3 in each of two epochs
        with pytest.raises(Stopped):
            train(config)
    if role == "init":
        shutil.rmtree(source)
    train(config)
    states = [
        torch.load(Path(run) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in (whole["run_dir"], config["run_dir"])
    ]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize("change", ["other weights", "gone", "no lineage"])
def test_a_run_goes_on_with_the_teacher_that_it_began_with(
    tiny, trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    teacher = shutil.copytree(trained_run, tmp_path / "teacher")
    config = tiny(f"teacher={teacher}")
    with monkeypatch.context() as patched:
        stop_after(4, patched)
        with pytest.raises(Stopped):
            train(config)
    if change == "other weights":
        state = torch.load(teacher / "checkpoints" / "best.ckpt", weights_only=True)
        torch.save(state | {"epoch": 0, "more": 1}, teacher / "checkpoints" / "best.ckpt")
        said = r"teacher=.* has other weights than when this run began.*resume=never"
    elif change == "gone":
        shutil.rmtree(teacher)
        said = r"teacher is not a complete run directory"
    else:
        (Path(config["run_dir"]) / LINEAGE).unlink()
        said = r"lineage.json does not say which teacher this run began with"
    with pytest.raises(ConfigError, match=said):
        train(config)


def test_what_has_no_counterpart_stays_and_is_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    old, new = (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 1, 1)),
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)),
    )
    head = new[1].weight.clone()
    write_safetensors(old, tmp_path / "weights.safetensors")
    assert start_from(tmp_path / "weights.safetensors", new) == ["1.bias", "1.weight"]
    assert torch.equal(new[0].weight, old[0].weight) and torch.equal(new[1].weight, head)
    assert read_state(tmp_path / "weights.safetensors").keys() == old.state_dict().keys()


def test_another_network_is_no_start(tiny, trained_run: Path) -> None:
    with pytest.raises(ConfigError, match=r"of another network: \d+ of this one's \d+ parameters.*leave out init"):
        train(tiny(f"init={trained_run}", "model.channels=[6,6,10,10,10]"))


@pytest.mark.parametrize("key", ["init", "teacher"])
def test_what_is_no_run_is_no_start_and_no_teacher(tiny, key: str) -> None:
    config = tiny(f"{key}=nowhere")
    with pytest.raises(ConfigError, match=r"=nowhere: nowhere is neither a file, nor a directory"):
        train(config)
    assert not Path(config["run_dir"]).exists()


@pytest.mark.parametrize("value", ["5", "''", "[a,b]", "model.onnx"])
@pytest.mark.parametrize("key", ["init", "teacher"])
def test_what_can_be_no_run_is_answered_before_anything_is_made(tiny, key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key}=.*(is not possible; it is null, or|has no weights to train with)"):
        tiny(f"{key}={value}")


@pytest.mark.parametrize("key", LATER)
def test_keys_that_came_later_leave_earlier_runs_what_they_were(tiny, key: str) -> None:
    *groups, name = key.split(".")
    config = tiny("model=emisnet", "teacher=somebody") if key == "teacher_weight" else tiny("model=emisnet")

    def with_value(value: object, *, absent: bool = False) -> str:
        changed = copy.deepcopy(config)
        node = changed
        for group in groups:
            node = node[group]
        node.pop(name, None)
        if not absent:
            node[name] = value
        return run_hash(changed)

    assert with_value(LATER[key]) == with_value(None, absent=True) != with_value("another")


# ---- what it saw


def test_a_start_that_saw_the_val_images_is_refused(tiny, trained_run: Path, tmp_path: Path) -> None:
    stranger = shutil.copytree(trained_run, tmp_path / "stranger")
    own = read_split(stranger / "split.json")
    parts = own.parts | {"train": own.parts["train"] + own.parts["val"][:2], "val": own.parts["val"][2:]}
    (stranger / "split.json").write_text(dataclasses.replace(own, parts=parts).to_json())
    config = tiny(f"init={stranger}", *IDLE)
    with pytest.raises(ConfigError, match=r"init stranger .* was trained on 2 of the val images.*allow_leaks=true"):
        train(config)
    allowed = tiny(f"init={stranger}", *IDLE, "data.allow_leaks=true")
    train(allowed)
    protocol = RunDir(Path(allowed["run_dir"])).metrics()["protocol"]
    assert "was trained on 2 of the val images" in protocol["caveat"]  # stands in every table and on the card
    (scored,) = {evaluate_run(allowed["run_dir"], data=allowed["data"] | {"data_seed": 1}).protocol["caveat"]}
    assert scored == protocol["caveat"]


SPLIT = Split("own", "glas", {"train": ("a", "b"), "val": ("c",), "test": ("d", "e")})


def ancestor(train: str, val: str, dataset: str = "glas") -> Ancestor:
    return Ancestor("init", "x", "", "0" * 64, dataset, tuple(train), tuple(val))


@pytest.mark.parametrize(
    ("one", "groups", "told"),
    [
        (ancestor("ab", "c"), {}, []),
        (ancestor("abc", ""), {}, ["was trained on 1 of the val images"]),
        (ancestor("abd", "e"), {}, ["was trained on 1 of the test images", "was selected by 1 of the test images"]),
        (ancestor("abde", "c", dataset="isic2018"), {}, []),
        (ancestor("abf", "c"), {"f": "patient", "d": "patient"}, ["was trained on 1 of the test images"]),
        (ancestor("ab", "cf"), {"f": "patient", "d": "patient"}, ["was selected by 1 of the test images"]),
        (ancestor("ab", "c"), {"a": "patient", "d": "patient"}, []),  # the split's own, which it tells itself
    ],
    ids=str,
)
def test_seen_images_by_part_and_group(one: Ancestor, groups: dict[str, str], told: list[str]) -> None:
    found = faults([one], SPLIT, "glas", groups)
    assert len(found) == len(told) and all(words in fault for words, fault in zip(told, found, strict=True))


def test_folders_and_generated_images_are_told_apart(tmp_path: Path) -> None:
    folders = [identity({"root": str(tmp_path / name), "split_seed": 0}, "folder") for name in "ab"]
    assert folders[0] != folders[1]
    assert identity({"data_seed": 0}, "synthetic") != identity({"data_seed": 1}, "synthetic")
    assert identity({"root": "here"}, "glas") == identity({"root": "there"}, "glas") == "glas"


@pytest.mark.parametrize("text", ["[", '[{"role": "init"}]', '{"a": 1}', "[5]"])
def test_a_damaged_lineage_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / LINEAGE).write_text(text)
    with pytest.raises(ValueError, match=r"lineage\.json is damaged"):
        read_lineage(tmp_path)


def test_a_card_names_who_it_learned_from(tiny, trained_run: Path, tmp_path: Path) -> None:
    config = tiny(f"init={trained_run}", *IDLE)
    train(config)
    run = Path(config["run_dir"])
    (one,) = read_lineage(run)
    elsewhere = dataclasses.replace(one, dataset="isic2018")
    (run / LINEAGE).write_text(lineage_json([elsewhere]))
    write_bundle(open_trained(run), tmp_path / "bundle")
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert f"init {trained_run.name} (sha256 {one.sha256[:12]}): {len(one.train)} images of isic2018" in card
    assert "CC BY-NC 4.0" in card and "Only images like those of synthetic and isic2018" in card
    assert read_lineage(tmp_path / "bundle") == [elsewhere]
    assert str(trained_run) not in (tmp_path / "bundle" / "config.yaml").read_text()


# ---- teachers


def test_a_teacher_sees_the_images_as_it_was_trained(trained_run: Path) -> None:
    trained = open_trained(trained_run)
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    teacher = Teacher(trained.net, size=trained.size, mean=trained.mean, std=trained.std)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (trained.mean, trained.std))
    with torch.no_grad():
        expected = trained.net((image / 255 - mean) / std).sigmoid()
    torch.testing.assert_close(teacher(image), expected)
    assert not any(parameter.requires_grad for parameter in teacher.net.parameters())
    assert teacher(image.repeat(1, 1, 2, 2)).shape == (2, 1, 64, 64)  # at its own size inside


def test_the_distillation_loss_is_least_at_the_teacher_s_odds() -> None:
    probs = torch.tensor([0.2, 0.7]).view(1, 1, 1, 2)
    logits = probs.logit().requires_grad_()
    loss = distillation_loss([logits, torch.ones(1)], probs)
    entropy = -(probs * probs.log() + (1 - probs) * (1 - probs).log()).mean()
    assert loss.item() == pytest.approx(entropy.item())
    loss.backward()
    assert logits.grad is not None and logits.grad.abs().max() < 1e-7


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_teacher_has_its_weight_in_training_and_none_in_validation(trained_run: Path, weight: float) -> None:
    torch.manual_seed(0)
    trained, net = open_trained(trained_run), nn.Conv2d(3, 1, 1)
    stats = {"mean": trained.mean, "std": trained.std}
    task = SegmentationTask(
        net=net,
        loss=BCELoss(),
        optimizer=torch.optim.SGD,
        scheduler=torch.optim.lr_scheduler.ConstantLR,
        train_batches=1,
        **stats,
        teacher=Teacher(trained.net, size=trained.size, **stats),
        teacher_weight=weight,
    )
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    mask = (torch.rand(2, 1, 32, 32) > 0.5).to(torch.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (trained.mean, trained.std))
    normal = (image / 255 - mean) / std
    by_mask = F.binary_cross_entropy_with_logits(net(normal), mask.float())
    by_teacher = F.binary_cross_entropy_with_logits(net(normal), trained.net(normal).sigmoid())
    batch = {"image": image, "mask": mask, "id": ["a", "b"]}
    torch.testing.assert_close(task._step(batch, "train")[0], (1 - weight) * by_mask + weight * by_teacher)
    torch.testing.assert_close(task._step(batch, "val")[0], by_mask)


def test_a_student_is_another_run_and_keeps_nothing_of_its_teacher(tiny, trained_run: Path) -> None:
    config = tiny(f"teacher={trained_run}")
    train(config)
    run = RunDir(Path(config["run_dir"]))
    state = torch.load(run.last, weights_only=True)["state_dict"]
    own = build_net(config["model"], quiet=True).state_dict()
    assert {name for name in state if name.startswith("net.")} == {f"net.{name}" for name in own}
    assert not any("teacher" in name for name in state)
    last, other = (read_csv(path / "history.csv")[-1]["train/loss"] for path in (run.path, trained_run))
    assert last != other and [one.role for one in read_lineage(run.path)] == ["teacher"]


def test_a_weight_out_of_range(tiny) -> None:
    with pytest.raises(ConfigError, match=r"teacher_weight=1.5 is not possible; it is a number from 0 and up to 1"):
        tiny("teacher_weight=1.5")
