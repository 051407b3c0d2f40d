"""Weights to start from, teachers, and what they have seen."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from src.build import build_net
from src.cli import ConfigError
from src.data.splits import read_split
from src.distillation import Teacher, distillation_loss
from src.files import read_csv
from src.lineage import LINEAGE, ancestors, read_lineage, refuse_seen
from src.losses import BCELoss
from src.rundir import RunDir
from src.task import SegmentationTask
from src.train import train
from src.trained import open_trained
from src.weights import read_state, start_from, write_safetensors

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
    assert (one.role, one.source, one.dataset) == ("init", trained_run.name, "synthetic")
    assert one.train == split.parts["train"] and one.val == split.parts["val"]
    assert any(trained_run.name in note for note in RunDir(Path(config["run_dir"])).metrics()["notes"])
    grandchild = tiny(f"init={config['run_dir']}", *IDLE)
    assert [ancestor.source for ancestor in ancestors(grandchild)] == [Path(config["run_dir"]).name, trained_run.name]


def test_a_resumed_run_does_not_start_again(tiny, trained_run: Path) -> None:
    start = shutil.copytree(trained_run, trained_run.parent / "moved")
    config = tiny(f"init={start}")
    train(config)
    kept = parameters(Path(config["run_dir"]))
    RunDir(Path(config["run_dir"])).mark("interrupted")
    shutil.rmtree(start)
    train(config)
    assert torch.equal(parameters(Path(config["run_dir"])), kept)


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
    with pytest.raises(ConfigError, match=r"nowhere is neither a file, nor a directory"):
        train(config)
    assert not Path(config["run_dir"]).exists()


def test_without_a_start_a_run_is_what_it_was_before_there_were_any(tiny, trained_run: Path) -> None:
    new = {"init", "teacher", "teacher_weight"}
    config = tiny()
    assert Path(config["run_dir"]).name == Path(tiny("data.mix=0.0", "data.augment.blur=0")["run_dir"]).name
    assert Path(tiny("data.mix=0.5")["run_dir"]).name != Path(config["run_dir"]).name
    assert new <= config.keys() and not (trained_run / LINEAGE).exists()


# ---- what it saw


def test_a_start_that_saw_the_val_images_is_refused(tiny, trained_run: Path, tmp_path: Path) -> None:
    stranger = shutil.copytree(trained_run, tmp_path / "stranger")
    own = read_split(stranger / "split.json")
    parts = own.parts | {"train": own.parts["train"] + own.parts["val"][:2], "val": own.parts["val"][2:]}
    (stranger / "split.json").write_text(dataclasses.replace(own, parts=parts).to_json())
    config = tiny(f"init={stranger}", *IDLE)
    with pytest.raises(
        ConfigError, match=r"init=stranger was trained on 2 of this run's val images .*allow_leaks=true"
    ):
        train(config)
    train(tiny(f"init={stranger}", *IDLE, "data.allow_leaks=true"))


def test_seen_images_by_part(tiny, trained_run: Path) -> None:
    (one,) = ancestors(tiny(f"teacher={trained_run}"))
    split = read_split(trained_run / "split.json")
    assert len(refuse_seen([one], split, allowed=False)) == 1  # the note alone: the same split
    chosen_by_test = dataclasses.replace(one, val=split.parts["test"][:1])
    with pytest.raises(ValueError, match=r"teacher=.* was selected by 1 of this run's test images"):
        refuse_seen([one, chosen_by_test], split, allowed=False)
    elsewhere = dataclasses.replace(chosen_by_test, dataset="another")
    assert len(refuse_seen([elsewhere], split, allowed=False)) == 1
    trained_on_test = dataclasses.replace(one, train=split.parts["test"])
    assert len(refuse_seen([trained_on_test], split, allowed=True)) == 2


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
    with pytest.raises(ConfigError, match=r"teacher_weight=1.5 is not possible; it is from 0 to 1"):
        tiny("teacher_weight=1.5")
