"""One run over two processes (CPU, gloo): the numbers of one process, one run directory, and an end that all share.

Each test but the small ones starts real processes; what they train is the tiny run of conftest.
"""

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.fabric.plugins.environments.lightning import find_free_network_port

from src.assemble import make_net, make_task
from src.cli import ConfigError
from src.config import composed
from src.data.datasets import Synthetic
from src.data.sampler import EpochSampler, Share, WholeBatches, images_per_epoch
from src.files import read_csv
from src.ranks import Followers, RankError, Seat
from src.rundir import RunDir
from src.train import train

from .conftest import PATIENCE, REPO, TINY, TINY_MODEL, slow_train, wait_for_step, wait_until
from .ddp_worker import work

TWO = ("trainer.accelerator=cpu", "trainer.devices=2")
# 5 val images in batches of 2: two batches for one process, one for the other
ARGUMENTS = (*TINY_MODEL, *TINY, "data.batch_size=8", "data.counts=[40,5,6]", "ema=0.9")


# ---- the samplers


@given(length=st.integers(1, 60), batch=st.integers(1, 6), world=st.integers(1, 4), epoch=st.integers(0, 3))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_the_shares_of_a_training_batch_are_equal_and_disjoint(length: int, batch: int, world: int, epoch: int) -> None:
    size = batch * world
    one = [i for _, i in EpochSampler(length, seed=5, position=lambda: (epoch, 0), batch_size=size)]
    shares = [
        [
            i
            for _, i in EpochSampler(
                length, seed=5, position=lambda: (epoch, 0), batch_size=size, share=Share(r, world)
            )
        ]
        for r in range(world)
    ]
    assert len({len(share) for share in shares}) == 1
    together = [i for share in shares for i in share]
    assert len(set(together)) == len(together) == images_per_epoch(length, size, world)
    for step in range(length // size):  # the batches of the optimizer are those of one process
        parts = [share[step * batch : (step + 1) * batch] for share in shares]
        assert [i for part in parts for i in part] == one[step * size : (step + 1) * size]
    left_out = length - len(together)
    assert left_out < 2 * world


def test_the_shares_go_on_where_they_stopped() -> None:
    for rank in (0, 1):
        share = Share(rank, 2)
        whole = list(EpochSampler(23, seed=1, position=lambda: (4, 0), batch_size=6, share=share))
        assert list(EpochSampler(23, seed=1, position=lambda: (4, 12), batch_size=6, share=share)) == whole[6:]
        assert list(EpochSampler(23, seed=1, position=lambda: (4, 24), batch_size=6, share=share)) == []


@given(length=st.integers(4, 60), batch=st.integers(1, 9), world=st.integers(1, 4))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_validation_sees_every_image_once_and_no_process_sees_none(length: int, batch: int, world: int) -> None:
    shares = [list(WholeBatches(length, batch, Share(rank, world))) for rank in range(world)]
    assert sorted(i for share in shares for images in share for i in images) == list(range(length))
    assert all(shares) and max(len(images) for share in shares for images in share) <= batch


@pytest.mark.parametrize(
    ("batch", "counts", "message"),
    [
        (7, (12, 5, 1), "multiple of 2, at least 4"),
        (2, (12, 5, 1), "multiple of 2, at least 4"),
        (4, (12, 1, 1), "12 train and 1 val images are too few"),
    ],
)
def test_what_two_devices_cannot_share_is_refused(batch: int, counts: tuple[int, int, int], message: str) -> None:
    source = Synthetic(counts=counts, native_size=(32, 32), size=32, batch_size=batch, num_workers=0)
    with pytest.raises(ValueError, match=message):
        source.spread(Share(0, 2))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("trainer.devices=auto",), "number of devices"),
        (("trainer.devices=[0,1]",), "CUDA_VISIBLE_DEVICES"),
        ((*TWO, "trainer.limit_val_batches=2"), "needs one device"),
        ((*TWO, "+trainer.strategy=fsdp"), "DDP"),
    ],
)
def test_what_several_devices_cannot_do_is_refused(tiny, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(*overrides)


# ---- the same numbers as one process


def test_two_processes_validate_and_train_as_one(tmp_path: Path) -> None:
    """Without BN, which is per device, the weights are those of one process with the same batches."""
    (tmp_path / "one").mkdir()
    work(Seat(0, 1, 0), tmp_path / "one")
    port = str(find_free_network_port())
    commands = [[sys.executable, "-m", "tests.ddp_worker", rank, "2", port, str(tmp_path)] for rank in "01"]
    processes = [subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE, text=True) for command in commands]
    for process in processes:
        assert process.communicate(timeout=PATIENCE)[1] is not None and process.returncode == 0
    one, two = (json.loads((folder / "metrics.json").read_text()) for folder in (tmp_path / "one", tmp_path))
    assert 0 < one["val/dice"] < 1 and 0 < one["val/iou"] < one["val/dice"]
    assert one["steps"] == two["steps"] == 6
    for name in one.keys() - {"steps"}:
        tolerance = 1e-4 if name.startswith("trained/") else 1e-6  # a pixel at the threshold may change sides
        assert two[name] == pytest.approx(one[name], abs=tolerance), name
    weights = [torch.load(folder / "weights.pt", weights_only=True) for folder in (tmp_path / "one", tmp_path)]
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], atol=1e-5, rtol=0), name


