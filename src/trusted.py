"""What a config may build.

Anybody's: what this repository defines, and the classes of torch and Lightning that training takes. One that came with
weights: our networks and datasets, from plain values, since a run directory or a bundle may be a stranger's. More where
its user names a package: EMISNET_TRUST=my_package,another.
"""

import ast
import functools
import importlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

OURS = {"model": "src.models.", "data": "src.data."}
TRUST = "EMISNET_TRUST"  # packages, separated by commas
SOURCE = Path(__file__).parent
# one name behind a known module: an attribute of an attribute may be anything, as torch.optim.warnings.sys
LIBRARIES = re.compile(
    r"torch\.(nn|optim|optim\.lr_scheduler)\.[A-Z]\w*"
    r"|lightning\.pytorch\.(Trainer|(callbacks|loggers|profilers|strategies|plugins)\.[A-Z]\w*)"
)


def check_targets(config: Mapping[str, Any], where: str = "") -> None:
    """ValueError unless every `_target_` in `config`, at any depth, may be built: a class or function that a file of
    ours defines, one of LIBRARIES, or of a package in TRUST. Imports nothing. `where` is the key of `config` itself."""
    for key, value in config.items():
        place = f"{where}.{key}".lstrip(".")
        if key == "_target_" and value is not None and not _may_be_built(str(value)):  # null: nothing is built
            raise ValueError(
                f"{place}={value} may not be built: it is no class or function that a file under src/ defines, and "
                "none of those of torch and Lightning that training takes. If it is yours: "
                f"{TRUST}={str(value).split('.')[0]} before the command."
            )
        for child in value if isinstance(value, list | tuple) else [value]:
            if isinstance(child, Mapping):
                check_targets(child, place)
            elif isinstance(child, list | tuple):
                check_targets({"": child}, place)


def _may_be_built(target: str) -> bool:
    return bool(LIBRARIES.fullmatch(target)) or _is_trusted(target) or _is_defined_here(target)


def _is_trusted(target: str) -> bool:
    packages = [name.strip() for name in os.environ.get(TRUST, "").split(",") if name.strip()]
    return any(target.startswith(f"{package}.") for package in packages)


@functools.cache
def _is_defined_here(target: str) -> bool:
    """Whether a file of this package defines a class or a function of that name: what it imports is another's."""
    parts = target.split(".")
    if len(parts) < 3 or parts[0] != SOURCE.name or not all(part.isidentifier() for part in parts):
        return False
    path = SOURCE.joinpath(*parts[1:-1])
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not file.is_file():
        return False
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return any(isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == parts[-1] for node in tree.body)


def check_part(config: Mapping[str, Any], part: str, base: type, file: Path, *, ours: bool) -> None:
    """ValueError unless `config`, the `model` or the `data` of the config in `file`, builds one object of a subclass of
    `base` from plain values: of a class defined in OURS, or, unless `ours`, in a package of TRUST. Nothing else is
    imported.

    Nothing in it may be built by Hydra (`_target_` at any depth, `_args_`, ...) or resolved by OmegaConf (`${...}`),
    which can call anything that can be imported.
    """
    target = str(config.get("_target_", ""))
    trusted = not ours and _is_trusted(target)
    if not (trusted or target.startswith(OURS[part])) or not _is_class(target, base, "" if trusted else OURS[part]):
        more = "" if ours else f", or {base.__name__}s of a package named in {TRUST}"
        raise ValueError(
            f"{file}: {part} is {target!r}; a config that comes with weights may only build the classes of "
            f"{OURS[part]}*{more}."
        )
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
