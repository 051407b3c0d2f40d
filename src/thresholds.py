"""Where a run's masks are cut, for each way of looking (`Segmenter.way`): chosen on its validation images, stored in
the run, used by all after."""

import zlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from src.files import lock, write_json
from src.progress import in_threads
from src.rundir import RunDir
from src.scoring import choose_threshold, dice_curve

if TYPE_CHECKING:
    from src.inference import Prediction

RULE = "chosen on val: best mean Dice of 0.05, 0.1, ..., 0.95"


def stored_threshold(run: RunDir, way: str = "full") -> dict[str, Any]:
    """How the threshold of a way of looking was chosen; {} where none was.

    The file holds that of `full`, as it did before there were others, and those of the others under `modes`.
    """
    told = run.threshold()
    if way != "full":
        return told.get("modes", {}).get(way, {})
    return told if "threshold" in told else {}


def store_threshold(run: RunDir, way: str, chosen: dict[str, Any]) -> None:
    """Writes it into the run. A new threshold of `full` drops those of the others, whose coarse masks it cuts.

    Processes that store at once wait for each other, so that none writes what another has just replaced.
    """
    with lock(run.path / ".threshold.lock"):  # not the run's own, which a training holds that stores one itself
        if way == "full":
            write_json(run.threshold_file, chosen)
        else:
            told = run.threshold()
            write_json(run.threshold_file, told | {"modes": told.get("modes", {}) | {way: chosen}})


class Kept(NamedTuple):
    """A predicted image with its true objects, kept until the threshold is known: at 256 px about 0.3 MB, however
    large the image is, where its map and labels take 8 MB per Mpx."""

    prediction: "Prediction"
    deflated: bytes
    dtype: np.dtype

    @classmethod
    def of(cls, prediction: "Prediction", labels: np.ndarray) -> "Kept":
        return cls(prediction, zlib.compress(labels.tobytes(), level=1), labels.dtype)

    def labels(self) -> np.ndarray:
        """(H, W), as they were."""
        return np.frombuffer(zlib.decompress(self.deflated), self.dtype).reshape(self.prediction.shape)


def choose_run_threshold(
    run: RunDir,
    way: str,
    predicted: "Iterable[tuple[Prediction, np.ndarray]]",
    split_hash: str,
    *,
    total: int,
    keep: int,
) -> tuple[float, list[Kept]]:
    """Chooses and stores the threshold, given predictions and true objects of all images of val; keeps the first."""

    def weigh(item: "tuple[int, Prediction, np.ndarray, np.ndarray]") -> tuple[np.ndarray, Kept | None]:
        number, prediction, probs, labels = item
        return dice_curve(probs, labels > 0), Kept.of(prediction, labels) if number < keep else None

    maps = ((n, prediction, prediction.probabilities(), labels) for n, (prediction, labels) in enumerate(predicted))
    weighed = list(in_threads(weigh, maps, "choosing the threshold on val", total=total))
    chosen = choose_threshold([curve for curve, _ in weighed])
    store_threshold(run, way, {**chosen, "chosen_on": "val", "split_hash": split_hash})
    return chosen["threshold"], [kept for _, kept in weighed if kept]
