"""A rank of a run over several devices, other than the first: `src.ranks` starts it, nobody else.

It trains its share and writes nothing: rank 0 does. What it says at its end goes to rank 0, over the pipe that was its
stdout; it leaves signals to rank 0, and ends when rank 0 does.
"""

import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from src.ranks import Seat


def main() -> None:
    words = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print goes to stderr, not between the words
    # blocked, not ignored: Lightning would put a handler there
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2})
    threading.Thread(target=_end_with_rank_0, daemon=True).start()
    warnings.simplefilter("ignore")  # rank 0 gives the same
    try:
        from src.ranks import LAST_WORDS, READY, Seat

        logging.getLogger("lightning.fabric").setLevel(logging.WARNING)  # as rank 0; once it is imported
        run, checkpoint, rank, world, port = sys.argv[1:]
        seat = Seat(int(rank), int(world), int(port))
        follow(Path(run), seat, Path(checkpoint) if checkpoint else None, lambda: words.write(READY))
    except BaseException:
        words.write(traceback.format_exc()[-LAST_WORDS:].encode())
        os._exit(1)  # at once: a normal end might wait for a group that is broken


def follow(path: Path, seat: "Seat", checkpoint: Path | None, ready: Callable[[], Any]) -> None:
    """What any rank but the first does of a run that is under way; it writes nothing."""
    from hydra.utils import instantiate

    from src.assemble import make_net, make_task, make_teacher, make_trainer
    from src.build import pin_threads
    from src.data.sampler import Share
    from src.rundir import RunDir

    run = RunDir(path)
    config = run.config()
    pin_threads(config["threads"])
    source = instantiate(config["data"])
    source.setup("fit")
    source.spread(Share(seat.rank, config["trainer"]["devices"]))
    net, _ = make_net(config, source, started=False)  # fresh: DDP takes rank 0's, which may be those of `init`
    trainer = make_trainer(config, run, False, None, seat)
    task = make_task(config, net, source, make_teacher(config, source))
    ready()
    trainer.fit(task, datamodule=source, ckpt_path=checkpoint, weights_only=True)
    seat.leave()


def _end_with_rank_0() -> None:
    os.read(0, 1)  # not sys.stdin, whose lock a normal end would wait for
    os._exit(1)


if __name__ == "__main__":
    main()
