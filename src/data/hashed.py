"""Rows of one table that point the same way as rows of another, found without comparing all with all.

Random planes cut the space; rows that lie on the same side of BITS of them share a bucket, and are mates. A pair at an
angle a is on one side of a plane with probability 1 - a/pi, so that of TABLES independent buckets one is shared by
pairs at 15 degrees in 0.9 of cases, at 10 degrees in 1.0 (Charikar, STOC 2002).
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt

BITS, TABLES = 24, 16
# compared in a bucket: what keeps the search linear where thousands of rows are all but equal, such as black frames
MATES = 8

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Hash = Callable[[Floats], npt.NDArray[np.int32]]


def random_planes(centre: Floats) -> Hash:
    """(N, D) -> (N, TABLES), always by the same planes, through `centre` (D,): elsewhere most rows share a side."""
    planes = np.random.default_rng(0).standard_normal((len(centre), BITS * TABLES), dtype=np.float32)
    weights = 1 << np.arange(BITS, dtype=np.int32)

    def buckets(vectors: Floats) -> npt.NDArray[np.int32]:
        sides = (vectors - centre) @ planes > 0
        return np.asarray(sides.reshape(len(vectors), TABLES, BITS) @ weights, np.int32)

    return buckets


def mates(of: Iterable[npt.NDArray[np.int32]], others: npt.NDArray[np.int32]) -> Iterator[tuple[Rows, Rows]]:
    """For each of several tables of buckets `of` (all of the same rows): rows of it and of `others` that are mates.

    Of a bucket the first MATES of `others` are taken, so that a row has at most MATES * TABLES of them.
    """
    orders = [np.argsort(column, kind="stable") for column in others.T]
    ranked = [column[order] for column, order in zip(others.T, orders, strict=True)]
    for table in of:
        keys = []
        for column, order, held in zip(table.T, orders, ranked, strict=True):
            rows, places = np.arange(len(column)), np.searchsorted(held, column)
            for _ in range(MATES):
                there = places < len(held)
                there[there] = held[places[there]] == column[rows[there]]
                rows, places = rows[there], places[there]
                keys.append(rows * len(others) + order[places])
                places = places + 1
        yield np.divmod(np.unique(np.concatenate(keys)), len(others))
