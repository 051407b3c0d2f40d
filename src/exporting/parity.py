"""Whether exported files compute what the run computes, on real images, and how fast: every number in one table."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from src.benchmarking import machine
from src.benchmarking.rounds import in_turns, latency_of, ratio
from src.benchmarking.tables import table, told
from src.inference import Segmenter
from src.metrics.overlap import confusion, scores
from src.progress import progress

AS_TRAINED, FOLDED = "PyTorch, as trained", "PyTorch, folded"
SETTLE = 0.05  # s: what is quicker is called once untimed in its turn, see in_turns

Call = Callable[[], Any]


@dataclass
class Candidate:
    """Something that should compute what the run computes: a file, or None for PyTorch itself.

    `call(threads)` is a run of the network on one image, for timing; None where there is nothing new to time.
    `exact`: not one logit may differ; otherwise the mean Dice by no more than `tolerance`.
    """

    name: str
    segmenter: Segmenter
    tolerance: float
    call: Callable[[int], Call] | None = None
    path: Path | None = None
    shapes: str = ""
    notes: list[str] = field(default_factory=list)
    exact: bool = False


@dataclass
class Parity:
    """`rows`: one dict per candidate; `conditions` of the machine, `doubts` about the times, in words."""

    rows: list[dict[str, Any]]
    images: int
    conditions: dict[str, Any]
    doubts: list[str]

    @property
    def passed(self) -> bool:
        return all(row["passed"] for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "images": self.images,
            **self.conditions,
            "doubts": self.doubts,
            "rows": self.rows,
        }


@torch.inference_mode()
def compare(
    candidates: Sequence[Candidate],
    ids: Sequence[str],
    load: Callable[[str], tuple[np.ndarray, np.ndarray]],
) -> list[dict[str, Any]]:
    """A row for each candidate: how its logits and masks on the images `ids` differ from those of the first.

    `load` gives an image (H, W, 3) uint8 and its true mask (H, W).
    """
    worst = [0.0] * len(candidates)
    truths: list[list[float]] = [[] for _ in candidates]
    between: list[list[float]] = [[] for _ in candidates]
    with progress(len(ids), "comparing") as bar:
        for id_ in ids:
            image, mask = load(id_)
            answers = [_answer(candidate.segmenter, image) for candidate in candidates]
            logits, pred = answers[0]
            for i, (found, other) in enumerate(answers):
                worst[i] = max(worst[i], float((found - logits).abs().max()))
                truths[i].append(dice(other, mask > 0))
                between[i].append(dice(other, pred))
            bar.update()
    means = [float(np.mean(of_one)) for of_one in truths]
    return [_row(*item) for item in zip(candidates, repeat(means[0]), means, worst, map(min, between), strict=False)]


def _answer(segmenter: Segmenter, image: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """Logits at the network's size and the mask (H, W) at the image's."""
    (prediction,) = segmenter.predict([image])
    return prediction.layers[0][0], prediction.probabilities() > segmenter.threshold


def dice(pred: np.ndarray, truth: np.ndarray) -> float:
    """Of two masks (H, W) of bool; 1 where both are empty."""
    return scores(confusion(torch.from_numpy(pred)[None], torch.from_numpy(truth)[None]))["dice"].item()


def _row(candidate: Candidate, reference: float, found: float, logits: float, masks: float) -> dict[str, Any]:
    difference = abs(found - reference)
    passed = logits == 0 if candidate.exact else difference <= candidate.tolerance
    return {
        "what": candidate.name,
        "file": candidate.path and candidate.path.name,
        "shapes": candidate.shapes,
        "bytes": candidate.path and size_of(candidate.path),
        "max_logit_difference": logits,
        "dice_as_trained": reference,
        "dice": found,
        "dice_difference": difference,
        "smallest_dice_between_masks": masks,
        "tolerance": 0.0 if candidate.exact else candidate.tolerance,
        "passed": bool(passed),
        "notes": list(candidate.notes),
    }


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in path.rglob("*")) if path.is_dir() else path.stat().st_size


# ---- times


def time_all(
    candidates: Sequence[Candidate],
    rows: Sequence[dict[str, Any]],
    *,
    threads: Sequence[int],
    seconds: float,
    size: int,
    commit: str,
) -> tuple[dict[str, Any], list[str]]:
    """Adds to each row, by number of threads, `latency_ms` (medians of one image, all in turns) and `latency_ratio` (to
    the first candidate's, round by round). Returns the conditions and the doubts."""
    watch, own = machine.Watch(), torch.get_num_threads()
    conditions = machine.conditions("cpu", size, commit)
    rates, spreads = [machine.sgemm_rate()], []
    timed = [(row, candidate.call) for row, candidate in zip(rows, candidates, strict=True) if candidate.call]
    for row in rows:
        row |= {"latency_ms": {}, "latency_ratio": {}}
    try:
        for number in threads:
            torch.set_num_threads(number)
            calls = [make(number) for _, make in timed]
            with progress(None, f"timing, {number} threads", unit=" rounds") as bar, torch.inference_mode():
                taken = in_turns(calls, seconds, settle=SETTLE, after_round=bar.update)
            for (row, _), times in zip(timed, taken, strict=True):
                latency = latency_of(times)
                row["latency_ms"][str(number)] = latency.median
                row["latency_ratio"][str(number)] = ratio(times, taken[0])
                spreads.append(latency.p95 / latency.median)
            rates.append(machine.sgemm_rate())
    finally:
        torch.set_num_threads(own)
    others = watch.others()
    conditions |= {"load_after": round(machine.load(), 2), "cores_of_others": others and round(others, 2)}
    return conditions, machine.doubts(conditions["load_before"], others, os.cpu_count() or 1, rates, spreads)


def in_pytorch(net: nn.Module, image: Tensor) -> Callable[[int], Call]:
    return lambda threads: lambda: net(image)  # threads are torch's


# ---- as text


def markdown(parity: Parity, name: str, against: str) -> str:
    """All of it; `against`: which images, in words."""
    parts = [f"# Parity of {name}", f"{parity.images} images: {against}. {told(parity.conditions)}."]
    if not parity.passed:
        failed = ", ".join(row["what"] for row in parity.rows if not row["passed"])
        parts.append(f"> **Beyond the tolerance: {failed}.**")
    parts.append(_accuracy(parity.rows))
    parts.append(
        "Logits at the network's size, before the sigmoid; masks at native size, cut at the run's threshold. "
        "Difference: of the mean Dice against the truth, from that of PyTorch as trained. Worst mask: the smallest "
        "Dice of a mask with that of PyTorch as trained."
    )
    if any(row["latency_ms"] for row in parity.rows):
        if parity.doubts:
            parts.append(f"> **Warning: do not use these times.** {'; '.join(parity.doubts)}. Measure when it is idle.")
        parts.append(_latency(parity.rows))
        parts.append(
            "Median ms of one image, the network alone, in turns; in brackets the ratio to PyTorch as trained."
        )
    if notes := [f"- {row['what']}: {note}" for row in parity.rows for note in row["notes"]]:
        parts.append("\n".join(notes))
    return "\n\n".join(parts) + "\n"


def _accuracy(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = [
        "what",
        "file",
        "takes",
        "MB",
        "max logit difference",
        "Dice",
        "difference",
        "worst mask",
        "tolerance",
        "",
    ]
    return table(
        columns,
        [
            [
                row["what"],
                row["file"] or "-",
                row["shapes"] or "-",
                f"{row['bytes'] / 1e6:.2f}" if row["bytes"] else "-",
                f"{row['max_logit_difference']:.1e}" if row["max_logit_difference"] else "0",
                f"{row['dice']:.4f}",
                f"{row['dice_difference']:.1e}" if row["dice_difference"] else "0",
                f"{row['smallest_dice_between_masks']:.4f}",
                f"{row['tolerance']:g}",
                "ok" if row["passed"] else "FAILED",
            ]
            for row in rows
        ],
    )


def _latency(rows: Sequence[Mapping[str, Any]]) -> str:
    timed = [row for row in rows if row["latency_ms"]]
    numbers = list(timed[0]["latency_ms"])
    columns = ["ms", *(f"{number} thread{'s' if number != '1' else ''}" for number in numbers)]
    cells = [
        [row["what"], *(f"{row['latency_ms'][n]:.3g} ({row['latency_ratio'][n]:.2f})" for n in numbers)]
        for row in timed
    ]
    return table(columns, cells)
