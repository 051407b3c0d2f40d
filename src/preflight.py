"""Overrides are checked before anything runs; a mistake is answered with the nearest valid name."""

import functools
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser  # a copy would drift from what it accepts
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, QuotedString
from hydra.errors import CompactHydraException, HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.trusted import check_hydra

CONFIG_DIR = Path(__file__).resolve().parent.parent / "conf"
# What Hydra itself raises for a bad command line or YAML file: also ValueError (`~model=1`) and AssertionError (a key
# below a null).
_COMPOSE_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, AssertionError)
_ITEM = re.compile(r"\.\d+(\.|$)").search  # an item of a list, as in model.channels.0


class ConfigError(CompactHydraException, ValueError):
    """Bad config or bad data. Its message is all the user sees, and the exit code is 2.

    It is one of Hydra's compact exceptions because Hydra prints those without a traceback, in a multirun too.
    """


def nearest(received: str, possible: Iterable[str], n: int = 3) -> list[str]:
    """The names of `possible` most like `received`, best first: compared whole, and by their last segment alone."""

    def likeness(name: str) -> float:
        last, received_last = (re.split(r"[./]", text)[-1] for text in (name, received))
        return max(_ratio(received, name), 0.9 * _ratio(received_last, last))

    scores = sorted(((likeness(name), name) for name in set(possible)), key=lambda pair: (-pair[0], pair[1]))
    return [name for score, name in scores[:n] if score >= max(0.6, scores[0][0] - 0.15)]


def did_you_mean(received: str, possible: Iterable[str]) -> str:
    """`Did you mean a, b or c?`, or nothing where no name is near; to be put at the end of an error message."""
    names = nearest(received, possible)
    return f"Did you mean {' or '.join(filter(None, [', '.join(names[:-1]), names[-1]]))}?" if names else ""


def _ratio(a: str, b: str) -> float:
    return SequenceMatcher(None, a.lower(), b.lower()).ratio()


def preflight(argv: Sequence[str], config_name: str, config_dir: Path = CONFIG_DIR) -> None:
    """Checks the overrides of a command line, and those of `hydra.sweeper.params`, without running anything.

    Of a sweep, every group option is checked, and the first value of each other key.
    Raises ConfigError with what was received, what is possible and the nearest valid name.
    """
    with composing(argv, config_name, config_dir) as composer:
        if composer is None:
            return
        overrides = composer.parse(composer.typed)
        composer.check_options(overrides)
        swept = [o for o in overrides if o.is_sweep_override()]
        if composer.is_multirun():
            overrides = composer.sweep()
            composer.check_options(overrides)
        elif swept:
            line = swept[0].input_line
            raise ConfigError(f"{line}: several values need --multirun (-m). A list is written in brackets: key=[1,2].")
        composer.compose(overrides, RunMode.RUN)


@contextmanager
def composing(argv: Sequence[str], config_name: str, config_dir: Path = CONFIG_DIR) -> "Iterator[Composer | None]":
    """A Composer of a command line; None for one that asks for help."""
    args = get_args_parser().parse_args(list(argv))
    asks = args.help or args.hydra_help or args.info or args.shell_completion or args.experimental_rerun
    if asks:
        yield None
        return
    if args.config_path:
        raise ConfigError(
            "--config-path is not taken: what Hydra's own part says there would act before any check. "
            f"--config-dir=... adds a folder to {config_dir}."
        )
    with warnings.catch_warnings(), hydra.initialize_config_dir(str(config_dir.resolve()), version_base="1.3"):
        warnings.simplefilter("ignore")  # hydra.main gives them again
        if args.config_dir:  # as hydra.main adds it; leaving the context forgets it
            folders = create_config_search_path(str(config_dir.resolve()))
            brought = f"file://{Path(args.config_dir).resolve()}"
            folders.prepend("command-line", brought, anchor=SearchPathQuery(provider="schema"))
            GlobalHydra.instance().clear()
            Hydra.create_main_hydra2("app", folders)
        yield Composer(args.config_name or config_name, args.overrides, multirun=args.multirun, shows=bool(args.cfg))


