"""Rows of one table that point the same way as rows of another, found without comparing all with all.

Random planes cut the space; rows that lie on the same side of BITS of them share a bucket, and are mates. A pair at an
angle a is on one side of a plane with probability 1 - a/pi, so that of TABLES independent buckets one is shared by
pairs at 15 degrees in 0.9 of cases, at 10 degrees in 1.0 (Charikar, STOC 2002).
"""

import numpy as np
import numpy.typing as npt

BITS, TABLES = 24, 16
# compared in a bucket: what keeps the search linear where thousands of rows are all but equal, such as black frames
MATES = 8
CHUNK = 8192  # rows whose sides are in memory at once, 1.5 kB each

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


class Buckets:
    """Rows (N, D), to be asked for the mates of others; the planes are always the same ones."""

    def __init__(self, rows: Floats):
        generator = np.random.default_rng(0)
        self.planes = generator.standard_normal((rows.shape[1], BITS * TABLES), dtype=np.float32)
        buckets = self._buckets(rows)
        self.orders = [np.argsort(column, kind="stable") for column in buckets.T]
        self.sorted = [column[order] for column, order in zip(buckets.T, self.orders, strict=True)]

    def mates(self, rows: Floats) -> tuple[Rows, Rows]:
        """Indices of `rows` (M, D), and of our rows, that share a bucket; each pair once, in order.

        Of a bucket only the first MATES of ours are taken: a row has at most MATES * TABLES mates.
        """
        ours, keys = len(self.orders[0]), []
        for column, order, held in zip(self._buckets(rows).T, self.orders, self.sorted, strict=True):
            asking, places = np.arange(len(column)), np.searchsorted(held, column)
            for _ in range(MATES):
                there = places < ours
                there[there] = held[places[there]] == column[asking[there]]
                asking, places = asking[there], places[there]
                keys.append(asking * ours + order[places])
                places = places + 1
        row, our = np.divmod(np.unique(np.concatenate(keys)), ours)
        return row, our

    def _buckets(self, rows: Floats) -> npt.NDArray[np.int32]:
        """(M, D) -> (M, TABLES)"""
        weights, buckets = 1 << np.arange(BITS, dtype=np.int32), np.empty((len(rows), TABLES), np.int32)
        for start in range(0, len(rows), CHUNK):
            sides = rows[start : start + CHUNK] @ self.planes > 0
            buckets[start : start + CHUNK] = sides.reshape(-1, TABLES, BITS) @ weights
        return buckets
