"""What a config that came with weights may build: a run directory or a bundle may be a stranger's."""

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

OURS = {"model": "src.models.", "data": "src.data."}


def check_part(config: Mapping[str, Any], part: str, base: type, file: Path, *, ours: bool) -> None:
    """ValueError unless `config`, the `model` or the `data` of the config in `file`, builds one object of a subclass of
    `base` from plain values. With `ours` its class must be defined in OURS.

    Nothing in it may be built by Hydra (`_target_` at any depth, `_args_`, ...) or resolved by OmegaConf (`${...}`),
    which can call anything that can be imported.
    """
    target = str(config.get("_target_", ""))
    if (ours and not target.startswith(OURS[part])) or not _is_class(target, base, OURS[part] if ours else ""):
        which = f"the classes of {OURS[part]}*" if ours else f"subclasses of {base.__name__}"
        raise ValueError(f"{file}: {part} is {target!r}; a config that comes with weights may only build {which}.")
    for key, value in _everything({key: value for key, value in config.items() if key != "_target_"}):
        if (key.startswith("_") and key != "_convert_") or "${" in f"{key}{value}":
            raise ValueError(
                f"{file}: {part} holds {key}: {str(value)[:60]!r}; a config that comes with weights may hold plain "
                "values only, nothing that is built or resolved."
            )


def _is_class(target: str, base: type, prefix: str) -> bool:
    """Whether it is a class that its own module defines, and not what that module imported: by attributes,
    src.models.cost.inspect.os.system is a name, too."""
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None) if module else None
    except ImportError:
        return False
    return isinstance(found, type) and issubclass(found, base) and found.__module__.startswith(prefix)


def _everything(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Each plain value with the last key above it, and each key of a mapping."""
    if isinstance(value, Mapping):
        for name, child in value.items():
            yield str(name), ""
            yield from _everything(child, str(name))
    elif isinstance(value, list | tuple):
        for child in value:
            yield from _everything(child, key)
    else:
        yield key, value
