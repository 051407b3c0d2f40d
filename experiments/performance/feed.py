"""How much of the speed of a training step is left when its images come from files: the feed of images.

    python -m experiments.performance.feed                      from the repository's root; about 4 minutes
    python -m experiments.performance.feed --times 2 --afresh   measure again what feed.csv has, twice as long

It needs Kvasir-SEG under $EMISNET_DATA, and decodes it into $EMISNET_CACHE once. Three ways of the same step are timed:

    step      the network alone: one batch in memory, normalise, forward, loss, backward, clip, optimizer
    loop      the same batch through Lightning's loop, with the task's metrics and the callbacks of a run
    training  what `python -m src.train` does: cache -> crop and augmentation -> batch -> loop

After every step of `loop` and of `training` comes one of `step`, on a copy of the network: A B A B, so that a machine
that grows slower does so for both. A share is the median over the pairs of neighbours. No workers, as is the default on
a CPU; with some, the images of a step would be made while its neighbour runs.

Prints Markdown tables; feed.csv has the rows, and rows that are there are not measured again.
"""

import argparse
import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from experiments.performance.conditions import Table, conditions

HERE = Path(__file__).parent
CASES = {  # name: (overrides, steps of each way in a round, rounds)
    "emisnet stem_stride=2, 128 px, batch 16": (("model.stem_stride=2", "data.size=128", "data.batch_size=16"), 10, 5),
    "emisnet, 256 px, batch 8": (("data.size=256", "data.batch_size=8"), 3, 2),  # seconds a step
}
WARM = 1  # steps of each way and round that are not counted
AUGMENTED = 300  # images
AUGMENTS = {"default (flip, rotate)": (), "with scale and color": ("data.augment.scale=0.5", "data.augment.color=0.5")}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the feed of images; see the file's first lines.")
    parser.add_argument("--times", type=int, default=1, help="so many times the rounds")
    parser.add_argument("--afresh", action="store_true", help="measure also what feed.csv has")
    chosen = parser.parse_args()
    print(conditions())
    table = Table(HERE / "feed.csv", afresh=chosen.afresh)
    for name, overrides in AUGMENTS.items():
        table.add(f"one core, 256 px, {name}", partial(images_alone, ("data.size=256", *overrides)))
    for name, (settings, steps, rounds) in CASES.items():
        table.add(name, partial(training, settings, steps, rounds * chosen.times))
    table.show(("step", "loop", "training"), "ms a step (median), and what of the step's speed is left")
    table.show(("read", "augment", "collate"), "ms an image on one core, without the network")


def prepared(overrides: tuple[str, ...], place: str) -> tuple[dict[str, Any], Any]:
    """The config of a run and its data, set up."""
    from hydra.utils import instantiate

    from src.build import pin_threads
    from src.config import composed

    config = composed("data=kvasir_seg", "logger=none", "trainer.accelerator=cpu", f"runs={place}", *overrides)
    pin_threads(config["threads"])
    source = instantiate(config["data"])
    source.setup("fit")
    return config, source


def training(overrides: tuple[str, ...], steps: int, rounds: int) -> dict[str, Any]:
    from torch.utils.data import DataLoader

    from src.assemble import make_net, make_task
    from src.rundir import RunDir

    with tempfile.TemporaryDirectory() as place:
        config, source = prepared((*overrides, "data.num_workers=0"), place)
        net, _ = make_net(config, source)
        task = make_task(config, net, source)
        batch = next(iter(source.train_dataloader()))
        plain = plain_step(config, copy.deepcopy(task), batch)
        same: Any = DataLoader([batch] * (WARM + steps), batch_size=None)  # type: ignore[arg-type]  # a list will do
        pairs: dict[str, list[tuple[float, float]]] = {"loop": [], "training": []}
        for number in range(rounds):
            for way in list(pairs) if number % 2 == 0 else list(pairs)[::-1]:
                loader = same if way == "loop" else source.train_dataloader()
                pairs[way] += paired_steps(config, RunDir(Path(place)), task, loader, plain, WARM + steps)[WARM:]
    step = statistics.median(alone for some in pairs.values() for _, alone in some)
    share = {way: statistics.median(alone / whole for whole, alone in some) for way, some in pairs.items()}
    images = config["data"]["batch_size"]
    return {
        "step": round(1000 * step, 1),
        **{way: round(1000 * statistics.median(whole for whole, _ in some), 1) for way, some in pairs.items()},
        **{f"{way}, of the step's speed": f"{value:.1%}" for way, value in share.items()},
        "img/s of the step": round(images / step, 2),
        "img/s in training": round(images / step * share["training"], 2),
        "threads": config["threads"],
        "pairs of steps": len(pairs["training"]),
    }


