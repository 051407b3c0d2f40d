"""The same images under every variant, chosen where leaving a part out changes the mask most.

How far a variant changes an image's mask is 1 - IoU of its mask and the reference's, averaged over all pairs of their
seeds; taken off is how far seeds of one and the same network differ, averaged over both, which no part of it explains
(the energy distance of Szekely and Rizzo, J. Stat. Plan. Inference 143:1249, 2013, with 1 - IoU as the distance).
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Any

import cv2
import numpy as np

from src.comparison import Table, higher_is_better
from src.figures import jpeg_url, shrink
from src.masks import FILE, Masks, changes, joined, read_masks, small_mask
from src.results import Result, value_of
from src.rundir import RunDir
from src.subject import own_source

IMAGES, VARIANTS = 12, 12  # pictures in a page, and masks over each
SIDE = 400  # px of a picture's longer side
REMEDY = "older than those, or damaged. python -m src.evaluate run=<its directory> mode={mode} makes them."


@dataclass(frozen=True)
class Picture:
    """One image: its pixels and true mask, each shown variant's mask and score, and why it was chosen."""

    id: str
    image: np.ndarray
    mask: np.ndarray
    preds: Mapping[str, np.ndarray]
    scores: Mapping[str, float]
    chosen_for: str
    change: float
    between_seeds: float | None


@dataclass(frozen=True)
class Gallery:
    """`pictures`, and in `missing` why there are none or fewer; `changes`: mean over images, by variant, beyond what
    seeds change."""

    pictures: Sequence[Picture] = ()
    variants: Sequence[str] = ()
    changes: Mapping[str, float] = field(default_factory=dict)
    between_seeds: float | None = None
    missing: str = ""


def make_gallery(table: Table, shown: Sequence[str]) -> Gallery:
    """Of the variants in `shown`, those whose masks differ most from the reference's, VARIANTS at most.

    Never fails for want of masks or images: runs that keep none are left out, and the gallery says what is missing.
    """
    kept: dict[str, list[Result]] = {}
    masks: dict[str, list[Masks]] = {}
    without: list[Result] = []
    for name in shown:
        for result in table.variants[name]:
            found = [(run, _masks(run, table.part)) for run in result.runs]
            held = [of_run for _, of_run in found if of_run]
            without += [run for run, of_run in found if not of_run]
            if len(held) == len(found):
                kept.setdefault(name, []).append(result)
                masks.setdefault(name, []).append(joined(held))
    remedy = REMEDY.format(mode=table.results[0].metrics["protocol"]["mode"])
    missing = ""
    if without:
        such = without[0].run.name
        missing = f"{len(without)} runs keep no readable masks of {table.part}, such as {such}: {remedy}"
    if table.reference not in masks:
        return Gallery(missing=f"No pictures of masks: {missing}")
    own_noise = _between_seeds(masks[table.reference])
    per_image, noise = _changes(masks, table.reference, own_noise)
    others = sorted(per_image, key=lambda name: -per_image[name].mean())[: VARIANTS - 1]
    variants = [name for name in kept if name == table.reference or name in others]
    ids = masks[table.reference][0].ids
    middle = {name: _middle_seed(kept[name], table.metrics[0]) for name in variants}
    rows = {name: {row["id"]: row for row in kept[name][seed].rows} for name, seed in middle.items()}
    score = {name: np.array([value_of(rows[name][id_], table.metrics[0]) for id_ in ids]) for name in variants}
    worst = score[table.reference] * (-1 if higher_is_better(table.metrics[0]) else 1)
    chosen = _choose({name: per_image[name] for name in others} or {table.reference: worst}, len(ids))
    try:
        source = own_source(RunDir(table.results[0].path))
        loaded = {ids[i]: source.load(ids[i]) for i in chosen}
    except (ValueError, OSError) as error:
        return Gallery(missing=f"No pictures of masks: the images cannot be read. {error}")
    pictures = [
        Picture(
            id=ids[i],
            image=loaded[ids[i]][0],
            mask=loaded[ids[i]][1] > 0,
            preds={name: masks[name][seed].mask(ids[i]) for name, seed in middle.items()},
            scores={name: float(score[name][i]) for name in variants},
            chosen_for=name,
            change=float(per_image[name][i]) if name in per_image else 0.0,
            between_seeds=float(noise[name][i]) if name in noise else None,
        )
        for i, name in chosen.items()
    ]
    mean_noise = None if own_noise is None else float(own_noise.mean())
    return Gallery(pictures, variants, {name: float(per_image[name].mean()) for name in others}, mean_noise, missing)


