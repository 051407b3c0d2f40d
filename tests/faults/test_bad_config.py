"""Bad settings are answered before the first epoch: one line, exit code 2, and nothing is left behind."""

import sys
from pathlib import Path

import pytest

from src.bounds import BOUNDS, Bound
from src.train import main
from tests.conftest import TINY, TINY_MODEL

ROWS = [
    # numbers out of range, or none
    ("seed=-1", "seed=-1 is not possible; it is a whole number from 0"),
    ("seed=1.5", "seed=1.5 is not possible"),
    ("seed=one", "seed=one is not possible"),
    ("seed=null", "seed=None is not possible"),
    ("seed=true", "seed=True is not possible"),
    ("ema=1", "ema=1 is not possible; it is a number from 0 and below 1"),
    ("ema=-0.1", "ema=-0.1 is not possible"),
    ("ema=some", "ema=some is not possible"),
    ("teacher_weight=2", "teacher_weight=2 is not possible"),
    ("threads=0", "threads=0 is not possible; it is a whole number from 1 and up to 512, or null"),
    ("threads=-1", "threads=-1 is not possible"),
    ("threads=all", "threads=all is not possible"),
    ("optim.lr=0", "optim.lr=0 is not possible; it is a number above 0"),
    ("optim.lr=-1e-3", "optim.lr=-0.001 is not possible"),
    ("optim.lr=inf", "optim.lr=inf is not possible"),
    ("optim.lr=nan", "optim.lr=nan is not possible"),
    ("optim.lr=fast", "optim.lr=fast is not possible"),
    ("optim.lr=null", "optim.lr=None is not possible"),
    ("optim.lr=[1,2]", "optim.lr=[1, 2] is not possible"),
    ("optim.weight_decay=-1", "optim.weight_decay=-1 is not possible"),
    ("optim=sgd optim.momentum=-1", "optim.momentum=-1 is not possible"),
    ("optim=sgd optim.momentum=1", "optim.momentum=1 is not possible"),
    ("schedule.warmup=1", "schedule.warmup=1 is not possible"),
    ("schedule.warmup=-0.1", "schedule.warmup=-0.1 is not possible"),
    ("schedule.final=2", "schedule.final=2 is not possible"),
    ("schedule.shape=sine", "schedule.shape=sine is not known"),
    ("trainer.max_epochs=0", "trainer.max_epochs=0 is not possible"),
    ("trainer.max_epochs=2.5", "trainer.max_epochs=2.5 is not possible"),
    ("trainer.max_epochs=many", "trainer.max_epochs=many is not possible"),
    ("trainer.max_epochs=-1", "trainer.max_epochs=-1 is not possible"),
    ("trainer.devices=0", "trainer.devices=0 is not possible"),
    ("trainer.devices=auto", "trainer.devices=auto is not possible"),
    ("trainer.devices=[0,1]", "trainer.devices=[0, 1] is not possible"),
    ("trainer.accelerator=gpu", "no GPU is visible here"),
    ("trainer.accelerator=abacus", "trainer.accelerator=abacus is not possible. Use auto, cpu"),
    ("trainer.precision=8", "trainer.precision=8 is not possible. Use 32-true"),
    ("trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches=0 is not possible"),
    ("trainer.gradient_clip_val=a", "trainer.gradient_clip_val=a is not possible"),
    ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val=-1 is not possible"),
    ("trainer.log_every_n_steps=0", "trainer.log_every_n_steps=0 is not possible"),
    ("trainer.limit_train_batches=0", "trainer.limit_train_batches=0 is not possible"),
    ("trainer.limit_val_batches=0", "validates after every epoch"),
    ("+trainer.check_val_every_n_epoch=2", "validates after every epoch"),
    ("+trainer.max_epoch=3", "max_epoch"),
    # data
    ("data.size=16", "data.size=16 is not possible; it is a whole number from 32"),
    ("data.size=abc", "data.size=abc is not possible"),
    ("data.size=64.5", "data.size=64.5 is not possible"),
    ("data.size=1000000", "data.size=1000000 is not possible"),
    ("data.batch_size=0", "data.batch_size=0 is not possible"),
    ("data.batch_size=abc", "data.batch_size=abc is not possible"),
    ("data.num_workers=-1", "data.num_workers=-1 is not possible"),
    ("data.num_workers=two", "data.num_workers=two is not possible"),
    ("data.mix=1.5", "data.mix=1.5 is not possible"),
    ("data.crop=half", "data.crop='half' is not a crop mode. Possible: full, lesion, mixed"),
    ("data.augment.flip=2", "data.augment.flip=2 is not possible"),
    ("data.augment.rotate=-1", "data.augment.rotate=-1 is not possible"),
    ("data.augment.rotate_limit=720", "data.augment.rotate_limit=720 is not possible"),
    ("data.augment.scale_limit=1", "data.augment.scale_limit=1 is not possible"),
    ("data.augment.color_limit=7", "data.augment.color_limit=7 is not possible"),
    ("data.augment.distort_limit=1.5", "data.augment.distort_limit=1.5 is not possible"),
    ("data.augment.blur_limit=0", "data.augment.blur_limit=0 is not possible"),
    ("data.mean=[0.5]", "one of each per channel"),
    ("data.std=[0,1,1]", "std above 0"),
    ("data=glas data.root=absent data.split=kfold", "data.split=kfold needs a fold"),
    ("data.fold=-1", "data.fold=-1 is not possible"),
    ("data=glas data.root=absent data.fold=0", "belong to data.split=kfold"),
    ("data=glas data.root=absent data.split=nonsense", "nonsense"),
    ("data.split=holdout", "data.split=holdout: generated images have no such split. Possible: generated, kfold"),
    ("data.split=kfold data.fold=0 data.n_folds=1", "data.n_folds=1 is not possible"),
    ("data.allow_leaks=perhaps", "data.allow_leaks=perhaps is neither true nor false"),
    ("data.download=perhaps", "data.download=perhaps is neither true nor false"),
    ("data.counts=[0,5,6]", "counts"),
    ("data.counts=[12,0,6]", "counts"),
    ("data=folder data.root=absent", "absent"),
    ("data=folder", "data.root needs a value"),
    ("data=kvasir_seg data.root=absent", "absent"),
    ("data=glas data.root=absent", "absent"),
    ("data=isic2018 data.root=absent", "absent"),
    ("data=kvasir", "no data 'kvasir'"),
    # the network
    ("model=emisnett", "no model 'emisnett'"),
    ("model.channels=[]", "channels"),
    ("model.channels=[4,4]", "depths"),
    ("model.channels=[4,4,0,4,4]", "channels=(4, 4, 0, 4, 4)"),
    ("model.encoder_depths=[1]", "encoder_depths"),
    ("model.decoder_depths=[1,1,1,0]", "decoder_depths"),
    ("model.stem_stride=3", "stem_stride=3 is not possible"),
    ("model.act=sine", "act='sine' is not an activation"),
    ("model.icm_levels=[9]", "icm_levels"),
    ("model.context_kernel_size=4", "kernel size 4"),
    ("model.context_dilation=0", "dilation 0"),
    ("model.context_dilation=[1,2]", "one for each of 5 levels"),
    ("model.local_kernel_size=2", "local_kernel_size=2"),
    ("model.fusion_kernel_size=2", "kernel size 2"),
    ("model.ghost_ratio=1", "ghost_ratio=1"),
    ("model.ca_reduction=0", "ca_reduction=0"),
    ("model.in_channels=1", "3 channels"),
    ("model.in_channels=0", "in_channels=0"),
    ("model.num_classes=2", "binary"),
    ("model.match_params=10", "2 %"),
    ("model.match_params=1000 model.match_macs=1000", "are both set"),
    ("model.match_params=reference", "needs to know which network"),
    ("+model.colour=red", "colour"),
    ("model.chanels=[4]", "channels"),
    ("model=unext deep_supervision=true", "deep_supervision=true needs a network with auxiliary heads"),
    # loss, monitor, switches, places
    ("loss=tversky loss.alpha=-1", "alpha=-1"),
    ("loss=tversky loss.alpha=0 loss.beta=0", "not both 0"),
    ("loss=focal loss.alpha=2", "alpha=2"),
    ("loss.weights=[1]", "2 losses but 1 weights"),
    ("loss.weights=[0,0]", "one must be above"),
    ("loss.weights=[-1,1]", "none may be below 0"),
    ("loss=dise", "no loss 'dise'"),
    ("+loss.power=3", "power"),
    ("monitor=val/dcie", "Did you mean val/dice?"),
    ("monitor=train/nothing", "is not a metric"),
    ("resume=sometimes", "Use auto, must, never"),
    ("resume=must", "resume=must"),
    ("test=no", "test=no is neither true nor false"),
    ("compile=perhaps", "compile=perhaps is neither true nor false"),
    ("channels_last=1", "channels_last=1 is neither true nor false"),
    ("deep_supervision=2", "deep_supervision=2 is neither true nor false"),
    ("modes=[half]", "half"),
    ("init=nowhere", "init=nowhere"),
    ("teacher=nowhere", "teacher=nowhere"),
    ("init=5", "init=5 is not possible"),
    ("teacher=model.onnx", "an ONNX file has no weights to train with"),
    ("run_dir=/proc/none/run", "cannot be made"),
    ("run_dir=/dev/null/run", "cannot be made"),
    ("recipe=magic", "no recipe 'magic'"),
    ("experiment=magic", "no experiment 'magic'"),
    ("logger=paper", "no logger 'paper'"),
    ("+logger.api_key=hush", "logger.api_key is given"),
    ("+model.extra={_target_: os.system}", "model.extra._target_=os.system may not be built"),
    ("plan=true", "plan=true is of a multirun"),
    ("nonsense=1", "nonsense"),
    ("optim.lr", "optim.lr"),
]


