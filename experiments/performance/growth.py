"""How start-up, an epoch and scoring grow with the number of images, and memory with batch and size.

    python -m experiments.performance.growth                    from the repository's root; about 6 minutes
    python -m experiments.performance.growth --ids 1000 10000   without the longest part
    python -m experiments.performance.growth --afresh           measure again what growth.csv has

Images of 32 x 32 px, all different, are written into a temporary folder, decoded into a cache there, and removed.
Every row is measured in a process of its own, so that one's memory does not stand in another's peak.

Prints Markdown tables; growth.csv has the rows, and rows that are there are not measured again; growth.png shows them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from experiments.performance.conditions import Table, conditions

HERE = Path(__file__).parent
GROWING = "first start", "second start", "epoch", "scoring"  # in this order: the second finds the first one's cache
STEPS = 2  # of a training whose memory is taken
SHAPES = [(1, size) for size in (64, 128, 256, 512, 1024)] + [(batch, 128) for batch in (2, 4, 8, 16, 32)] + [(16, 256)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures growth; see the file's first lines.")
    parser.add_argument("--ids", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--afresh", action="store_true", help="measure also what growth.csv has")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)  # in a process of its own
    chosen = parser.parse_args()
    if chosen.measure:
        name, *arguments = chosen.measure
        print(json.dumps({"start": start, "epoch": epoch, "scoring": scoring, "step": step}[name](*arguments)))
        return
    print(conditions())
    table = Table(HERE / "growth.csv", afresh=chosen.afresh)
    for ids in chosen.ids:
        if not all(f"{what}, {ids} ids" in table.rows for what in GROWING):
            with tempfile.TemporaryDirectory() as place:
                write_images(Path(place) / "data", ids)
                for what in GROWING:
                    table.add(f"{what}, {ids} ids", partial(apart, what.split()[-1], place, ids))
    for batch, size in SHAPES:
        table.add(f"step, batch {batch}, {size} px", partial(apart, "step", batch, size))
    table.show(("ids", "pairs"), "Start, s and MB")
    table.show(("ids", "sampler"), "An epoch without network and augmentation, s")
    table.show(("ids", "rows"), "Rows, tables and files of scored images, s")
    table.show(("batch", "size"), "Memory of a training step of emisnet on one CPU thread, above that of the libraries")
    plot(list(table.rows.values()))


def apart(*what: Any) -> dict[str, Any]:
    command = [sys.executable, "-m", "experiments.performance.growth", "--measure", *map(str, what)]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(told.splitlines()[-1])


def write_images(root: Path, number: int) -> None:
    """Smooth noise, as neither equal nor alike pictures may stand on two sides of a split; masks of one disc."""
    import cv2
    import numpy as np

    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    generator, disc = np.random.default_rng(0), np.zeros((32, 32), np.uint8)
    mask = cv2.imencode(".png", cv2.circle(disc, (16, 16), 8, 255, -1))[1].tobytes()
    for i in range(number):
        coarse = generator.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        image = cv2.imencode(".png", cv2.resize(coarse, (32, 32), interpolation=cv2.INTER_CUBIC))[1]
        (root / "images" / f"{i:08d}.png").write_bytes(image.tobytes())
        (root / "masks" / f"{i:08d}.png").write_bytes(mask)


def memory(key: str) -> float:
    """MB: VmRSS, what this process holds now; VmHWM, its peak. Linux only."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith(key))


def timed(row: dict[str, Any], name: str, work: Callable[[], Any]) -> Any:
    begun = time.perf_counter()
    result = work()
    row[name] = round(time.perf_counter() - begun, 4)
    return result


def source_at(place: str) -> Any:
    from src.data.datasets import Folder

    settings: dict[str, Any] = {"size": 32, "batch_size": 16, "num_workers": 0, "augment": {"flip": 0, "rotate": 0}}
    return Folder(root=f"{place}/data", cache=f"{place}/cache", **settings)


def start(place: str, ids: str) -> dict[str, Any]:
    source, row = source_at(place), {"ids": int(ids)}
    before = memory("VmRSS")
    timed(row, "pairs", lambda: source.pairs)
    timed(row, "split", lambda: source.split)
    timed(row, "cache", lambda: source.views("full"))
    timed(row, "leaks", lambda: source.leaks)
    timed(row, "checks", lambda: source.setup("fit"))
    row["seconds"] = round(sum(row[name] for name in ("pairs", "split", "cache", "leaks", "checks")), 3)
    return {**row, "kB an id": round(1000 * (memory("VmRSS") - before) / int(ids), 2), "peak MB": memory("VmHWM")}


