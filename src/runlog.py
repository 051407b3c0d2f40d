"""What libraries log and warn of in a run goes to its train.log."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What Lightning says of a small run on purpose, every time.
QUIET = (
    ".*does not have many workers.*",
    ".*smaller than the logging interval.*",
    ".*Checkpoint directory .* exists.*",
    ".*resuming from a checkpoint that ended before the epoch ended.*",  # exactly what our sampler is for
    ".*isinstance.*LeafSpec.*",
    ".*`srun` command is available.*",  # on a login node; a run there is meant to be one
    ".*It is recommended to use .*sync_dist=True.*",  # where torchmetrics has gathered already
)


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Logging and warnings also go to `path`."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    for name in ("lightning.pytorch", "lightning.fabric"):  # notes on hardware, processes and products
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    formatwarning = warnings.formatwarning
    with warnings.catch_warnings():
        warnings.formatwarning = lambda message, category, *_: f"{category.__name__}: {message}"
        for message in QUIET:
            warnings.filterwarnings("ignore", message)
        try:
            yield
        finally:
            warnings.formatwarning = formatwarning
            logging.captureWarnings(False)
            logging.getLogger().removeHandler(handler)
            handler.close()
