"""Runs an hour of a study against how many run side by side, by the study command itself.

python -m experiments.performance.side_by_side [1 2 4 8]     # writes side_by_side.md beside this file; ten minutes

Eight short trainings of emisnet_tiny on generated images for each number, one CPU thread a run (on a GPU all share it),
start-up and scoring included; and once one after another with torch's own number of threads.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from src.benchmarking.machine import conditions, load
from src.benchmarking.tables import table, told
from src.provenance import provenance

RUNS, SIZE = 8, 64
STUDY = [
    *("-m", "model=emisnet_tiny", f"seed=range({RUNS})", "data=synthetic", f"data.size={SIZE}", "data.batch_size=16"),
    *("trainer.max_epochs=8", "logger=none", "optim.lr=4e-3", "study=side_by_side"),
]


def seconds_of(side_by_side: int, threads: int | None, runs: str) -> float:
    """The whole command; its processes' own output is kept from the screen."""
    settings = [f"runs={runs}", f"threads={threads or 'null'}"]
    if side_by_side > 1:
        settings += ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={side_by_side}"]
    begun = time.perf_counter()
    command = [sys.executable, "-m", "src.train", *STUDY, *settings]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begun


def main() -> None:
    numbers = [int(word) for word in sys.argv[1:]] or [1, 2, 4, 8]
    device, before = "cuda" if torch.cuda.is_available() else "cpu", load()
    cache = tempfile.mkdtemp()
    os.environ |= {"EMISNET_CACHE": cache, "NO_ALBUMENTATIONS_UPDATE": "1"}
    rows = []
    try:
        for number, threads in [(1, None), *((number, 1) for number in numbers)]:
            runs = str(Path(cache) / f"runs-{number}-{threads}")
            seconds = seconds_of(number, threads, runs)
            rows.append([str(number), str(threads or torch.get_num_threads()), f"{seconds:.0f}"])
            rows[-1].append(f"{3600 * RUNS / seconds:.0f}")
            print(*rows[-1], flush=True)
    finally:
        shutil.rmtree(cache)
    sentence = told(conditions(device, SIZE, provenance()["commit"]))
    text = table(["side by side", "threads of each", f"seconds for {RUNS} runs", "runs an hour"], rows)
    (Path(__file__).parent / "side_by_side.md").write_text(f"{text}\n\n{sentence}; load before {before:.1f}.\n")


if __name__ == "__main__":
    main()