def epoch(place: str, ids: str) -> dict[str, Any]:
    source, row = source_at(place), {"ids": int(ids)}
    source.setup("fit")
    before = memory("VmHWM")
    loader = source.train_dataloader()
    timed(row, "sampler", lambda: list(loader.sampler))
    timed(row, "training images", lambda: sum(1 for _ in loader))
    timed(row, "validation images", lambda: sum(1 for _ in source.val_dataloader()))
    row["seconds"] = round(row["training images"] + row["validation images"], 3)
    return {**row, "MB more": round(memory("VmHWM") - before, 1)}


def scoring(place: str, ids: str) -> dict[str, Any]:
    """As many scored images: one image's row again and again, as what is computed of an image does not grow."""
    import numpy as np

    from src.files import write_csv
    from src.masks import FILE, write_masks
    from src.scoring import Rules, calibration, read_rows, score_image, strata, summarize

    row: dict[str, Any] = {"ids": int(ids)}
    probs = np.random.default_rng(0).random((32, 32), dtype=np.float32)
    before = memory("VmHWM")
    rules = Rules(metrics=("overlap", "boundary"))
    one = score_image(probs, (probs > 0.7).astype(np.int64), rules)
    names = {"part": "test", "dataset": "folder", "trained_on": "folder", "mode": "full", "protocol": ""}
    scored = [one._replace(row={"id": f"{i:08d}", **names, **one.row}) for i in range(int(ids))]
    rows = [image.row for image in scored]
    timed(row, "tables", lambda: (summarize(rows), strata(rows), calibration(scored)))
    timed(row, "write", lambda: write_csv(Path(place) / "per_image.csv", rows))
    timed(row, "masks", lambda: write_masks(Path(place) / FILE, rows, [image.mask for image in scored]))
    timed(row, "rows", lambda: read_rows(Path(place) / "per_image.csv"))
    row["seconds"] = round(sum(row[name] for name in ("tables", "write", "masks", "rows")), 3)
    return {**row, "MB more": round(memory("VmHWM") - before, 1)}


def step(batch: str, size: str) -> dict[str, Any]:
    import torch
    from hydra.utils import instantiate

    from src.build import build_net
    from src.config import composed

    torch.set_num_threads(1)  # two on two cores wait for each other as soon as anything else runs
    config = composed("model=emisnet")
    net, loss = build_net(config["model"], quiet=True), instantiate(config["loss"])
    optimizer = torch.optim.AdamW(net.parameters())
    image = torch.rand(int(batch), 3, int(size), int(size))
    mask = (image[:, :1] > 0.5).to(torch.uint8)
    before, begun = memory("VmRSS"), time.perf_counter()
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss(net(image), mask).backward()
        optimizer.step()
    seconds = (time.perf_counter() - begun) / STEPS
    row = {"batch": int(batch), "size": int(size), "MB more": round(more := memory("VmHWM") - before)}
    row["MB a Mpx"] = round(more / (int(batch) * int(size) ** 2 / 1e6))
    return {**row, "s a step": round(seconds, 3)}


def plot(rows: list[dict[str, Any]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (times, sizes) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for what in GROWING:
        of = sorted((int(row["ids"]), float(row["seconds"])) for row in rows if row["what"].startswith(what))
        if of:
            times.loglog(*zip(*of, strict=True), "o-", label=what)
            times.loglog([of[0][0], of[-1][0]], [of[0][1], of[0][1] * of[-1][0] / of[0][0]], ":", color="grey", lw=0.8)
    times.set(xlabel="images", ylabel="seconds", title="dotted: linear")
    shapes = [{name: float(row[name]) for name in ("batch", "size", "MB more")} for row in rows if "batch" in row]
    for label, key, value in (("batch 1, size 64 to 1024", "batch", 1), ("size 128, batch 1 to 32", "size", 128)):
        some = [shape for shape in shapes if shape[key] == value]
        if points := sorted((shape["batch"] * shape["size"] ** 2 / 1e6, shape["MB more"]) for shape in some):
            sizes.loglog(*zip(*points, strict=True), "o-", label=label)
    sizes.set(xlabel="Mpx of a batch", ylabel="MB above the libraries", title="training step of emisnet, CPU")
    for axes in (times, sizes):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(HERE / "growth.png", dpi=130)


if __name__ == "__main__":
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    main()
