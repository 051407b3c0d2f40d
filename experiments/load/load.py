"""What holds under load: a sweep of many jobs of which some fail, a report over many runs, the page under many users.

    python -m experiments.load.load sweep --jobs 200 --failing 10          from the repository's root; half an hour
    python -m experiments.load.load report --runs 1000
    python -m experiments.load.load app --users 20 --seconds 300 --weights emisnet_kvasir

The commands themselves run, in processes of their own whose memory is watched from outside. load.csv has a row of what
was measured for each of them (another run of one replaces its row), with the processor and the load before it.
Linux only.
"""

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import requests
import yaml

from experiments.performance.conditions import Table, conditions
from src.config import composed
from src.data.synthetic import generate
from src.files import read_csv, write_csv
from src.process import environment
from src.rundir import RunDir
from src.study import StudyRun, study_states, write_plan

HERE = Path(__file__).parent
# The smallest run that has every stage of a real one.
TINY = (
    *("model=emisnet_intended", "model.channels=[4,4,8,8,8]", "data=synthetic", "data.counts=[8,2,2]", "data.size=32"),
    *("data.native_size=[48,56]", "data.batch_size=4", "data.num_workers=0", "trainer.max_epochs=1", "threads=1"),
    *("logger=none", "trainer.enable_progress_bar=false", "trainer.gradient_clip_val=null"),
)
FAILS = "1e30"  # a learning rate whose first step leaves weights that give no finite loss
SEEDS, CHANGES = 5, 12  # of the runs that a report compares, so many seeds a variant, so many images with other scores
PATIENCE = 120.0  # s for an answer
EVERY = 0.25  # s between looks at a process


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    kinds = parser.add_subparsers(dest="what", required=True)
    sweep_ = kinds.add_parser("sweep")
    sweep_.add_argument("--jobs", type=int, default=200)
    sweep_.add_argument("--failing", type=int, default=10, help="one of so many jobs fails")
    sweep_.add_argument("--folder", type=Path, help="keeps the runs there, and goes on with those that are there")
    report_ = kinds.add_parser("report")
    report_.add_argument("--runs", type=int, default=1000)
    app_ = kinds.add_parser("app")
    app_.add_argument("--users", type=int, default=20)
    app_.add_argument("--seconds", type=float, default=300)
    app_.add_argument("--weights", default="emisnet_kvasir", help="what src.app takes as weights=")
    chosen = parser.parse_args()
    print(conditions())
    table = Table(HERE / "load.csv", afresh=False)
    table.rows.pop(chosen.what, None)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if chosen.what == "sweep":
            row = table.add("sweep", lambda: sweep(chosen.folder or folder, chosen.jobs, chosen.failing))
        elif chosen.what == "report":
            row = table.add("report", lambda: report(folder, train_one(folder / "one"), chosen.runs))
        else:
            row = table.add("app", lambda: app(folder, chosen.users, chosen.seconds, f"weights={chosen.weights}"))
    print(*(f"{name:<24} {value}" for name, value in row.items()), sep="\n")


# ---- memory of another process


class Watch:
    """Samples a process's resident memory (MB) until it ends, in a thread of its own."""

    def __init__(self, pid: int):
        self.pid, self.samples = pid, list[tuple[float, float]]()
        self._begun = time.monotonic()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while (now := resident(self.pid)) is not None:
            self.samples.append((time.monotonic() - self._begun, now))
            time.sleep(EVERY)

    def told(self, since: float = 0.0) -> dict[str, float]:
        """Medians of the first, the middle and the last tenth of the time from `since` on, and the peak of all."""
        held = [memory for at, memory in self.samples if at >= since]
        part = max(1, len(held) // 10)
        middle = (len(held) - part) // 2
        parts = {"start": held[:part], "middle": held[middle : middle + part], "end": held[-part:]}
        row = {f"MB at {name}": round(statistics.median(values), 1) for name, values in parts.items()}
        return {**row, "MB at most": round(max(memory for _, memory in self.samples), 1)}


def resident(pid: int) -> float | None:
    """MB; None for a process that has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6 or None  # 0 of one that nobody has waited for


# ---- a sweep


def sweep(folder: Path, jobs: int, failing: int) -> dict[str, Any]:
    """A study of `jobs` runs, one of `failing` of them made to fail; what became of them, and the command's memory."""
    if jobs % failing:
        raise ValueError(f"{jobs} jobs are no multiple of {failing}, of which one fails each time.")
    rates = [FAILS, *(f"{number}e-4" for number in range(1, failing))]
    swept = (f"seed=range(0,{jobs // failing})", f"optim.lr={','.join(rates)}")
    command = [sys.executable, "-m", "src.train", "-m", *TINY, *swept, "study=load", f"runs={folder}"]
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    with (folder / "said.txt").open("w", encoding="utf-8") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=quiet())
        watch = Watch(process.pid)
        first = _first_run(folder / "load", process, begun)
        code = process.wait()
    seconds = time.monotonic() - begun
    states = Counter(state.state for state in study_states(folder / "load"))
    lines = (folder / "said.txt").read_text(encoding="utf-8").splitlines()
    return {
        "jobs": jobs,
        **{name: states[name] for name in ("finished", "failed", "missing")},
        "exit code": code,
        "told as failed": sum(line.startswith("failed: ") for line in lines),
        "summary": lines[-1] if lines else "",
        "seconds": round(seconds, 1),
        "seconds a job": round((seconds - first) / jobs, 2),
        **watch.told(since=first),
    }