class Composer:
    """Hydra's config folders under one primary config, asked for names and for compositions."""

    def __init__(self, config_name: str, typed: Sequence[str], *, multirun: bool = False, shows: bool = False) -> None:
        self.config_name = config_name
        self.typed = typed
        self.multirun = multirun  # asked for by a flag
        self.shows = shows  # a config is printed, nothing runs
        self.searchpath = [line for line in typed if line.startswith("hydra.searchpath=")]
        self.loader = GlobalHydra.instance().config_loader()

    @functools.cached_property
    def master(self) -> DictConfig:
        """What all runs share: composed with the typed overrides that are no sweep."""
        return self.compose([o for o in self.parse(self.typed) if not o.is_sweep_override()])

    def is_multirun(self) -> bool:
        return self.multirun or self.master.hydra.mode == RunMode.MULTIRUN

    def sweep(self) -> list[Override]:
        """The overrides of a multirun: those of `hydra.sweeper.params`, then the typed ones, which win."""
        params = _plain(self.master.hydra.sweeper).get("params") or {}
        from_file = self.parse([f"{key}={value}" for key, value in params.items()])
        return list({o.get_key_element(): o for o in [*from_file, *self.parse(self.typed)]}.values())

    def task_sweep(self) -> list[Override]:
        """The part of `sweep` that is no setting of Hydra's own: those stand in the master config already."""
        return [o for o in self.sweep() if not o.key_or_group.startswith(("hydra.", "hydra/"))]

    def jobs(self) -> list[DictConfig] | None:
        """The config of every run of a multirun, `hydra` included; None where a sweeper decides as it goes."""
        if "basic_sweeper" not in self.master.hydra.sweeper._target_:
            return None
        (combinations,) = BasicSweeper.split_arguments(self.task_sweep(), None)
        return [self.loader.load_sweep_config(self.master, lines) for lines in combinations]

    def parse(self, lines: Sequence[str]) -> list[Override]:
        """Raises ConfigError for a line that is no override."""
        try:
            return OverridesParser.create(self.loader).parse_overrides(list(lines))
        except OverrideParseException as error:
            reason = (
                error.message.split("\nSee https:")[0].splitlines()[-1].strip().replace("^", "unexpected character")
            )
            raise ConfigError(
                f"{self.named(error.override)}: not a valid override ({reason}). It reads key=value; "
                f"quote a value that holds spaces, commas or brackets: 'key=\"a value\"'."
            ) from error

    def named(self, line: str | None) -> str:
        """The override as the user knows it: typed, or read from an experiment's file."""
        return f"{line}" if line in self.typed else f"{line} (in hydra.sweeper.params)"

    def options(self, group: str, kind: ObjectType | None = ObjectType.CONFIG) -> list[str]:
        return self.loader.get_group_options(group, kind, self.config_name, self.searchpath)

    def groups(self, parent: str = "") -> list[str]:
        names = [f"{parent}/{name}".lstrip("/") for name in self.options(parent, ObjectType.GROUP)]
        return names + [nested for name in names for nested in self.groups(name)]

    def is_choice(self, override: Override) -> bool:
        """True for `group=option`, False for `key=value`."""
        return not isinstance(override.value(), dict) and bool(self.options(override.key_or_group, None))

    def check_options(self, overrides: Iterable[Override]) -> None:
        """Raises ConfigError that names every group option without a file."""
        problems = []
        for override in overrides:
            group = override.key_or_group
            for option in _options_in(override) if self.is_choice(override) and not override.is_delete() else []:
                folder, _, name = option.removesuffix(".yaml").rpartition("/")
                if name not in self.options(f"{group}/{folder}".rstrip("/")):
                    remedy = _choose_from(option, self.options(group))
                    problems.append(f"{self.named(override.input_line)}: there is no {group} '{option}'. {remedy}")
        if problems:
            raise ConfigError("\n".join(problems))

    def compose(self, overrides: Sequence[Override], mode: RunMode = RunMode.MULTIRUN) -> DictConfig:
        """Composes with the first value of each sweep. In MULTIRUN, what only the sweeper chooses may still be missing.

        Raises ConfigError: the unknown keys with the nearest ones, or else what Hydra says of it.
        """
        lines = [_first_of(o) for o in overrides]
        try:
            composed = self._compose(lines, mode)
        except _COMPOSE_ERRORS as error:
            raise ConfigError(self._unknown_keys(overrides, mode) or _text_of(error)) from error
        if any(o.is_add() or o.is_force_add() for o in overrides) and (problems := self._unknown_keys(overrides, mode)):
            raise ConfigError(problems)
        try:
            check_hydra(_plain(composed.hydra))
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return composed

    def _compose(self, lines: list[str], mode: RunMode) -> DictConfig:
        composing = GlobalHydra.instance().hydra  # hydra.compose() would do, had it a mode
        assert composing is not None
        return composing.compose_config(self.config_name, lines, mode, from_shell=False)

    @property
    def reads_new_keys(self) -> bool:
        """Of training a network or an optimizer may take more keys than are listed; nobody else reads what is added."""
        return self.config_name == "train"

    def _unknown_keys(self, overrides: Sequence[Override], mode: RunMode) -> str:
        try:
            cfg = self._compose([_first_of(o) for o in overrides if self.is_choice(o)], mode)
        except _COMPOSE_ERRORS:
            return ""  # then it is not a key that is wrong
        known, groups = set(_paths(_plain(cfg))), self.groups()
        added = tuple(o.key_or_group for o in overrides if o.is_add() or o.is_force_add())
        problems = []
        for override in overrides:
            key = override.key_or_group
            adds_in_vain = key in added and "." not in key and not self.reads_new_keys
            if self.is_choice(override) or key in known or (key.startswith(added) and not adds_in_vain):
                continue
            # Items of lists and, unless one of them is meant, Hydra's own hundreds of keys would crowd out the others.
            meant = [k for k in [*known, *groups] if k.startswith("hydra") == key.startswith("hydra") and not _ITEM(k)]
            takes_it = self.reads_new_keys or "." in key
            remedy = f"To add a new key, write +{override.input_line}." if takes_it and not override.is_delete() else ""
            text = f"{self.named(override.input_line)}: there is no key or group '{key}'."
            problems.append(" ".join(filter(None, [text, did_you_mean(key, meant), remedy])))
        return "\n".join(problems)