def _masks(result: Result, part: str) -> Masks | None:
    """Those that were written with the rows, or by a later evaluation under the same protocol; None without any that
    can be read and are of these images."""
    protocol, ids = result.metrics["protocol"]["id"], sorted(row["id"] for row in result.rows)
    for folder in (result.scored_in, *sorted((result.path / "evaluations").glob("*"))):
        if not (folder / FILE).is_file():
            continue
        with suppress(ValueError, KeyError, OSError):  # a damaged file costs its pictures, not the report
            same = folder == result.scored_in or RunDir(folder).metrics()["protocol"]["id"] == protocol
            if same and (found := read_masks(folder / FILE, part)).ids == ids:
                return found
    return None


def _changes(
    masks: Mapping[str, Sequence[Masks]], reference: str, own_noise: np.ndarray | None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Per variant and image the change of the mask beyond that between seeds, and the latter alone: the mean of the
    variant's and the reference's (`own_noise`), of one if the other has one seed; where both have, the whole change."""
    own = masks[reference]
    changed, noise = {}, {}
    for name, found in masks.items():
        if name == reference:
            continue
        changed[name] = np.mean([changes(a, b) for a, b in product(found, own)], axis=0)
        sides = [side for side in (_between_seeds(found), own_noise) if side is not None]
        if sides:  # of a variant with one seed, the other's: else it would head every ranking
            noise[name] = np.mean(sides, axis=0)
            changed[name] = changed[name] - noise[name]
    return changed, noise


def _between_seeds(found: Sequence[Masks]) -> np.ndarray | None:
    """Mean change per image between two seeds of a variant; None with one seed."""
    return np.mean([changes(a, b) for a, b in combinations(found, 2)], axis=0) if len(found) > 1 else None


def _choose(per_image: Mapping[str, np.ndarray], images: int) -> dict[int, str]:
    """Indices of images, with the variant each was chosen for: every variant's strongest in turn, none twice."""
    chosen: dict[int, str] = {}
    ranked = {name: np.argsort(-values, kind="stable").tolist() for name, values in per_image.items()}
    while ranked and len(chosen) < min(IMAGES, images):
        for name, order in ranked.items():
            if (left := [i for i in order if i not in chosen]) and len(chosen) < IMAGES:
                chosen[left[0]] = name
    return chosen


def _middle_seed(results: Sequence[Result], metric: str) -> int:
    """The index of the seed whose score is the median (of an even number the lower): neither a lucky nor a bad one."""
    order = np.argsort([result.mean(metric) for result in results], kind="stable")
    return int(order[(len(order) - 1) // 2])


def for_page(gallery: Gallery) -> dict[str, Any]:
    """Pictures as data URLs, masks as SVG paths in pixels of the mask: small, sharp at any size."""
    return {
        "variants": list(gallery.variants),
        "pictures": [
            {
                "id": picture.id,
                "url": jpeg_url(shrink(picture.image, SIDE)),
                "size": list(small_mask(picture.mask).shape[::-1]),
                "truth": outline_path(small_mask(picture.mask)),
                "preds": {name: outline_path(pred) for name, pred in picture.preds.items()},
                "scores": {name: round(score, 3) for name, score in picture.scores.items()},
                "chosen_for": picture.chosen_for,
                "change": round(picture.change, 3),
                "between_seeds": picture.between_seeds and round(picture.between_seeds, 3),
            }
            for picture in gallery.pictures
        ],
    }


def outline_path(mask: np.ndarray) -> str:
    """(h, w) bool as the `d` of an SVG path around its foreground, to be filled by the even-odd rule."""
    # enlarged, so that outlines run along the outer edges of pixels and not through their centres
    enlarged = mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, _ = cv2.findContours(enlarged, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return "".join(
        "M" + "L".join(f"{(x + 0.5) / 2:g} {(y + 0.5) / 2:g}" for x, y in contour[:, 0].tolist()) + "Z"
        for contour in contours
    )
