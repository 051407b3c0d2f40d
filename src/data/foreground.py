"""What the values stored in a mask mean: which are foreground, and which files leave that open."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

EMPTY, ZERO_ONE, BLACK_WHITE, LOSSY, LABELS = "only 0", "0 and 1", "0 and 255", "lossy", "labels or grey"  # of masks
NAMED_RULES = ("binary", "threshold", "instances", "auto")
FEW_LABELS = 64  # with more distinct values "auto" may be looking at a photograph; larger label maps say "instances"


def checked_rule(rule: str | Mapping[Any, int]) -> str | dict[int, int]:
    """A name as it is, or a mapping with integer keys. ValueError: no such name, or a mapping that declares no mask."""
    if not isinstance(rule, Mapping):
        if rule not in NAMED_RULES:
            raise ValueError(
                f"unknown foreground rule {rule!r}; use one of {', '.join(NAMED_RULES)}, or a mapping of stored values "
                "such as data.mask='{0: 0, 1: 0, 2: 1}'"
            )
        return rule
    # keys are strings in a config that went through JSON
    declared = {int(str(key)): int(to) for key, to in rule.items() if str(key).isdecimal() and to in (0, 1)}
    if len(declared) < len(rule) or set(declared.values()) != {0, 1}:
        raise ValueError(
            f"data.mask={dict(rule)} must map stored values (integers from 0 on, each once) to 0, the background, and "
            "1, the foreground, with at least one of each, such as '{0: 0, 1: 0, 2: 1}'"
        )
    return declared


def to_foreground(
    labels: npt.NDArray[Any], rule: str | dict[int, int], *, is_lossy: bool, path: str | Path
) -> npt.NDArray[np.uint8]:
    """Labels (H, W) by a `checked_rule` to 0 and 1, uint8. ValueError: values that the rule does not explain."""
    count_of = _counts(labels, path)
    if not isinstance(rule, str):
        _refuse_undeclared(count_of, rule, path)
        return np.isin(labels, [value for value in rule if rule[value]]).astype(np.uint8)
    if rule == "auto":
        rule = _guessed_rule(count_of, is_lossy, path)
    if rule == "binary" and not _is_binary(count_of):
        raise ValueError(
            f"{path}: a binary mask holds 0 and 1, or 0 and 255; this one holds {_listed(count_of)}. Set "
            "data.mask=threshold for grey or JPEG edges, data.mask=instances for label maps"
        )
    if rule == "threshold":
        _refuse_pointless_threshold(count_of, path)
    return (labels > (127 if rule == "threshold" else 0)).astype(np.uint8)


def kind_of(values: Iterable[int], *, is_lossy: bool) -> str:
    """What a mask that holds these values looks like to "auto"."""
    held = set(values)
    if held <= {0}:
        return EMPTY
    if is_lossy:
        return LOSSY  # some happen to hold no other values than 0 and 255
    return ZERO_ONE if held <= {0, 1} else BLACK_WHITE if held <= {0, 255} else LABELS


def kinds_told_apart(kinds: Mapping[str, str]) -> dict[str, str]:
    """id -> kind, from those of `kind_of`, such that "auto" reads two kinds by two rules.

    A dataset has one such kind: where two meet, "auto" would read them differently in silence. Empty masks are left
    out, since every rule reads them alike; 0 and 1 among label maps is a map of one label.
    """
    one_label = LABELS if LABELS in kinds.values() else ZERO_ONE
    return {id_: one_label if kind == ZERO_ONE else kind for id_, kind in kinds.items() if kind != EMPTY}


def stored_values(labels: npt.NDArray[Any]) -> list[int]:
    """The different values of a mask (H, W), rising."""
    few = labels.min(initial=0) >= 0 and labels.max(initial=0) < 1 << 16
    values = np.flatnonzero(np.bincount(labels.ravel())) if few else np.unique(labels)  # which sorts every pixel
    return [int(value) for value in values]


def _counts(labels: npt.NDArray[Any], path: str | Path) -> dict[int, int]:
    """How often each value occurs, by rising value."""
    if labels.dtype in (np.bool_, np.uint8, np.uint16):
        occurrences = np.bincount(labels.ravel())  # np.unique would sort every pixel
        return {int(value): int(occurrences[value]) for value in np.flatnonzero(occurrences)}
    values, occurrences = np.unique(labels, return_counts=True)
    if values[0] < 0:
        raise ValueError(
            f"{path}: a mask with negative values, down to {values[0]}; save 0 for the background, labels above"
        )
    return dict(zip(values.tolist(), occurrences.tolist(), strict=True))


def _guessed_rule(count_of: dict[int, int], is_lossy: bool, path: str | Path) -> str:
    if is_lossy:
        return "threshold"
    if _is_binary(count_of):
        return "binary"
    if _looks_antialiased(count_of):
        raise ValueError(
            f"{path}: mostly 0 and 255 with grey values between ({_listed(count_of)}), as smoothed edges leave; set "
            "data.mask=threshold, or data.mask=instances if 255 is a label"
        )
    if len(count_of) > FEW_LABELS:
        raise ValueError(
            f"{path}: {len(count_of)} different values ({_listed(count_of)}), over {FEW_LABELS} are not guessed; set "
            "data.mask=threshold for a grey mask, data.mask=instances for a label map"
        )
    return "instances"


def _is_binary(count_of: dict[int, int]) -> bool:
    return count_of.keys() <= {0, 1} or count_of.keys() <= {0, 255}


def _looks_antialiased(count_of: dict[int, int]) -> bool:
    """For a mask that is not binary: it holds another value beside 0 and 255, and one grey level is enough."""
    most_common_label = max((value for value in count_of if value != 0), key=lambda value: count_of[value])
    return most_common_label == 255


def _refuse_undeclared(count_of: dict[int, int], rule: dict[int, int], path: str | Path) -> None:
    if undeclared := {value: count for value, count in count_of.items() if value not in rule}:
        raise ValueError(
            f"{path}: {sum(undeclared.values())} of {sum(count_of.values())} pixels hold {_listed(undeclared)}, which "
            f"data.mask={rule} does not declare; add these values to it as 0 or 1, correct the mask, or set "
            "data.mask=threshold if they are the ringing edges of a JPEG"
        )


def _refuse_pointless_threshold(count_of: dict[int, int], path: str | Path) -> None:
    """`> 127` empties a 0/1 mask or a label map in silence, and is no midpoint of 16-bit values."""
    highest = max(count_of)
    if 0 < highest <= 127 or highest > 255:
        raise ValueError(
            f"{path}: a threshold at 127 needs values up to 255, this mask holds {_listed(count_of)}. Set "
            "data.mask=binary for 0 and 1, data.mask=instances for labels"
        )


def _listed(count_of: dict[int, int]) -> str:
    values = [str(value) for value in count_of]
    return ", ".join(values[:10]) + (f", ... ({len(values)} values up to {values[-1]})" if len(values) > 10 else "")
