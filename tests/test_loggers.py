"""What the loggers leave behind, read back from disk. No network: dead servers are ports of this machine."""

import gzip
import inspect
import json
import os
import pty
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf
from PIL import Image

from src import loggers

from .conftest import PATIENCE
from .wandb_files import private_wandb, read, run_files, summary

ROOT = Path(__file__).parents[1]
__all__ = ["private_wandb"]  # a fixture of every test here
FAKE_KEY = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {"model": {"channels": [8, 16]}, "seed": 0, "data": {"api_key": "do-not-log", "num_tokens": 3}}
COST = {"params": 123, "macs": 0.5}


class FakeServer(BaseHTTPRequestHandler):
    """The few answers a W&B run needs from its server, and what was uploaded; `hangs` is a network that has died."""

    hangs = threading.Event()
    history: ClassVar[dict[str, list[dict[str, Any]]]] = {}

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["content-length"]))
        body = json.loads(gzip.decompress(raw) if self.headers.get("content-encoding") == "gzip" else raw)
        while self.hangs.is_set():
            time.sleep(0.1)
        run_id = (body.get("variables") or {}).get("name")
        answer: dict[str, Any] = {}
        if "query" not in body:  # /files/<entity>/<project>/<run>/file_stream
            part = body.get("files", {}).get("wandb-history.jsonl")
            if part:
                kept = self.history[self.path.split("/")[-2]]
                kept[part["offset"] :] = [json.loads(line) for line in part["content"]]
        elif "mutation UpsertBucket" in body["query"]:
            self.history.setdefault(run_id, [])
            answer = {"upsertBucket": {"bucket": self.bucket(run_id), "inserted": True}}
        elif "query RunResumeStatus" in body["query"]:
            bucket = self.bucket(run_id) if run_id in self.history else None
            answer = {"model": {"id": "m", "name": "p", "entity": {"id": "e", "name": "ent"}, "bucket": bucket}}
        elif "mutation CreateRunFiles" in body["query"]:
            answer = {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": []}}
        data = json.dumps({"data": answer}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def bucket(self, run_id: str) -> dict[str, Any]:
        project = {"id": "p", "name": "p", "entity": {"id": "e", "name": "ent"}}
        rows = self.history[run_id]
        counts = {"historyLineCount": len(rows), "logLineCount": 0, "eventsLineCount": 0}
        tails = {"historyTail": json.dumps([json.dumps(row) for row in rows[-1:]]), "eventsTail": "[]"}
        return {
            "id": "b",
            "name": run_id,
            "project": project,
            "config": "{}",
            "summaryMetrics": "{}",
            **counts,
            **tails,
        }

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, private_wandb: None) -> Iterator[type[FakeServer]]:
    FakeServer.hangs.clear()
    FakeServer.history.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), FakeServer) as http:
        http.daemon_threads = True
        http.block_on_close = False
        threading.Thread(target=http.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{http.server_port}")
        monkeypatch.setenv("WANDB_API_KEY", FAKE_KEY)
        yield FakeServer
        FakeServer.hangs.clear()
        loggers.finish(None, exit_code=0)
        http.shutdown()


class Toy(LightningModule):
    """One weight and three validation scores, the best in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(1, 1)

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        loss = self.net(batch).square().mean()
        self.log("train/loss", loss, on_epoch=True, on_step=False)
        return loss

    def validation_step(self, batch: torch.Tensor) -> None:
        self.log("val/dice", (0.2, 0.9, 0.5)[self.current_epoch])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _fit(logger: Any, tmp_path: Path) -> None:
    loader = torch.utils.data.DataLoader(torch.ones(2, 1))  # type: ignore[arg-type]
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(
        logger=logger,
        max_epochs=3,
        log_every_n_steps=1,
        accelerator="cpu",
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
        **quiet,
    )
    trainer.fit(Toy(), loader, loader)


def _start(run_dir: Path, **options: Any) -> Any:
    return loggers.wandb_logger(**{"run_dir": str(run_dir), "project": "p", "name": "n", "mode": "offline", **options})


def _rows(count: int, height: int = 40, width: int = 60) -> list[dict[str, Any]]:
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[5:20, 5:20] = 1
    image = np.full((height, width, 3), 128, dtype=np.uint8)
    return [{"id": f"c{i}", "image": image + i, "mask": mask, "pred": 1 - mask, "dice": 0.926} for i in range(count)]


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def _python(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter, for what W&B decides once per process."""
    settings = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": PATIENCE, "stdin": subprocess.DEVNULL}
    return subprocess.run([sys.executable, "-c", code], **{**settings, **options})


def _conf(name: str, run_dir: Path) -> Any:
    chosen = {"model": "emisnet", "data": "glas", "loss": "dice", "trainer": "default"}
    given = {
        "run_dir": str(run_dir),
        "run_name": "n",
        "study": "ablation",
        "tags": ["seed0", "glas"],
        "choices": chosen,
    }
    return OmegaConf.merge(given, {"logger": OmegaConf.load(ROOT / "conf" / "logger" / f"{name}.yaml")}).logger


def test_an_offline_run_records_everything(tmp_path, capfd, caplog, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", FAKE_KEY)  # a key alone must not bring `auto` online against WANDB_MODE
    logger = instantiate(_conf("wandb", tmp_path))
    loggers.log_config(logger, CONFIG, COST)
    _fit(logger, tmp_path)
    loggers.log_overlays(logger, _rows(5, 40, 1000), limit=3)
    loggers.log_summary(logger, {"test/dice": 0.8})
    loggers.finish(logger, exit_code=0)

    (path,) = run_files(tmp_path)
    seen = summary(path)
    assert seen["config"]["model"] == CONFIG["model"] and seen["config"]["seed"] == 0
    assert seen["config"]["data"] == {"api_key": "<hidden>", "num_tokens": 3}
    assert seen["config"]["cost"] == COST and seen["summary"]["cost/params"] == 123
    assert (seen["project"], seen["name"], seen["tags"]) == ("emisnet", "n", ["emisnet", "glas", "dice", "seed0"])
    assert (seen["exit_code"], seen["state"]) == (0, "finished")
    assert seen["summary"]["test/dice"] == 0.8
    assert seen["summary"]["val/dice"]["max"] == pytest.approx(0.9)  # the best, not the last
    records = [json.loads(line) for line in read(path).splitlines()]
    (run,) = [record["run"] for record in records if record["type"] == "run"]
    assert (run["run_group"], run["job_type"]) == ("ablation", "train")
    curve = [r["history"]["item"] for r in records if r["type"] == "history" and "val/dice" in r["history"]["item"]]
    assert [(row["epoch"], pytest.approx(row["val/dice"])) for row in curve] == [(0, 0.2), (1, 0.9), (2, 0.5)]
    steps = {r["metric"].get("glob_name"): r["metric"]["step_metric"] for r in records if r["type"] == "metric"}
    assert steps == {"train/*": "trainer/global_step", "val/*": "epoch", None: "epoch"}

    panel = seen["summary"]["overlays"]
    assert panel["captions"] == ["c0 dice 0.93", "c1 dice 0.93", "c2 dice 0.93"]
    media = path.parent / "files" / "media" / "images"
    assert len(list(media.glob("*.jpg"))) == 3  # of five: capped
    for case, masks in zip(panel["filenames"], panel["all_masks"], strict=True):
        assert _size(path.parent / "files" / case) == (512, 20)
        for key in ("ground_truth", "prediction"):
            assert _size(path.parent / "files" / masks[key]["path"]) == (512, 20)
    assert not any(FAKE_KEY.encode() in p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())

    printed = capfd.readouterr()
    assert printed.out.splitlines() == [f"W&B: offline; upload with: wandb sync {tmp_path}/wandb"]
    assert "wandb:" not in printed.err
    assert "going offline" not in caplog.text  # nothing was tried online


def test_two_runs_of_one_process_never_merge(tmp_path):
    first = _start(tmp_path / "a")
    loggers.log_config(first, {"lr": 0.1}, {})
    second = _start(tmp_path / "b")  # the first job has died without `finish`
    loggers.log_config(second, {"lr": 0.2}, {})
    loggers.finish(second, exit_code=0)
    (a,), (b,) = run_files(tmp_path / "a"), run_files(tmp_path / "b")
    seen = [summary(path) for path in (a, b)]
    assert [(run["config"]["lr"], run["exit_code"]) for run in seen] == [(0.1, 1), (0.2, 0)]
    assert seen[0]["run_id"] != seen[1]["run_id"]


def test_a_failure_is_recorded_even_without_the_logger(tmp_path):
    _start(tmp_path)
    loggers.finish(None, exit_code=1)  # as in `finally`, when what came after the start has raised
    (path,) = run_files(tmp_path)
    assert summary(path)["exit_code"] == 1


def test_a_resumed_directory_continues_its_run_and_sync_appends(tmp_path, server):
    for start in (0, 3):
        logger = _start(tmp_path)
        for epoch in range(start, start + 3):
            logger.log_metrics({"val/dice": epoch / 10, "epoch": epoch}, step=epoch)
        loggers.finish(logger, exit_code=0)
        time.sleep(1.1)  # the folders of the parts are named by the second
    assert len(run_files(tmp_path)) == 2
    run_id = (tmp_path / "wandb_id.txt").read_text().strip()
    assert {path.stem for path in run_files(tmp_path)} == {f"run-{run_id}"}
    command = [sys.executable, "-m", "wandb", "sync", str(tmp_path / "wandb")]
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=PATIENCE)
    assert [row["epoch"] for row in server.history[run_id]] == [0, 1, 2, 3, 4, 5]


def test_a_network_that_dies_during_training_does_not_hold_the_end(tmp_path, server, monkeypatch, caplog):
    monkeypatch.setattr(loggers, "FINISH_SECONDS", 2.0)
    logger = _start(tmp_path, mode="auto")
    assert not logger.experiment.offline and not run_files(tmp_path)
    server.hangs.set()
    logger.log_metrics({"val/dice": 0.5, "epoch": 0}, step=0)
    began = time.monotonic()
    loggers.finish(logger, exit_code=0)
    assert time.monotonic() - began < 50  # FINISH_SECONDS is 60 when unpatched
    assert "upload with: wandb sync --include-online" in caplog.text
    (path,) = (tmp_path / "wandb").glob("run-*/run-*.wandb")
    assert summary(path)["summary"]["val/dice"]["max"] == 0.5


def test_a_refused_connection_falls_back_to_offline(tmp_path, monkeypatch, caplog, capfd):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", FAKE_KEY)
    began = time.monotonic()
    logger = _start(tmp_path, mode="online")
    assert time.monotonic() - began < 60  # W&B itself would go on trying
    loggers.log_summary(logger, {"test/dice": 0.7})
    loggers.finish(logger, exit_code=0)
    (path,) = run_files(tmp_path)
    assert summary(path)["summary"]["test/dice"] == 0.7
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "going offline (CommError" in warning and FAKE_KEY not in warning
    printed = capfd.readouterr()
    assert printed.out.count("wandb sync") == 1 and "wandb:" not in printed.err


@pytest.mark.slow  # looks at seconds, which a slow machine has not got
def test_a_silent_server_holds_neither_the_start_nor_the_exit(tmp_path):
    """The port accepts and never answers. The exit counts too: W&B's telemetry held it for 20 s."""
    code = f"""
import time; from src import loggers; began = time.monotonic()
logger = loggers.wandb_logger(run_dir={str(tmp_path)!r}, project="p", name="n", mode="auto")
loggers.finish(logger, exit_code=0); print("took", time.monotonic() - began, time.time(), flush=True)
"""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        env = {**os.environ, "WANDB_BASE_URL": f"http://127.0.0.1:{port}", "WANDB_API_KEY": FAKE_KEY}
        del env["WANDB_ERROR_REPORTING"]
        done = _python(code, env=env)
        ended = time.time()
    assert done.returncode == 0, done.stderr
    took, stamp = (float(word) for word in done.stdout.splitlines()[-1].split()[1:])
    assert took < 60 and ended - stamp < 18
    assert len(run_files(tmp_path)) == 1


def test_no_key_never_asks_even_on_a_terminal(tmp_path):
    code = f"""
from src import loggers
logger = loggers.wandb_logger(run_dir={str(tmp_path)!r}, project="p", name="n", mode="online")
loggers.finish(logger, exit_code=0)
"""
    terminal, side = pty.openpty()
    try:
        done = _python(
            code, capture_output=False, stdin=side, stdout=side, stderr=side, env={**os.environ, "TERM": "xterm"}
        )
        shown = os.read(terminal, 65536).decode()
    finally:
        os.close(side)
        os.close(terminal)
    assert done.returncode == 0, shown
    assert "no API key was found" in shown and "choice" not in shown.lower()
    assert len(run_files(tmp_path)) == 1


@pytest.mark.parametrize("key", [None, "not-a-key"])
def test_no_key_or_a_malformed_one_is_offline(tmp_path, monkeypatch, key):
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    loggers.finish(_start(tmp_path, mode="auto"), exit_code=0)
    assert len(run_files(tmp_path)) == 1


def test_a_key_in_netrc_is_found(tmp_path, monkeypatch, server):
    monkeypatch.delenv("WANDB_API_KEY")
    host = os.environ["WANDB_BASE_URL"].removeprefix("http://")
    (tmp_path / "netrc").write_text(f"machine {host} login user password {FAKE_KEY}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert not _start(tmp_path, mode="auto").experiment.offline


def test_disabled_by_the_environment_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    logger = _start(tmp_path, mode="auto")
    loggers.log_config(logger, CONFIG, COST)
    loggers.finish(logger, exit_code=0)
    assert not list(tmp_path.glob("wandb/*run*")) and "sync" not in capsys.readouterr().out


def test_an_unknown_mode_is_answered_with_the_possible_ones(tmp_path):
    with pytest.raises(ValueError, match=r"'onlin'; possible: auto, online, offline"):
        _start(tmp_path, mode="onlin")


def test_only_the_first_process_starts_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    _start(tmp_path)
    assert not list(tmp_path.iterdir())


def test_finish_hides_no_result_behind_an_error_of_wandb(tmp_path, monkeypatch, caplog):
    logger = _start(tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(type(logger.experiment), "finish", lambda *_, **__: 1 / 0)
        loggers.finish(logger, exit_code=0)
    assert "division by zero" in caplog.text


def test_csv_keeps_the_rows_of_earlier_attempts(tmp_path):
    for attempt in range(2):
        logger = instantiate(_conf("csv", tmp_path))
        assert isinstance(logger, CSVLogger)
        loggers.log_config(logger, CONFIG, COST)
        _fit(logger, tmp_path)
        loggers.log_overlays(logger, _rows(2))
        loggers.log_summary(logger, {"test/dice": 0.8})
        loggers.finish(logger, exit_code=0)
        text = (tmp_path / "csv" / f"version_{attempt}" / "metrics.csv").read_text()
        assert "val/dice" in text and "0.8" in text and "0.8999" in text
    assert "0.8999" in (tmp_path / "csv" / "version_0" / "metrics.csv").read_text()
    hparams = (tmp_path / "csv" / "version_0" / "hparams.yaml").read_text()
    assert "params: 123" in hparams and "do-not-log" not in hparams


def test_tensorboard_continues_in_one_folder(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for attempt in range(2):
        logger = instantiate(_conf("tensorboard", tmp_path))
        assert isinstance(logger, TensorBoardLogger)
        loggers.log_config(logger, CONFIG, COST)
        logger.log_metrics({"val/dice": 0.5}, step=attempt)
        loggers.log_overlays(logger, _rows(3), limit=2)
        loggers.finish(logger, exit_code=0)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("val/dice")] == [0, 1]
    assert len(events.Tags()["images"]) == 2
    assert not list(tmp_path.rglob("version_*"))
    assert "params: 123" in (tmp_path / "tensorboard" / "hparams.yaml").read_text()


def test_outlines_are_where_the_masks_end():
    (row,) = _rows(1)
    row["pred"] = np.zeros_like(row["mask"])
    drawn = loggers._outlined(row)
    green = (drawn == (0, 255, 0)).all(-1)
    assert green.sum() == 4 * 15 - 4 and green[5, 5] and green[19, 19] and not green[10, 10]


@pytest.mark.parametrize("logger", [False, None])
def test_no_logger_is_accepted_everywhere(tmp_path, logger):
    assert _conf("none", tmp_path).get("_target_") is None
    loggers.log_config(logger, CONFIG, COST)
    loggers.log_summary(logger, {"a": 1.0})
    loggers.log_overlays(logger, _rows(1))
    loggers.finish(logger, exit_code=0)


def test_the_config_names_every_argument(tmp_path):
    assert set(_conf("wandb", tmp_path)) - {"_target_"} == set(inspect.signature(loggers.wandb_logger).parameters)