def _options_in(override: Override) -> list[str]:
    if isinstance(override.value(), IntervalSweep):
        return []
    values = override.sweep_iterator() if override.is_sweep_override() else [override.value()]
    flat = [item for value in values for item in (value if isinstance(value, list) else [value])]
    texts = [item.text if isinstance(item, QuotedString) else item for item in flat]
    return ["null" if item is None else str(item) for item in texts]


def _first_of(override: Override) -> str:
    """The override with the first value of its sweep. ConfigError where the sweep has none."""
    if not override.is_sweep_override():
        return override.input_line or ""
    value = override.value()
    first = value.start if isinstance(value, IntervalSweep) else next(override.sweep_string_iterator(), None)
    if first is None:
        raise ConfigError(f"{override.input_line}: this sweep has no values. Give at least one that exists.")
    return f"{override.get_key_element()}={first}"


def _text_of(error: Exception) -> str:
    text = str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        received = error.missing_cfg_file.rpartition("/")[2]
        return f"{text.splitlines()[0]}. {_choose_from(received, error.options)}"
    if isinstance(error.__cause__, OmegaConfBaseException):
        text += f"\n{error.__cause__}"
    return "\n".join(line for line in text.split("\nConfig search path:")[0].splitlines() if line.strip())


def _choose_from(received: str, options: Sequence[str]) -> str:
    return f"{did_you_mean(received, options)} Available: {', '.join(options)}.".lstrip()


def _plain(cfg: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(cfg, resolve=False)  # type: ignore[return-value]


def _paths(node: Any, prefix: str = "") -> Iterator[str]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield f"{prefix}{key}"
        yield from _paths(value, f"{prefix}{key}.")