def plain_step(config: dict[str, Any], task: Any, batch: dict[str, Any]) -> Callable[[], None]:
    """What `SegmentationTask` and the trainer compute in a step, optimizer included, without metrics and logging."""
    import torch
    from hydra.utils import instantiate
    from timm.optim import param_groups_weight_decay

    optimizer = instantiate(config["optim"])(param_groups_weight_decay(task.net))
    task.net.train()

    def step() -> None:
        optimizer.zero_grad()
        loss = task.loss(task(batch["image"]), batch["mask"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(task.net.parameters(), config["trainer"]["gradient_clip_val"])
        optimizer.step()

    return step


def paired_steps(
    config: dict[str, Any], run: Any, task: Any, loader: Any, plain: Callable[[], None], steps: int
) -> list[tuple[float, float]]:
    """Seconds of a step of Lightning's, from the fetching of its batch on, and of a plain one after it."""
    from lightning.pytorch.callbacks import Callback

    from src.assemble import make_trainer
    from src.runlog import logged_to

    pairs: list[tuple[float, float]] = []

    class Clock(Callback):
        begun = 0.0

        def on_train_epoch_start(self, *_: Any) -> None:
            self.begun = time.perf_counter()

        def on_train_batch_end(self, *_: Any) -> None:
            trained = time.perf_counter()
            plain()
            ended = time.perf_counter()
            pairs.append((trained - self.begun, ended - trained))
            self.begun = time.perf_counter()

    # the callbacks in a run's file write checkpoints between epochs, which is not of a step
    changed = {"max_epochs": 1, "limit_train_batches": steps, "limit_val_batches": 0, "callbacks": {}}
    with logged_to(run.path / "train.log"):
        trainer = make_trainer({**config, "trainer": {**config["trainer"], **changed}}, run, False, None, None)
        trainer.callbacks.append(Clock())  # type: ignore[attr-defined]  # Lightning sets it elsewhere
        trainer.fit(task, train_dataloaders=loader)
    return pairs


def images_alone(overrides: tuple[str, ...]) -> dict[str, Any]:
    """ms of an image of Kvasir-SEG on one core: read from the cache, augmented, put into a batch."""
    import cv2

    from src.data.samples import collate
    from src.data.transforms import augment, sample_key

    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as place:
        _, source = prepared(overrides, place)
    ids, view = source.parts["train"][:AUGMENTED], source.views("full")
    for id_ in ids:
        view(id_)[0].sum()  # the pages are in memory from here on, as in every epoch but the first
    begun = time.perf_counter()
    views = [tuple(array.copy() for array in view(id_)) for id_ in ids]
    read = time.perf_counter()
    pairs = [
        augment(image, mask, source.augment, sample_key(0, 0, id_))
        for id_, (image, mask) in zip(ids, views, strict=True)
    ]
    augmented = time.perf_counter()
    samples = [{"id": "", "image": image.transpose(2, 0, 1).copy(), "mask": mask[None]} for image, mask in pairs]
    for start in range(0, len(samples), 8):
        collate(samples[start : start + 8])
    collated = time.perf_counter()
    spans = {"read": read - begun, "augment": augmented - read, "collate": collated - augmented}
    whole = collated - begun
    return {
        **{name: round(1000 * span / len(ids), 3) for name, span in spans.items()},
        "img/s of one core": round(len(ids) / whole, 1),
        "img/s of 16 cores, if they scale": round(16 * len(ids) / whole),
    }


if __name__ == "__main__":
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    main()
