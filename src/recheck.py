"""Whether the scores that a run directory holds are what its weights and images give."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.evaluate import Evaluation, evaluate_run
from src.rundir import RunDir
from src.scoring import read_rows, summarize
from src.trained import run_directory

MEAN, IMAGE = 1e-3, 0.02  # Dice by which a mean and an image may move: another processor rounds otherwise
ARITHMETIC = 1e-9  # between a table and the means of its own rows
COUNTS = ("tp", "fp", "fn", "tn")


@dataclass(frozen=True)
class Recheck:
    """What was found, a line each; `matches` is False where any of `faults` was."""

    lines: list[str]
    faults: list[str]

    @property
    def matches(self) -> bool:
        return not self.faults


def recheck(path: str | Path, device: str | None = None) -> Recheck:
    """Scores a run or a bundle again, as at the end of training, and compares; nothing is written.

    Four things must hold: the stored means are those of the stored rows; the protocol is the same; so is the content of
    images and masks, where the run recorded it; every image has its score again, exactly or within IMAGE, and every
    mean within MEAN.

    Raises ValueError for what is no run, was not scored, was damaged, or whose images are not at hand.
    """
    run = RunDir.open(run_directory(path))
    for name in ("metrics.json", "per_image.csv"):
        if not (run.path / name).is_file():
            raise ValueError(f"{run.path} has no {name}: there are no scores to check. Let the training end.")
    with _damage_told(run):
        stored, rows = run.metrics(), read_rows(run.path / "per_image.csv")
        parts = list(stored["scores"])
    again = evaluate_run(path, parts=parts, device=device)
    contents = again.source.contents(parts)
    with _damage_told(run):
        return _compared(stored, rows, again, contents)


@contextmanager
def _damage_told(run: RunDir) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"metrics.json or per_image.csv of {run.path} was changed or damaged ({error!r}): restore it."
        ) from error


def _compared(
    stored: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], again: Evaluation, contents: Mapping[str, str]
) -> Recheck:
    parts = list(stored["scores"])
    lines, faults = [], _protocol_faults(stored["protocol"], again.protocol)
    recorded = stored.get("contents", {})
    for part, digest in contents.items():
        if recorded.get(part, digest) != digest:
            faults.append(f"{part}: images or masks have other content than those that were scored, under the same ids")
    for part in parts:
        of_part = [row for row in rows if row["part"] == part]
        faults += _table_faults(part, stored["scores"][part], of_part)
        line, found = _image_faults(part, of_part, [row for row in again.rows if row["part"] == part])
        lines.append(line)
        faults += found
        for name, value in stored["scores"][part].items():
            now = again.scores[part].get(name)
            if name in ("dice", "iou") and (now is None or not abs(now - value) <= MEAN):  # not: NaN is no match
                faults.append(f"{part}: {name} is {value} in metrics.json, {now} now")
    return Recheck(lines, faults)


def _protocol_faults(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    if stored["id"] == now["id"]:
        return []
    told = ("id", "root", "device", "threshold_value")  # where and with what, besides what was measured
    keys = [key for key in now if key not in told and stored.get(key) != now[key]]
    return [f"the protocol was {stored['id']} and is {now['id']}; it differs in {', '.join(keys) or 'what is new'}"]


def _table_faults(part: str, scores: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if len(rows) != scores["n"]:
        return [f"{part}: metrics.json speaks of {scores['n']} images, per_image.csv has {len(rows)}"]
    means = summarize(rows)
    wrong = [
        name
        for name, value in scores.items()
        if (value is None) != (means.get(name) is None)
        or (value is not None and not abs(value - means[name]) <= ARITHMETIC * max(1.0, abs(value)))
    ]
    return [f"{part}: {', '.join(wrong)} in metrics.json are not the means of per_image.csv"] if wrong else []


def _image_faults(
    part: str, stored: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]
) -> tuple[str, list[str]]:
    earlier, later = ({row["id"]: row for row in rows} for rows in (stored, now))
    if earlier.keys() != later.keys():
        differing = sorted(earlier.keys() ^ later.keys())
        return f"{part}: other images", [f"{part}: {len(differing)} images are not in both ({differing[0]}, ...)"]
    moved = {id_: abs(row["dice"] - later[id_]["dice"]) for id_, row in earlier.items()}
    masks = sum(any(row[key] != later[id_][key] for key in COUNTS) for id_, row in earlier.items())
    worst = max(moved, key=moved.__getitem__)
    differ = f"{masks} masks differ, Dice by up to {moved[worst]:.1e} ({worst})"
    far = sorted((id_ for id_, by in moved.items() if not by <= IMAGE), key=moved.__getitem__, reverse=True)
    faults = [f"{part}: Dice of {len(far)} images moved by more than {IMAGE} ({', '.join(far[:5])})"] if far else []
    return f"{part}: {len(stored)} images, {differ if masks else 'all masks are the same'}", faults
