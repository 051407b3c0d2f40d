"""Published numbers of rivals, from the registry published.yaml: never without their protocol, never in our table."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

REGISTRY = Path(__file__).with_name("published.yaml")


@dataclass(frozen=True)
class Published:
    """`params` in millions, `dice` and `iou` in percent; `protocol` in words; `unchecked`: quoted second hand."""

    model: str
    protocol: str
    source: str
    params: float | None = None
    dice: float | None = None
    iou: float | None = None
    unchecked: bool = False


def published_on(dataset: str, path: Path = REGISTRY) -> list[Published]:
    """The entries of a dataset; none for one that is not in the registry.

    Raises ValueError for an entry without source, with a protocol that is not explained, or with unknown keys.
    """
    registry: Mapping[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    found = []
    for entry in registry.get(dataset, []) if dataset != "protocols" else []:
        told = f"{path.name}, {dataset}, {entry.get('model', entry)}"
        if entry.get("protocol") not in registry["protocols"]:
            raise ValueError(
                f"{told}: protocol={entry.get('protocol')}. Explained are {', '.join(registry['protocols'])}."
            )
        if not entry.get("source"):
            raise ValueError(f"{told}: it has no source. Say where the number stands.")
        try:
            found.append(Published(**entry | {"protocol": registry["protocols"][entry["protocol"]]}))
        except TypeError as error:
            raise ValueError(f"{told}: {error}") from error
    return found
