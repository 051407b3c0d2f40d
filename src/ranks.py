"""One run over several devices: one process per device (rank), of which rank 0 is the one that the user started.

Rank 0 owns the run: its lock, all that is written, the signals, the score. Once it has set everything up it starts the
others (`python -m src.follow <run>`), which read the config from the run directory. Lightning would start them by
repeating the command line, which in a multirun or under a launcher of Hydra is not the command of this run.
"""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from lightning.pytorch.strategies import DDPStrategy

from src.process import environment

READY = b"ready\n"
ENDING = 60.0  # seconds that a rank may take to end after training
GRACE = 30.0  # seconds for rank 0 to notice by itself that another rank died; with NCCL it may wait for ever
LAST_WORDS = 20_000  # characters of a traceback, well below what a pipe holds
# What torch says where another process of the group is gone: the cause is there, not here.
_LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|store|socket", re.IGNORECASE)


class RankError(RuntimeError):
    """Another rank failed; its traceback is a note of this error."""


@dataclass(frozen=True)
class Seat:
    """Which of a run's processes this is, and where they meet."""

    rank: int
    world: int
    port: int

    def strategy(self) -> DDPStrategy:
        return _Processes(cluster_environment=_Environment(self))

    def leave(self) -> None:
        """Ends the group: what comes next, rank 0 does alone. (torchmetrics would ask the others otherwise.)"""
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


class _Environment(LightningEnvironment):
    """This seat's numbers, whatever Slurm or torchrun have put into the environment."""

    creates_processes_externally = True
    main_address = "127.0.0.1"

    def __init__(self, seat: Seat):
        super().__init__()
        self.seat, self._main_port = seat, seat.port

    def local_rank(self) -> int:
        return self.seat.rank

    def node_rank(self) -> int:
        return 0


class _Processes(DDPStrategy):
    def _configure_launcher(self) -> None:
        """None: the processes are there. (Lightning's, even if it starts none, changes torch's number of threads.)"""


class Followers:
    """The other ranks of a run as seen from rank 0; as a context it waits for their end, or ends them.

    A rank that fails ends the run, also where rank 0 waits for it inside a collective call: after GRACE `give_up` is
    called with the reason, and the process ends with code 1.
    """

    def __init__(self, command: list[str], seat: Seat, give_up: Callable[[str], None], grace: float = GRACE):
        self.give_up, self.grace = give_up, grace
        self.processes = []
        for rank in range(1, seat.world):
            numbers = [str(rank), str(seat.world), str(seat.port)]
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, *command, *numbers],
                    env=environment(RANK=str(rank)),  # RANK: Lightning's notes stay with 0
                    stdin=subprocess.PIPE,  # closes when this process ends, however it ends: so do they
                    stdout=subprocess.PIPE,
                )
            )
        self._leaving = threading.Event()
        self._begun: dict[int, bytes] = {}  # the first line of a rank, where it was not READY

    def __enter__(self) -> "Followers":
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def wait_until_ready(self) -> None:
        """Until all have loaded data and network; RankError if one fails at that."""
        for rank, process in enumerate(self.processes, start=1):
            line = _pipe(process.stdout).readline()
            if line != READY:
                self._begun[rank] = line
                raise self._failure()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leaving.set()
        try:
            if error is None and any(code != 0 for code in self._codes(ENDING)):
                raise self._failure()
            if isinstance(error, RuntimeError) and _LOST.search(str(error)) and any(self._codes(5)):
                raise self._failure() from error
        finally:
            for process in self.processes:
                process.kill()
                process.wait()
                _pipe(process.stdin).close()
                _pipe(process.stdout).close()

    def _codes(self, seconds: float) -> list[int | None]:
        """The exit codes once all have ended, or what there is of them after that time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and any(process.poll() is None for process in self.processes):
            time.sleep(0.05)
        return [process.poll() for process in self.processes]

    def _failure(self) -> RankError:
        """What the rank said that failed first: where others only say that they lost it, they come last."""
        errors = []
        for rank, code in enumerate(self._codes(5), start=1):
            if code:
                said = self._begun.get(rank, b"") + _pipe(self.processes[rank - 1].stdout).read()
                words = said.decode(errors="replace").strip()
                last = words.splitlines()[-1] if words else f"ended without a word, exit code {code}"
                errors.append(RankError(f"rank {rank} of {len(self.processes) + 1}: {last}"))
                errors[-1].add_note(f"What rank {rank} said:\n{words}")
        errors.sort(key=lambda error: bool(_LOST.search(str(error))))
        return errors[0] if errors else RankError("another rank did not end")

    def _watch(self) -> None:
        while not self._leaving.wait(0.5):
            codes = {rank: process.poll() for rank, process in enumerate(self.processes, start=1)}
            failed = {rank: code for rank, code in codes.items() if code}
            if failed and not self._leaving.wait(self.grace):
                self.give_up(f"rank {min(failed)} ended with code {failed[min(failed)]} and rank 0 could not go on")
                os._exit(1)


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


@contextmanager
def leading(run: Path, devices: int, checkpoint: Path | None, give_up: Callable[[str], None]) -> Iterator[Seat | None]:
    """Starts the other ranks, to be seated with rank 0 in what follows; None, and nothing started, for one device."""
    if devices == 1:
        yield None
        return
    seat = Seat(0, devices, find_free_network_port())
    command = ["-m", "src.follow", str(run), str(checkpoint or "")]
    try:
        with Followers(command, seat, give_up) as followers:
            followers.wait_until_ready()
            yield seat
            seat.leave()  # as the others do now
    finally:
        seat.leave()  # after an error: once the others are gone
