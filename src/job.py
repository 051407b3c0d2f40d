"""One run of a study in a process of its own, so that what kills it (memory, a crash) takes no other run along.

python -m src.job <complete config as YAML>: what `src.train` starts for each run of a multirun.
"""

import ctypes
import errno
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import yaml
from hydra.errors import CompactHydraException

from src.cli import ConfigError
from src.files import is_locked, write_text
from src.process import environment
from src.rundir import RunDir

POLL = 0.2  # s between looks at the child
PR_SET_PDEATHSIG = 1  # Linux: the signal a process gets when its parent dies
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
# what torch, oneDNN, OpenCV and C++ say in errors that are no MemoryError
OUT_OF_MEMORY = re.compile(
    r"out ?of ?memory|(can't|cannot|failed to) allocate|(not enough|insufficient) (free )?memory|bad_alloc"
    r"|could not create a memory object|DataLoader worker .* is killed by signal: (Killed|Bus error)",
    re.IGNORECASE,
)


class RunFailed(CompactHydraException):
    """A run of a study failed; its own directory says why. Hydra prints the message alone, without a traceback."""


class OutOfMemory(CompactHydraException, RuntimeError):
    """The memory of this machine or of its GPU ran out. Hydra prints the message alone, without a traceback."""


@contextmanager
def memory_errors(run: RunDir) -> Iterator[None]:
    """OutOfMemory, with what to do, for each of the errors that say that there is no memory left."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        going_on = (
            "What was trained is kept: the same command goes on where there is more. " if run.last.is_file() else ""
        )
        raise OutOfMemory(
            f"out of memory ({said}). {going_on}Lower data.batch_size, data.size or data.num_workers, or end what else "
            "takes memory here."
        ) from error


def is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    if isinstance(error, ConfigError | ValueError | CompactHydraException):  # has its own remedy
        return False
    causes: BaseException | None = error  # torch's "worker exited unexpectedly" has its signal in the cause only
    while causes is not None and OUT_OF_MEMORY.search(str(causes)) is None:
        causes = causes.__cause__
    return causes is not None


def train_apart(config: dict[str, Any], *, worker: bool = False) -> float:
    """Trains a complete config in a child process and returns the best value of its `monitor`.

    Stop signals go to the child, which saves and stops; this process then ends with 128 + signal. `worker`: this is a
    launcher's process, without which the child shall not go on.

    Raises:
        RunFailed: the child failed or was killed; status.json and traceback.txt of the run say how.
        SystemExit: 128 + signal.
    """
    run = RunDir(Path(config["run_dir"]))
    if run.status().get("state") == "finished" and config["resume"] != "never":
        return _train_quietly(run, config)  # here: it returns at once, or says why the directory is of another run
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        child = subprocess.Popen(
            [sys.executable, "-m", "src.job", str(file), str(os.getpid())],
            env=environment(),
            start_new_session=True,  # a Ctrl-C reaches it through here, and once
        )
        with _forwarding(child) as received:
            code = _wait(child, worker)
    if received:
        raise SystemExit(128 + received[-1])
    if code < 0:
        _tell_killed(run, -code)
    if code:
        reason = (run.status().get("reason") or f"exit code {code}").splitlines()[-1]
        raise RunFailed(f"{run.path}: {reason}")
    return float(run.metrics()["best"]["value"])


def _wait(child: "subprocess.Popen[bytes]", worker: bool) -> int:
    """The child's exit code; of a worker it is stopped when the process that started the worker is gone."""
    launcher = os.getppid()
    while True:
        try:
            return child.wait(POLL)
        except subprocess.TimeoutExpired:
            if worker and os.getppid() != launcher:
                child.terminate()
                launcher = os.getppid()


@contextmanager
def _forwarding(child: "subprocess.Popen[bytes]") -> Iterator[list[int]]:
    """Signals that came while the child ran, each passed on to it."""
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        child.send_signal(number)

    on_main = threading.current_thread() is threading.main_thread()  # others may not set handlers
    previous = {number: signal.signal(number, forward) for number in FORWARDED} if on_main else {}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _tell_killed(run: RunDir, number: int) -> None:
    """A killed process leaves no word, so its parent does; not about a run that is finished, or another's."""
    if run.status().get("state") == "finished" or is_locked(run.path / ".lock"):
        return
    name = signal.Signals(number).name
    hint = " (out of memory? then lower data.batch_size or data.size)" if number == signal.SIGKILL else ""
    reason = f"killed by {name}{hint}"
    run.mark("failed", reason=reason, exit_code=128 + number)
    write_text(
        run.path / "traceback.txt",
        f"{reason} at {time.strftime('%Y-%m-%dT%H:%M:%S%z')}. A killed process leaves no traceback; train.log and "
        "history.csv show how far it came.\n",
    )


def _train_quietly(run: RunDir, config: dict[str, Any]) -> float:
    """Without the tables of one run (a study's come at its end), and each line says which run it is of."""
    from src.train import train

    with redirect_stdout(io.StringIO()), redirect_stderr(_Marked(run.path.name, sys.stderr)):
        return train(config, wait=True)


class _Marked(io.TextIOBase):
    """Each line says which run it is of: several may write side by side."""

    def __init__(self, name: str, stream: TextIO):
        self.name, self.stream = name, stream
        self._inside = False  # a line

    def write(self, text: str) -> int:
        for line in text.splitlines(keepends=True):
            self.stream.write(line if self._inside else f"{self.name}  {line}")
            self._inside = not line.endswith("\n")
        return len(text)

    def flush(self) -> None:
        self.stream.flush()

    def fileno(self) -> int:
        return self.stream.fileno()


def main() -> None:
    """The child: trains, and leaves the reason of any failure in the run's directory."""
    file, parent = Path(sys.argv[1]), int(sys.argv[2])
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before this was set
        raise SystemExit(128 + signal.SIGTERM)
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    try:
        value = train_told(config)
    except ConfigError as error:
        print(f"error: {config['run_dir']}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except Exception as error:  # whatever it is: the traceback is in the run, one line here
        told = f"{type(error).__name__}: {error} (see traceback.txt there)"
        print(f"error: {config['run_dir']}: {told}", file=sys.stderr)
        raise SystemExit(1) from None
    print(f"{config['run_name']}: {config['monitor']} {value:.4f}", file=sys.stderr)


def train_told(config: dict[str, Any]) -> float:
    """Trains; what fails before the run has begun, such as bad data, also leaves config, status and traceback there."""
    run = RunDir(Path(config["run_dir"]))
    try:
        return _train_quietly(run, config)
    except Exception as error:  # written down and raised again
        status = run.status()
        begun_here = (status.get("state"), status.get("pid")) == ("failed", os.getpid())
        if not begun_here and status.get("state") != "finished" and not is_locked(run.path / ".lock"):
            code = 2 if isinstance(error, ConfigError) else 1
            run.mark("failed", reason=f"{type(error).__name__}: {error}", exit_code=code)
            write_text(run.path / "traceback.txt", traceback.format_exc())
            if not (run.path / "config.yaml").is_file():
                write_text(run.path / "config.yaml", yaml.safe_dump(config, sort_keys=False))
        raise


if __name__ == "__main__":
    main()
