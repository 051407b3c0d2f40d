"""What a config may build.

Anybody's: the parts of a training that this repository defines, and the classes of torch and Lightning that it takes.
One that came with
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
# whose classes a config may name; not all of src/: write_text would write, and an exported program load a pickle
PARTS = ("src.models.", "src.data.", "src.losses.", "src.schedules.", "src.callbacks.", "src.metrics.")
FUNCTIONS = ("src.schedules.schedule", "src.loggers.wandb_logger")
PLUGINS = {
    "launcher": (
        "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
        "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
        "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher",
        "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
        "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
    ),
    "sweeper": (
        "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
        "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper",
    ),
}
SAMPLER = re.compile(r"optuna\.samplers\.[A-Z]\w*")  # what a sweeper builds
HYDRAS_OWN = re.compile(r"\$\{hydra\.(job\.name|sweep\.dir|run\.dir|runtime\.output_dir|runtime\.cwd)\}")  # mere texts
HANDLERS = ("logging.StreamHandler", "logging.NullHandler", "logging.Formatter", "colorlog.ColoredFormatter")
LOG_FILE = "${hydra.runtime.output_dir}/${hydra.job.name}.log"  # the only one that a logging.FileHandler may write


def check_targets(config: Mapping[str, Any], where: str = "") -> None:
    """ValueError unless every `_target_` in `config`, at any depth, may be built: a class of PARTS that a file of ours
    defines, one of FUNCTIONS or LIBRARIES, or of a package in TRUST. Imports nothing. `where` is the key of `config`.

    The config is resolved; an interpolation that is left, which was escaped, would be resolved when things are built
    and could make a `_target_` then: a ValueError, too.
    """
    for key, value in config.items():
        place = f"{where}.{key}".lstrip(".")
        if any("${" in str(text) for text in (key, *_texts(value))):
            raise ValueError(
                f"{place} holds an escaped interpolation, {str(value)[:60]!r}: it would be resolved when things are "
                "built. Write the value itself."
            )
        if key == "_target_" and value is not None and not _may_be_built(str(value)):  # null: nothing is built
            raise ValueError(
                f"{place}={value} may not be built: it is no class of {', '.join(f'{part}*' for part in PARTS)}, and "
                "none of those of torch and Lightning that training takes. If it is yours: "
                f"{TRUST}={str(value).split('.')[0]} before the command."
            )
        for child in value if isinstance(value, list | tuple) else [value]:
            if isinstance(child, Mapping):
                check_targets(child, place)
            elif isinstance(child, list | tuple):
                check_targets({"": child}, place)


def check_hydra(hydra: Mapping[str, Any]) -> None:
    """ValueError for what Hydra's own part of a config would build or set before anything of ours runs: callbacks,
    foreign plugins, classes of logging, environment variables (TRUST is one). It is not resolved: what would make a
    `_target_` then is refused, too, and so is a resolver whose name is put together."""
    for key, value in _everything(hydra):
        if re.search(r"oc\.create|oc\.decode|\$\{[^}:]*\$\{", f"{key}{value}"):
            raise ValueError(
                f"hydra holds {key}: {str(value)[:60]!r}, of which anything could be made. Write the value."
            )
    if (hydra.get("job") or {}).get("env_set"):
        raise ValueError(
            "hydra.job.env_set is given, and is not used here: it would act before any check. Put the variables before "
            "the command."
        )
    for key, value in _everything(hydra.get("callbacks") or {}):
        if (key == "_target_" and value and not _is_trusted(str(value))) or "${" in str(value):
            raise ValueError(
                f"hydra.callbacks would build {value}. If it is yours: {TRUST}={str(value).split('.')[0]} before the "
                "command."
            )
    for part, plugins in PLUGINS.items():
        plugin = dict(hydra.get(part) or {})
        if (target := plugin.pop("_target_", None)) not in plugins:
            raise ValueError(f"hydra.{part}._target_={target} is none of Hydra's plugins ({', '.join(plugins)}).")
        for key, value in _everything(plugin):
            if key == "_target_" and value and not SAMPLER.fullmatch(str(value)):
                raise ValueError(f"hydra.{part} would build {value}, which is none of Hydra's plugins.")
            if "${" in HYDRAS_OWN.sub("", f"{key}{value}"):
                raise ValueError(
                    f"hydra.{part} holds {key}: {str(value)[:60]!r}, which is resolved late. Write the value."
                )
    for key, value in _everything({name: part for name, part in hydra.items() if name not in (*PLUGINS, "callbacks")}):
        if key == "_target_" and value:
            raise ValueError(f"hydra would build {value}, where nothing is built. Take it out.")
    if (space := (hydra.get("sweeper") or {}).get("custom_search_space")) and not _is_trusted(str(space)):
        raise ValueError(
            f"hydra.sweeper.custom_search_space={space} would be called. If it is yours: "
            f"{TRUST}={str(space).split('.')[0]} before the command."
        )
    for part in ("job_logging", "hydra_logging"):
        for key, value in _everything(hydra.get(part) or {}):
            if re.match(r"(ext|cfg)://", str(value)) and value not in ("ext://sys.stdout", "ext://sys.stderr"):
                raise ValueError(f"hydra.{part} holds {key}: {value}, which would import it. Use ext://sys.stdout.")
        for settings in _mappings(hydra.get(part) or {}):
            for key in ("class", "()"):
                if (made := settings.get(key)) in (None, *HANDLERS):
                    continue
                if made != "logging.FileHandler" or settings.get("filename") != LOG_FILE:
                    raise ValueError(
                        f"hydra.{part} builds {made}; it may be one of {', '.join(HANDLERS)}, or a logging.FileHandler "
                        f"with filename: {LOG_FILE}."
                    )


def _mappings(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every mapping in `value`, itself too."""
    if isinstance(value, Mapping):
        yield value
        value = list(value.values())
    if isinstance(value, list | tuple):
        for child in value:
            yield from _mappings(child)


def _may_be_built(target: str) -> bool:
    return bool(LIBRARIES.fullmatch(target)) or _is_trusted(target) or target in FUNCTIONS or _is_defined_here(target)


def _is_trusted(target: str) -> bool:
    packages = [name.strip() for name in os.environ.get(TRUST, "").split(",") if name.strip()]
    return any(target.startswith(f"{package}.") for package in packages)


@functools.cache
def _is_defined_here(target: str) -> bool:
    """Whether a file of PARTS defines a class of that name: what it imports is another's."""
    parts = target.split(".")
    if len(parts) < 3 or not target.startswith(PARTS) or not all(part.isidentifier() for part in parts):
        return False
    path = SOURCE.joinpath(*parts[1:-1])
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not file.is_file():
        return False
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return any(isinstance(node, ast.ClassDef) and node.name == parts[-1] for node in tree.body)


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


def _texts(value: Any) -> Iterator[str]:
    """The texts in `value`, a list or one itself; what mappings in it hold is looked at with them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for child in value:
            yield from _texts(child)


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
