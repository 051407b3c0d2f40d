"""What a user of the page must know of the network, in words."""

from collections.abc import Iterator

from src.provenance import short_commit
from src.trained import Trained
from src.webapp.session import Looker

RESEARCH = "Research software, not a medical device: no diagnosis and no treatment may rest on what it shows."
MODES = {  # as a user chooses them
    "full": "whole picture, once",
    "coarse_to_fine": "whole picture, then closer at what was found",
    "tiled": "window by window, for large pictures",
}


def facts(looker: Looker, mode: str) -> list[tuple[str, str]]:
    """Name and text of all there is to say of the network, when it is used in `mode`; nothing is escaped yet."""
    trained = looker.trained
    size = " x ".join(str(side) for side in trained.size)
    return [
        ("Model", f"{trained.name} ({type(trained.net).__name__})"),
        ("Parameters", parameters(trained) or "not known"),
        ("Sees pictures at", f"{size} px"),
        ("Masks are cut at", _threshold(looker, mode)),
        *_training(trained),
        ("Your pictures", "go no further than the machine that serves this page, and are deleted there after an hour"),
    ]


def headline(trained: Trained) -> str:
    """The network in one line."""
    told = trained.told
    whence = f"trained on {told['trained_on']}" if told else "what it was trained on is not known"
    size = [f"{number} parameters"] if (number := parameters(trained)) else []
    return ", ".join([trained.name, *size, whence, *_scores(trained)])


def parameters(trained: Trained) -> str:
    """How many; of an ONNX file, whose weights are not parameters here, what its training counted; empty: not known."""
    number = sum(parameter.numel() for parameter in trained.net.parameters()) or trained.told.get("params")
    if not number:
        return ""
    return f"{number / 1e6:.2f} M" if number >= 1e5 else f"{number:,}"


def _threshold(looker: Looker, mode: str) -> str:
    threshold, chosen = looker.threshold(mode), looker.trained.thresholds
    if chosen.get(mode) == threshold:
        return f"{threshold:g}, chosen on validation images for this mode"
    if chosen.get("full") == threshold:
        return f"{threshold:g}, chosen on validation images for mode full: none was chosen for this mode"
    return f"{threshold:g}, which was not chosen on validation images"


def _training(trained: Trained) -> Iterator[tuple[str, str]]:
    told = trained.told
    if not told:
        yield "Trained on", "not known: this run was not scored yet"
        return
    yield "Trained on", f"{told['trained_on']}, split {told['split']}"
    yield "Measured", "; ".join(_scores(trained)) or "not yet"
    if told.get("caveat"):
        yield "Caveat", str(told["caveat"])
    if told.get("commit"):
        yield "Commit", short_commit(str(told["commit"]))


def _scores(trained: Trained) -> list[str]:
    return [
        f"{part} Dice {scores['dice']:.3f} (mean of {scores['n']} images)"
        for part, scores in trained.told.get("scores", {}).items()
        if "dice" in scores and "n" in scores
    ]
