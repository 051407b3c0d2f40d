"""Pictures of the same thing: copies by hash, near-duplicates by thumbnail, the doubtful ones by matching keypoints.

Two thumbnails agree if the layout of their colours and their local contrast both correlate, in one of eight turns. That
alone is decided at CERTAIN. With the pictures at hand every image's NEIGHBOURS from POSSIBLE on are looked at again:
SIFT keypoints that one shift, turn and scale maps onto each other must lie in many cells of both pictures, because a
ruler or the text of an endoscope, which is all that other pairs share, lies in few.

Measured on the images at hand by looking at the pairs, in common cells:
  Kvasir-SEG (880)   11 or more: 10 of 10 are one view of one polyp, among them the 5 once known. 8 to 10: 3 of 26, the
                     others share the text panel. By thumbnails alone: highest untrue 0.70.
  ISIC 2018 (2000)   11 or more: 26 of 26 are one lesion, among them 12 of 13 once known. 7: the 13th (thumbnails 0.76)
                     and one ruler (0.51), hence ALIKE. 6 or fewer: none. By thumbnails alone: highest untrue 0.86.
  GlaS (85)          no pair reaches POSSIBLE, and of all pairs none has 8 common cells.
Beyond ALL_PAIRS pairs (5792 images) only those are looked at whose colours share a bucket (`src.data.hashed`), and the
thumbnails alone decide: time and memory grow with the images, not with their pairs. Of 595 images of Kvasir-SEG and
ISIC, each changed in nine ways (re-encoded, resized, turned, recoloured, trimmed), 99.7 to 100 % of the copies are
found so that the comparison of all pairs finds.
Missed: views shifted or zoomed by a tenth or more, and crops (thumbnails below POSSIBLE). Matching the keypoints of all
387,000 pairs of Kvasir-SEG took nine minutes and found 3 more from 11 cells on, all true; of a sixth of the pairs
of ISIC 2018, 8 more.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from src.data.hashed import Buckets
from src.progress import in_threads

SEARCH = 1  # raised when what is found changes: remembered answers are then no longer taken
SIDE = 32  # of a thumbnail, px
CERTAIN, POSSIBLE = 0.87, 0.4  # similarity of thumbnails
NEIGHBOURS = 10
ALL_PAIRS = 1 << 25  # at most so many are all looked at: 0.8 GB, half a minute on two cores
NOT_ALL = "of so many images near-duplicates are sought by hashes: changed copies are found, shifted views are not"
LOOSE = 0.85  # likeness of coarse colours below which no pair is CERTAIN
CHUNK = 1024  # thumbnails or pairs whose features are in memory at once
PICTURE, KEYPOINTS = 256, 400  # longest side in px of what keypoints are sought in, and how many at most
RATIO = 0.8  # of the distances to the best and the second best keypoint (Lowe, IJCV 2004)
CELLS = 8  # a side
SPREAD, ALIKE = 11, (7, 0.7)  # cells that are enough, and fewer with a similarity beside them
FEW = 20  # keypoints; with fewer there is nothing to match

Floats = npt.NDArray[np.float32]
Thumbs = npt.NDArray[np.uint8]


class Match(NamedTuple):
    """Two images that show the same; `similarity` of their thumbnails, 0 to 1."""

    id_a: str
    id_b: str
    similarity: float


def pixel_digest(image: npt.NDArray[np.uint8]) -> str:
    """SHA-256 of the shape and the RGB pixels: the same for every lossless file format."""
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()


def thumbnail(image: npt.NDArray[np.uint8]) -> Thumbs:
    """(H, W, 3) uint8 to (SIDE, SIDE, 3) uint8 by area averaging, whatever the aspect ratio."""
    return np.asarray(cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def copies(digest_of: Mapping[str, str], others: Mapping[str, str] | None = None) -> list[Match]:
    """Every pair of ids with one digest, among themselves or between them and `others` (of other ids)."""
    members: dict[str, list[str]] = {}
    for id_, digest in [*digest_of.items(), *(others or {}).items()]:
        members.setdefault(digest, []).append(id_)
    pairs = [pair for same in members.values() for pair in combinations(same, 2)]
    return [Match(a, b, 1.0) for a, b in pairs if others is None or (a in digest_of) != (b in digest_of)]


def near_duplicates(
    thumbs: Thumbs,
    ids: Sequence[str],
    others: tuple[Thumbs, Sequence[str]] | None = None,
    *,
    picture: Callable[[str], npt.NDArray[np.uint8]] | None = None,
) -> list[Match]:
    """Pairs among `ids`, or between them and `others`, most similar first; copies are among them.

    `thumbs` (N, SIDE, SIDE, 3) from `thumbnail`. With `picture` (id -> image uint8 (H, W, 3); ids of both sides then
    differ) more is found. Takes some 24 bytes of memory a pair of images; of more than ALL_PAIRS see above.
    """
    if not len(ids) or (others and not len(others[1])):
        return []
    other_thumbs, other_ids = others or (thumbs, ids)
    if not compares_all(len(ids), len(other_ids)):
        return _most_similar_first(_hashed(thumbs, ids, other_thumbs, other_ids))
    likeness = similarities(thumbs, other_thumbs)
    if others is None:
        np.fill_diagonal(likeness, 0)
    chosen = likeness >= CERTAIN
    if picture is not None:
        chosen |= (likeness >= POSSIBLE) & _nearest(likeness)
    if others is None:
        chosen = np.triu(chosen | chosen.T)
    found = [Match(ids[i], other_ids[j], float(likeness[i, j])) for i, j in np.argwhere(chosen)]
    if picture is not None:
        found = _confirmed(found, picture)
    return _most_similar_first(found)


def compares_all(images: int, others: int) -> bool:
    """Whether `near_duplicates` looks at every pair of so many images and others."""
    return images * others <= ALL_PAIRS


def _most_similar_first(found: Sequence[Match]) -> list[Match]:
    return sorted(found, key=lambda match: (-match.similarity, match.id_a, match.id_b))


def _nearest(likeness: Floats) -> npt.NDArray[np.bool_]:
    """The NEIGHBOURS highest of every row and of every column."""
    rows = np.sort(likeness, axis=1)[:, -NEIGHBOURS:][:, :1]
    columns = np.sort(likeness, axis=0)[-NEIGHBOURS:][:1]
    return (likeness >= rows) | (likeness >= columns)


# ---- without comparing all pairs


def _hashed(thumbs: Thumbs, ids: Sequence[str], other_thumbs: Thumbs, other_ids: Sequence[str]) -> list[Match]:
    """The CERTAIN matches among images whose coarse colours, in any of eight turns, share a bucket."""
    among_themselves = other_thumbs is thumbs
    coarse = _coarse(thumbs)
    others = _unit(coarse if among_themselves else _coarse(other_thumbs))
    buckets, likely = Buckets(others), []
    for turn in range(8):
        vectors = _unit(_turned(coarse, turn))
        for rows, columns in _chunks(*buckets.mates(vectors)):
            alike = np.einsum("nd,nd->n", vectors[rows], others[columns]) >= LOOSE
            if among_themselves:
                alike &= rows != columns
                rows, columns = np.minimum(rows, columns), np.maximum(rows, columns)
            likely.append(rows[alike] * len(other_ids) + columns[alike])
    rows, columns = np.divmod(np.unique(np.concatenate(likely or [np.empty(0, int)])), len(other_ids))
    return [
        Match(ids[i], other_ids[j], float(likeness))
        for a, b in _chunks(rows, columns)
        for i, j, likeness in zip(a, b, _similarities_of_pairs(thumbs[a], other_thumbs[b]), strict=True)
        if likeness >= CERTAIN
    ]


def _chunks(*arrays: npt.NDArray[Any]) -> Iterator[tuple[npt.NDArray[Any], ...]]:
    for start in range(0, len(arrays[0]), CHUNK):
        yield tuple(array[start : start + CHUNK] for array in arrays)


def _coarse(thumbs: Thumbs) -> Floats:
    """(N, 8, 8, 3): the colours at a quarter of the size, in which a shift by a pixel hardly shows."""
    colours = (_colour(chunk) for (chunk,) in _chunks(thumbs))
    rows = (colour[:, ::2] + colour[:, 1::2] for colour in colours)
    return np.concatenate([pair[:, :, ::2] + pair[:, :, 1::2] for pair in rows])


def _similarities_of_pairs(thumbs: Thumbs, others: Thumbs) -> Floats:
    """(N,): `similarities` of each to the other in its place."""
    return _best_turn(thumbs, others, lambda a, b: np.einsum("nd,nd->n", a, b))


# ---- thumbnails


def similarities(thumbs: Thumbs, others: Thumbs) -> Floats:
    """(N, M), 0 to 1, from (N, SIDE, SIDE, 3) and (M, SIDE, SIDE, 3): the best of eight turns and mirror images."""
    return _best_turn(thumbs, others, lambda a, b: a @ b.T)


def _best_turn(thumbs: Thumbs, others: Thumbs, product: Callable[[Floats, Floats], Floats]) -> Floats:
    """`product` of the features of contrast, times that of the colours: the most that any turn of the others gives."""
    contrast, colour = _unit(_contrast(thumbs)), _unit(_colour(thumbs))
    other_contrast, other_colour = _contrast(others), _colour(others)
    best: Floats | None = None
    for turn in range(8):
        agreement = np.maximum(product(contrast, _unit(_turned(other_contrast, turn))), 0)
        agreement *= np.maximum(product(colour, _unit(_turned(other_colour, turn))), 0)
        best = agreement if best is None else np.maximum(best, agreement, out=best)
    assert best is not None
    return best


def _colour(thumbs: Thumbs) -> Floats:
    """At half size, every channel in its own standard deviations: brightness, contrast and white balance fall out."""
    rows = thumbs[:, ::2].astype(np.float32) + thumbs[:, 1::2]  # exact, and five times as fast as mean((2, 4))
    values = (rows[:, :, ::2] + rows[:, :, 1::2]) / 4
    values -= values.mean((1, 2), keepdims=True)
    return np.asarray(values / (values.std((1, 2), keepdims=True) + 1e-3), np.float32)


def _contrast(thumbs: Thumbs) -> Floats:
    """Grey less its local mean, in local standard deviations, blurred so that a shift by a pixel costs little."""
    grey = (thumbs[..., 0].astype(np.float32) + thumbs[..., 1] + thumbs[..., 2]) / np.float32(3)  # as mean(3)
    detail = grey - _blurred(grey, 2)
    return _blurred(detail / (np.sqrt(_blurred(detail**2, 2)) + 4), 1)  # 4 grey levels: noise is no detail


def _blurred(images: Floats, sigma: int) -> Floats:
    """Gaussian, as two matrix products: ten times as fast as one call of cv2 per thumbnail."""
    weights = cv2.GaussianBlur(np.eye(SIDE, dtype=np.float32), (1, 8 * sigma + 1), sigmaX=0, sigmaY=sigma)
    return np.asarray(weights @ images @ weights.T, np.float32)


def _turned(images: Floats, turn: int) -> Floats:
    turned = np.rot90(images, turn % 4, (1, 2))
    return turned[:, :, ::-1] if turn >= 4 else turned


def _unit(images: Floats) -> Floats:
    """Flat, of mean 0 and length 1, so that a scalar product is a correlation; of a plain image 0."""
    flat = images.reshape(len(images), -1)
    flat = flat - flat.mean(1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-3)


# ---- keypoints


class _Keypoints(NamedTuple):
    """`at` (K, 2): x and y in px of a picture of `size` (width, height); `what` (K, 128): SIFT, of length 1."""

    at: Floats
    what: Floats
    size: tuple[int, int]

    def mirrored(self) -> "_Keypoints":
        """Those of the picture flipped left to right: a descriptor is 4 x 4 cells of 8 directions."""
        cells = self.what.reshape(-1, 4, 4, 8)[:, ::-1][..., -np.arange(8) % 8]
        at = self.at.copy()
        at[:, 0] = self.size[0] - 1 - at[:, 0]
        return _Keypoints(at, cells.reshape(-1, 128), self.size)


def _confirmed(candidates: Sequence[Match], picture: Callable[[str], npt.NDArray[np.uint8]]) -> list[Match]:
    ids = sorted({id_ for match in candidates for id_ in match[:2]})

    def keypoints(id_: str) -> _Keypoints:
        return _keypoints(picture(id_))

    of = dict(zip(ids, in_threads(keypoints, ids, "looking for near-duplicates"), strict=True))
    return [match for match in candidates if _is_same(of[match.id_a], of[match.id_b], match.similarity)]


def _is_same(a: _Keypoints, b: _Keypoints, similarity: float) -> bool:
    if similarity >= CERTAIN or min(len(a.at), len(b.at)) < FEW:
        return similarity >= CERTAIN
    cells = max(_common_cells(a, b), _common_cells(a, b.mirrored()))
    return cells >= SPREAD or (cells >= ALIKE[0] and similarity >= ALIKE[1])


def _keypoints(image: npt.NDArray[np.uint8]) -> _Keypoints:
    height, width = image.shape[:2]
    scale = PICTURE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    grey = cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    equalised = cv2.createCLAHE(4, (4, 4)).apply(grey)
    found, what = cv2.SIFT.create(KEYPOINTS, contrastThreshold=0.02).detectAndCompute(equalised, None)
    if not found:
        return _Keypoints(np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32), size)
    what = what / np.linalg.norm(what, axis=1, keepdims=True)
    return _Keypoints(np.array([point.pt for point in found], np.float32), what, size)


def _common_cells(a: _Keypoints, b: _Keypoints) -> int:
    """Cells of either picture with keypoints that one shift, turn and scale maps on the other's."""
    likeness = a.what @ b.what.T
    best = likeness.argmax(1)
    second, first = np.partition(likeness, -2, axis=1)[:, -2:].T
    distinct = 1 - first < RATIO**2 * (1 - second)  # of unit vectors, half the squared distance
    if distinct.sum() < 4:
        return 0
    at_a, at_b = a.at[distinct], b.at[best[distinct]]
    _, agree = cv2.estimateAffinePartial2D(at_b, at_a, ransacReprojThreshold=4)
    agree = agree.ravel() > 0
    return min(_cells(at_a[agree], a.size), _cells(at_b[agree], b.size))


def _cells(at: Floats, size: tuple[int, int]) -> int:
    return len(np.unique((at * CELLS / np.array(size)).astype(int), axis=0))