def test_there_are_over_a_hundred() -> None:
    assert len(ROWS) > 100 and len({words for words, _ in ROWS}) == len(ROWS)


@pytest.mark.parametrize(("words", "said"), ROWS, ids=[words for words, _ in ROWS])
def test_a_bad_setting_is_answered_in_one_line(
    words: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    typed = [words] if "{" in words else words.split()
    model = [] if any(word.startswith("model=") for word in typed) else [*TINY_MODEL]
    if any(word.startswith("data=") for word in typed):
        small = [word for word in TINY if not word.startswith(("data=", "data.counts", "data.native"))]
    else:
        small = [*TINY]
    monkeypatch.setattr(sys, "argv", ["train", *model, *small, f"runs={tmp_path / 'runs'}", *typed])
    with pytest.raises(SystemExit) as stop:
        main()
    told = capsys.readouterr().err
    assert stop.value.code == 2, told
    assert said in told and "Traceback" not in told, told
    lines = [line for line in told.splitlines() if line.startswith("error: ")]
    assert len(lines) <= 1, told
    assert not list((tmp_path / "runs").rglob("*.ckpt"))
    for status in (tmp_path / "runs").rglob("status.json"):  # the trainer is built after the run has begun
        assert typed == ["+trainer.max_epoch=3"] and '"exit_code": 2' in status.read_text()


@pytest.mark.parametrize("bound", {*BOUNDS.values()}, ids=str)
def test_a_bound_allows_what_it_says_and_no_more(bound: Bound) -> None:
    inside = 1 if bound.whole or bound.least >= 0.1 else 0.5
    inside = max(inside, int(bound.least)) if bound.whole else inside
    assert bound.allows(inside) and bound.allows(None) == bound.optional
    for wrong in (True, "1", [1], float("nan"), float("inf"), bound.least - 1, bound.most + 1):
        assert not bound.allows(wrong)
    assert bound.allows(bound.least) != bound.over or bound.whole
    if bound.whole:
        assert not bound.allows(inside + 0.5)