def _first_run(folder: Path, process: "subprocess.Popen[bytes]", begun: float) -> float:
    """Seconds until the plan was made and the first run began."""
    while process.poll() is None and not list(folder.glob("*-seed*")):
        time.sleep(EVERY)
    return time.monotonic() - begun


def quiet() -> dict[str, str]:
    return environment(EMISNET_CACHE="", NO_ALBUMENTATIONS_UPDATE="1", CUDA_VISIBLE_DEVICES="")


# ---- a report


def train_one(folder: Path) -> Path:
    config = composed(*TINY, f"run_dir={folder}")
    subprocess.run(
        [sys.executable, "-m", "src.train", *TINY, f"run_dir={folder}"], env=quiet(), check=True, capture_output=True
    )
    return Path(config["run_dir"])


def report(folder: Path, run: Path, runs: int) -> dict[str, Any]:
    """A study of `runs` runs, which are copies of one with other settings and scores, and a report of them."""
    study = write_study(folder / "runs" / "load", run, runs)
    command = [sys.executable, "-m", "src.report", "study=load", f"runs={study.parent}", f"out={folder / 'out'}"]
    begun = time.monotonic()
    with (folder / "said.txt").open("w", encoding="utf-8") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=quiet())
        watch = Watch(process.pid)
        code = process.wait()
    seconds = time.monotonic() - begun
    page = folder / "out" / "report.html"
    return {
        "runs": runs,
        "variants": -(-runs // SEEDS),
        "exit code": code,
        "rows": len(read_csv(folder / "out" / "results.csv")) if code == 0 else 0,
        "seconds": round(seconds, 1),
        "ms a run": round(1000 * seconds / runs, 1),
        "page MB": round(page.stat().st_size / 1e6, 2) if page.is_file() else None,
        "MB at most": watch.told()["MB at most"],
    }


def write_study(folder: Path, run: Path, runs: int) -> Path:
    """The folder of a study of `runs` copies of one run: SEEDS seeds of each variant, which differ in optim.lr."""
    config, rows = RunDir(run).config(), read_csv(run / "per_image.csv")
    planned = []
    for number in range(runs):
        variant, seed = divmod(number, SEEDS)
        name = f"variant{variant:04d}-seed{seed}"
        shutil.copytree(run, folder / name, ignore=shutil.ignore_patterns("figures", ".lock"))
        changed = {**config, "seed": seed, "run_dir": str(folder / name), "run_name": name}
        changed["optim"] = {**config["optim"], "lr": (variant + 1) * 1e-5}
        (folder / name / "config.yaml").write_text(yaml.safe_dump(changed, sort_keys=False), encoding="utf-8")
        for i, row in enumerate(rows):
            row["dice"] = str(0.5 + 0.4 * ((7 * number + 3 * i) % 101) / 101)
        write_csv(folder / name / "per_image.csv", rows)
        planned.append(StudyRun(name, f"lr={changed['optim']['lr']:.5f}", seed, 1_000_000, 1_000_000))
    write_plan(folder, planned, command=[], commit="")
    return folder


# ---- the page


def app(folder: Path, users: int, seconds: float, *network: str) -> dict[str, Any]:
    """The page's server under users who send a picture, wait for its mask, move the threshold, wait, and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = write_pictures(folder)
    with serving(folder, *network) as (url, pid):
        sent, redrawn = events(url)
        watch, end = Watch(pid), time.monotonic() + seconds
        crowd = [User(url, pictures[i % len(pictures)], sent, redrawn, end) for i in range(users)]
        for user in crowd:
            user.start()
        for user in crowd:
            user.join(seconds + 2 * PATIENCE)
        told = watch.told()
    waited = sorted(took for user in crowd for took in user.looks)
    drawn = sorted(took for user in crowd for took in user.redraws)
    failures = Counter(fault for user in crowd for fault in user.faults)
    return {
        **{"users": users, "for s": seconds, "pictures": len(waited), "redraws": len(drawn)},
        "requests a second": round(sum(user.requests for user in crowd) / seconds, 2),
        "failures": sum(failures.values()),
        "which": "; ".join(f"{n}x {fault}" for fault, n in failures.most_common(5)),
        **{f"picture s, p{p}": percentile(waited, p) for p in (50, 95, 99, 100)},
        **{f"redraw s, p{p}": percentile(drawn, p) for p in (50, 95, 99, 100)},
        **told,
        "MB of files left": round(sum(f.stat().st_size for f in folder.glob("tmp/**/*") if f.is_file()) / 1e6, 1),
    }


def percentile(ordered: Sequence[float], percent: int) -> float | None:
    return round(ordered[min(len(ordered) - 1, len(ordered) * percent // 100)], 3) if ordered else None


def write_pictures(folder: Path) -> list[Path]:
    """Of three kinds and sizes, as users have them."""
    paths = []
    for kind, size in (("polyp", (480, 640)), ("lesion", (768, 1024)), ("gland", (522, 775))):
        image, _ = generate(kind, 0, size=size)
        path = folder / f"{kind}.png"
        path.write_bytes(cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes())
        paths.append(path)
    return paths


@contextmanager
def serving(folder: Path, *network: str) -> Iterator[tuple[str, int]]:
    """Address and process id of a server of its own, whose temporary files lie in `folder`/tmp."""
    (folder / "tmp").mkdir()
    command = [sys.executable, "-m", "src.app", *network, "port=0"]
    with (folder / "said.txt").open("w", encoding="utf-8") as said:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=said, text=True, env=quiet() | {"TMPDIR": str(folder / "tmp")}
        )
        try:
            assert process.stdout
            found = re.match(r"http\S+", process.stdout.readline())
            if found is None:
                raise RuntimeError(f"no server: {(folder / 'said.txt').read_text(encoding='utf-8')}")
            _wait_until_answering(found[0])
            yield found[0], process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)


def _wait_until_answering(url: str) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            requests.get(url, timeout=5).raise_for_status()
            return
        except requests.RequestException:
            if time.monotonic() > end:
                raise
            time.sleep(EVERY)


def events(url: str) -> tuple[int, int]:
    """The numbers that the page gives to a picture's arrival, and to a change of the settings."""
    found = requests.get(f"{url}/config", timeout=PATIENCE).json()
    number = {"upload": -1, "change": -1}
    for event in found["dependencies"]:
        for _, name in event["targets"]:
            if name in number and number[name] < 0:
                number[name] = event["id"]
    return number["upload"], number["change"]


class User(threading.Thread):
    """One browser: its own session, which stays open as a page's does, and one question at a time."""

    def __init__(self, url: str, picture: Path, sent: int, redrawn: int, end: float):
        super().__init__(daemon=True)
        self.url, self.picture, self.sent, self.redrawn, self.end = f"{url}/gradio_api", picture, sent, redrawn, end
        self.name = f"user{id(self)}"
        self.looks, self.redraws = list[float](), list[float]()
        self.faults, self.requests = list[str](), 0

    def run(self) -> None:
        number = 0
        while time.monotonic() < self.end:
            number += 1
            try:
                self._look_and_move(number)
            except (requests.RequestException, ValueError, KeyError) as error:
                self.faults.append(f"{type(error).__name__}: {str(error)[:120]}")
                time.sleep(EVERY)

    def _look_and_move(self, number: int) -> None:
        begun = time.monotonic()
        with self.picture.open("rb") as file:
            answer = requests.post(f"{self.url}/upload", files={"files": (self.picture.name, file)}, timeout=PATIENCE)
        answer.raise_for_status()
        self.requests += 1
        sent = {"path": answer.json()[0], "meta": {"_type": "gradio.FileData"}, "orig_name": self.picture.name}
        said = self._ask(self.sent, [sent, "full", 0.4, 0.5, False, 0, False])
        self.looks.append(time.monotonic() - begun)
        if "regions" not in said and "found" not in said:
            raise ValueError(f"no mask in the answer: {said[:120]}")
        begun = time.monotonic()
        self._ask(self.redrawn, [None, None, 0.4, 0.1 + number % 80 / 100, False, 0, False])
        self.redraws.append(time.monotonic() - begun)

    def _ask(self, event: int, data: Sequence[Any]) -> str:
        """Puts a question into the queue and reads its stream of answers to the end."""
        asked = {"data": list(data), "fn_index": event, "session_hash": self.name}
        joined = requests.post(f"{self.url}/queue/join", json=asked, timeout=PATIENCE)
        joined.raise_for_status()
        self.requests += 2
        with requests.get(
            f"{self.url}/queue/data", params={"session_hash": self.name}, stream=True, timeout=PATIENCE
        ) as stream:
            stream.raise_for_status()
            return _completed(line.decode() for line in stream.iter_lines() if line)


def _completed(lines: Iterator[str]) -> str:
    for line in lines:
        told: Mapping[str, Any] = json.loads(line.removeprefix("data:"))
        if told["msg"] == "process_completed":
            if not told["success"]:
                raise ValueError(f"refused: {json.dumps(told.get('output'))[:120]}")
            return json.dumps(told["output"])
        if told["msg"] in ("unexpected_error", "queue_full"):
            raise ValueError(f"{told['msg']}: {told.get('message')}")
    raise ValueError("the stream ended without an answer")


if __name__ == "__main__":
    main()