# ---- the run


def start(folder: Path, *more: str, delay: float = 0.0) -> subprocess.Popen:
    # a delay in every step of rank 0, for which the other waits, leaves time to hit the middle of an epoch
    start = ["-c", slow_train(delay)] if delay else ["-m", "src.train"]
    command = [sys.executable, *start, *ARGUMENTS, *TWO, f"run_dir={folder}", *more]
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    with said(folder).open("w") as errors:
        return subprocess.Popen(command, cwd=REPO, env=environment, stdout=errors, stderr=errors)


def said(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.said")


def ranks_of(process: subprocess.Popen) -> list[int]:
    """The processes that rank 0 has started."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    return [int(pid) for pid in listed.stdout.split()]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run over two processes that nothing disturbed."""
    folder = tmp_path_factory.mktemp("two") / "run"
    assert start(folder).wait(timeout=PATIENCE) == 0, said(folder).read_text()
    yield folder


@pytest.mark.slow
def test_the_run_directory_is_complete_and_written_once(two: Path) -> None:
    run = RunDir(two)
    assert run.status()["state"] == "finished"
    rows = read_csv(two / "history.csv")
    assert [(row["epoch"], row["step"]) for row in rows] == [("0", "5"), ("1", "10")]
    metrics = run.metrics()
    assert metrics["scores"]["val"]["n"] == 5 and metrics["scores"]["test"]["n"] == 6
    assert metrics["best"]["value"] == max(float(row["val/dice"]) for row in rows)
    assert len(read_csv(two / "per_image.csv")) == 11
    assert sorted(file.name for file in (two / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert not (two / "traceback.txt").exists() and "Warning" not in (two / "train.log").read_text()
    lines = said(two).read_text().splitlines()
    assert [len([line for line in lines if line.startswith(start)]) for start in ("synthetic, split", "best val/")] == [
        1,
        1,
    ]


@pytest.mark.slow
def test_what_was_logged_are_the_numbers_of_the_saved_weights_in_one_process(two: Path) -> None:
    """Also of its BN statistics and of the averaged weights: every rank has validated what rank 0 has saved."""
    config = RunDir(two).config()
    source = instantiate(config["data"])
    net, _ = make_net(config, source)
    task = make_task(config, net, source)
    saved = torch.load(two / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    task.load_state_dict(saved)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
        (metrics,) = trainer.validate(task, datamodule=source, verbose=False)
    last = read_csv(two / "history.csv")[-1]
    assert len(metrics) == 9
    for name, value in metrics.items():
        assert float(last[name]) == pytest.approx(value, abs=1e-6), name


@pytest.mark.slow
def test_a_run_is_not_resumed_over_another_number_of_devices(two: Path) -> None:
    with pytest.raises(ConfigError, match=r"another config; it differs in trainer\.devices"):
        train(composed(*ARGUMENTS, "trainer.accelerator=cpu", f"run_dir={two}"))


@pytest.mark.slow
def test_sigterm_saves_ends_all_ranks_and_resumes_exactly(two: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(folder, delay=0.3)
    wait_until((folder / "history.csv").is_file, process, said(folder).read_text)
    others = ranks_of(process)
    assert len(others) == 1
    wait_for_step(7, said(folder), process)  # the second of the next epoch
    os.kill(others[0], signal.SIGTERM)  # as a scheduler sends it to all; it is for rank 0 to decide
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=PATIENCE) == 143, said(folder).read_text()
    assert RunDir(folder).status()["state"] == "interrupted"
    assert not Path(f"/proc/{others[0]}").exists()
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] in range(6, 10)
    assert start(folder).wait(timeout=PATIENCE) == 0, said(folder).read_text()
    one, other = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (folder, two))
    for key in ("state_dict", "current_model_state"):
        assert [name for name in one[key] if not torch.equal(one[key][name], other[key][name])] == []
    assert RunDir(folder).metrics()["scores"] == RunDir(two).metrics()["scores"]


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_run_as_failed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(folder, delay=0.3)
    wait_until((folder / "history.csv").is_file, process, said(folder).read_text)
    (other,) = ranks_of(process)
    os.kill(other, signal.SIGKILL)
    assert process.wait(timeout=PATIENCE) == 1, said(folder).read_text()
    status = RunDir(folder).status()
    assert (status["state"], status["exit_code"]) == ("failed", 1)
    assert "rank 1 of 2: ended without a word, exit code -9" in status["reason"]


# ---- how rank 0 meets the others' end


def followers(code: str, grace: float = 30.0) -> Followers:
    """One follower that runs `code`; `sys.stdout` is the pipe to rank 0."""
    return Followers(["-c", f"import sys, time\n{code}"], Seat(0, 2, 0), lambda reason: None, grace)


def test_a_rank_that_fails_at_setting_up_is_quoted() -> None:
    with (
        pytest.raises(RankError, match="rank 1 of 2: ValueError: no such image") as caught,
        followers("print('Traceback\\nValueError: no such image'); sys.exit(1)") as others,
    ):
        others.wait_until_ready()
    assert "Traceback" in caught.value.__notes__[0]


def test_where_rank_0_only_lost_another_the_other_is_quoted() -> None:
    with (
        pytest.raises(RankError, match="rank 1 of 2: FloatingPointError: the loss is nan"),
        followers("print('ready', flush=True); print('FloatingPointError: the loss is nan'); sys.exit(1)") as others,
    ):
        others.wait_until_ready()
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:9")


def test_rank_0_s_own_error_stays_and_ends_the_others() -> None:
    with pytest.raises(FloatingPointError), followers("print('ready', flush=True); time.sleep(600)") as others:
        others.wait_until_ready()
        raise FloatingPointError("the loss is nan")
    assert [process.returncode for process in others.processes] == [-signal.SIGKILL]


def test_rank_0_does_not_wait_for_ever_for_a_rank_that_failed(tmp_path: Path) -> None:
    """NCCL may never notice that a process is gone; the main thread sleeps here as it would inside NCCL."""
    code = (
        "import time; from pathlib import Path; from src.ranks import *\n"
        f"tell = Path({str(tmp_path / 'reason')!r}).write_text\n"
        "with Followers(['-c', 'import sys; sys.exit(3)'], Seat(0, 2, 0), tell, grace=0.2): time.sleep(120)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, timeout=PATIENCE)
    assert done.returncode == 1
    assert (tmp_path / "reason").read_text() == "rank 1 ended with code 3 and rank 0 could not go on"
