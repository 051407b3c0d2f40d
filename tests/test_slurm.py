"""The same study on Slurm: a real one on this machine, real pre-emption, a real time limit.

All of it runs at the same time, since most of it is waiting: drivers are started by fixtures, and looked at one by one.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path

import pytest
import torch
import yaml

from src import callbacks
from src.callbacks import GracefulStop
from src.config import composed
from src.preflight import ConfigError
from src.rundir import RunDir
from src.slurm import check_slurm
from src.train import train

from .conftest import PATIENCE, REPO, TINY, TINY_MODEL, wait_until
from .test_resume import assert_same, epochs_done

TOOLS = REPO / "tests" / "slurm"
PATH = f"{os.environ['PATH']}:/usr/sbin"
ABSENT = [name for name in ("munged", "slurmctld", "slurmd", "sbatch", "srun") if shutil.which(name, path=PATH) is None]
needs_slurm = pytest.mark.skipif(
    bool(ABSENT), reason=f"{', '.join(ABSENT)} absent (apt-get install --no-install-recommends slurm-wlm munge)"
)
STEPS = 24  # 4 epochs of 6
RUN = (
    *(*TINY_MODEL, *TINY, "trainer.max_epochs=4", "data.counts=[24,5,6]", "ema=0.9", "data.num_workers=1"),
    "+trainer.callbacks.watched={_target_: tests.slurm.watched_steps.WatchedSteps, seconds: 1}",
)


@dataclass
class Cluster:
    """Two nodes, so that pre-emption on one leaves the jobs of the other alone."""

    folder: Path
    environment: dict[str, str]
    drivers: list["Driver"] = field(default_factory=list)

    def run(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=PATIENCE, cwd=REPO)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def submit(self, runs: Path, node: str, *more: str) -> "Driver":
        launcher = ("partition=low", "cpus_per_task=1", "mem_gb=1", "timeout_min=60")
        asked = [f"hydra.launcher.{key}" for key in launcher if not any(key.split("=")[0] in word for word in more)]
        command = [sys.executable, "-m", "src.train", "-m", *RUN, f"runs={runs}", "hydra/launcher=submitit_slurm"]
        command += [*asked, f"+hydra.launcher.additional_parameters.nodelist={node}", *more]
        runs.mkdir()
        with (runs / "driver.log").open("w") as log:
            process = subprocess.Popen(command, cwd=REPO, env=self.environment, stdout=log, stderr=subprocess.STDOUT)
        self.drivers.append(Driver(process, runs))
        return self.drivers[-1]


@dataclass
class Driver:
    """A `python -m src.train -m hydra/launcher=submitit_slurm`, waiting for its jobs."""

    process: subprocess.Popen
    runs: Path

    def said(self) -> str:
        logs = [self.runs / "driver.log", *sorted(self.runs.glob("multirun/slurm/*/*.err"))]
        return "\n".join(f"== {log.name}\n{log.read_text()[-3000:]}" for log in logs)

    def run_of(self, seed: int) -> Path:
        found = [path for path in self.runs.glob(f"synthetic/*-seed{seed}") if (path / "config.yaml").is_file()]
        return found[0] if found else self.runs / "none"

    def wait_until(self, reached: Callable[[], bool]) -> None:
        wait_until(reached, self.process, self.said)

    def exit_code(self) -> int:
        try:
            return self.process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.said()) from None


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="mini-slurm-"))  # pytest's folders are closed to others: munged refuses them
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1] % 20_000 + 10_000  # below the ephemeral ports; the nodes take the next two
    more = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{TOOLS / 'bin'}:{PATH}", "PYTHONPATH": str(REPO)}
    cluster = Cluster(folder, os.environ | more | {"OMP_NUM_THREADS": "1", "EMISNET_TRUST": "tests"})
    try:
        cluster.run(str(TOOLS / "mini_slurm.sh"), "start", str(folder), "2", "4", str(port))
        yield cluster
    finally:
        for driver in cluster.drivers:
            driver.process.kill()
            driver.process.wait()
        cluster.run(str(TOOLS / "mini_slurm.sh"), "stop", str(folder))
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def out_of_time(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Driver, "Future[int]"]]:
    """A run whose time is up while the other tests go on, with the step at which it was saved."""
    more = ("timeout_min=10", "signal_delay_s=90", "max_num_timeout=1")
    launcher = [f"hydra.launcher.{key}" for key in more]
    folder = tmp_path_factory.mktemp("time") / "runs"
    driver = cluster.submit(folder, "n2", "seed=0", *launcher, "trainer.callbacks.watched.seconds=5")
    with ThreadPoolExecutor(1) as pool:
        yield driver, pool.submit(let_time_run_out, cluster, driver)


def let_time_run_out(cluster: Cluster, driver: Driver) -> int:
    driver.wait_until(lambda: len(steps_of(driver.run_of(0))) > 1)
    run = RunDir(driver.run_of(0))
    job = next((driver.runs / "multirun" / "slurm").glob("[0-9]*")).name
    # Slurm counts whole minutes and looks twice in one: lowered this far, the limit's signal is due when it looks next
    minutes = int(cluster.run("squeue", "-h", "-j", job, "-O", "TimeUsed").split(":")[-2]) + 2
    cluster.run("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")
    driver.wait_until(lambda: run.status().get("state") == "interrupted")
    saved = torch.load(run.last, weights_only=True)["global_step"]
    longer = ["scontrol", "update", f"JobId={job}", "TimeLimit=30"]  # as soon as it is in the queue again
    driver.wait_until(lambda: subprocess.run(longer, env=cluster.environment, capture_output=True).returncode == 0)
    return saved


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    train(composed(*RUN, "test=false", "seed=0", f"run_dir={folder}"))
    return folder


@pytest.fixture(scope="module")
def one_fails(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Driver:
    more = ("optim.lr=1e30,1e-3", "trainer.gradient_clip_val=null", "trainer.callbacks.watched.seconds=0")
    return cluster.submit(tmp_path_factory.mktemp("fails") / "runs", "n2", *more)


def steps_of(run: Path) -> list[tuple[str, int]]:
    lines = (run / "steps.txt").read_text().split("\n")[:-1] if (run / "steps.txt").is_file() else []
    return [(attempt, int(step)) for attempt, step in (line.split() for line in lines)]


def assert_resumed_at_its_step(run: Path, saved: int) -> None:
    steps = steps_of(run)
    assert [step for _, step in steps] == list(range(STEPS)), "every step once, in order"
    assert next(step for attempt, step in steps if attempt != "0") == saved
    assert list(run.rglob("hpc_ckpt*")) == []


@pytest.mark.slow
@needs_slurm
@pytest.mark.usefixtures("out_of_time", "one_fails")  # meanwhile, on the other node
def test_preempted_runs_are_requeued_and_resume_at_their_step(cluster: Cluster, unbroken: Path, tmp_path: Path) -> None:
    at_once = cluster.submit(tmp_path / "at_once", "n1", "seed=0,1")
    with_notice = cluster.submit(tmp_path / "with_notice", "n1", "seed=0", "hydra.launcher.partition=grace")
    jobs = ((at_once, 0), (at_once, 1), (with_notice, 0))
    for driver, seed in jobs:
        driver.wait_until(lambda driver=driver, seed=seed: epochs_done(driver.run_of(seed)) >= 1)
    at_once.wait_until(lambda: steps_of(at_once.run_of(0))[-1][1] % 6 in (1, 2))
    cluster.run("sbatch", "-p", "high", "-w", "n1", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")
    saved = []
    for driver, seed in jobs:
        run = RunDir(driver.run_of(seed))
        driver.wait_until(lambda run=run: run.status().get("state") == "interrupted")
        saved.append(torch.load(run.last, weights_only=True)["global_step"])
    assert saved[0] % 6 != 0, "it was meant to fall inside an epoch"
    for driver in (at_once, with_notice):
        assert driver.exit_code() == 0, driver.said()
    for (driver, seed), step in zip(jobs, saved, strict=True):
        assert RunDir(driver.run_of(seed)).status()["state"] == "finished"
        assert_resumed_at_its_step(driver.run_of(seed), step)
    assert_same(at_once.run_of(0), unbroken)
    assert_same(with_notice.run_of(0), unbroken)
    print(f"pre-empted: saved at steps {saved}")


@pytest.mark.slow
@needs_slurm
def test_a_run_out_of_time_goes_on_in_the_next_job(out_of_time: tuple[Driver, "Future[int]"], unbroken: Path) -> None:
    driver, future = out_of_time
    saved = future.result()
    assert saved > 0
    assert driver.exit_code() == 0, driver.said()
    assert RunDir(driver.run_of(0)).status()["state"] == "finished"
    assert_resumed_at_its_step(driver.run_of(0), saved)
    assert_same(driver.run_of(0), unbroken)
    print(f"time limit: saved at step {saved}")


@pytest.mark.slow
@needs_slurm
def test_a_failing_job_lets_the_other_finish_and_the_exit_code_says_so(one_fails: Driver) -> None:
    assert one_fails.exit_code() == 1, one_fails.said()
    runs = [RunDir(path) for path in (one_fails.runs / "synthetic").glob("*-seed*")]
    states = {run.config()["optim"]["lr"]: run.status()["state"] for run in runs}
    assert states == {1e30: "failed", 1e-3: "finished"}


def test_our_defaults_name_every_key_of_the_plugin() -> None:
    plugin = pytest.importorskip("hydra_plugins.hydra_submitit_launcher.config")
    ours = yaml.safe_load((REPO / "conf/hydra/launcher/submitit_slurm.yaml").read_text())
    assert ours.keys() == {key.name for key in fields(plugin.SlurmQueueConf)}
    assert ours["_target_"] == plugin.SlurmQueueConf._target_ and ours["max_num_timeout"] > 0


def test_a_place_without_slurm_is_told_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="sbatch, srun, scontrol, scancel cannot be found"):
        check_slurm()
    for name in ("sbatch", "srun", "scontrol", "scancel", "sacct"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'Slurm accounting storage is disabled' >&2; exit 1\n")
        (tmp_path / name).chmod(0o755)
    check_slurm()
    assert "sacct does not answer (Slurm accounting storage is disabled)" in capsys.readouterr().err
    (tmp_path / "sacct").write_text("#!/bin/sh\necho 'JobID|State|NodeList'\n")
    check_slurm()
    assert capsys.readouterr().err == ""


def test_a_schedulers_handler_is_called_only_when_it_is_passed_on(tmp_path: Path) -> None:
    called: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: called.append(number))
    try:
        stop = GracefulStop(RunDir(tmp_path))
        with stop, pytest.raises(SystemExit) as left:  # nothing is trained yet: it leaves at once
            os.kill(os.getpid(), signal.SIGUSR2)
        assert (left.value.code, called) == (128 + signal.SIGUSR2, [])
        stop.pass_on(requeue=False)
        assert called == [signal.SIGUSR2]
        GracefulStop(RunDir(tmp_path)).pass_on(requeue=True)  # without a handler before ours there is none to call
        stop.pass_on(requeue=True)
        assert called == [signal.SIGUSR2] * 2
        assert callable(signal.getsignal(signal.SIGUSR2)) and signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_the_same_signal_leaves_at_once_only_when_it_is_no_echo(tmp_path: Path, monkeypatch) -> None:
    with GracefulStop(RunDir(tmp_path)) as stop:
        stop._training = True
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGUSR2):
            os.kill(os.getpid(), number)
        assert stop.received == signal.SIGTERM
        child = os.fork()
        if child == 0:  # a loader's worker before it has set its own handlers
            monkeypatch.setattr(callbacks, "ECHO", -1.0)
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        monkeypatch.setattr(callbacks, "ECHO", -1.0)
        with pytest.raises(SystemExit, match="143"):
            os.kill(os.getpid(), signal.SIGTERM)
