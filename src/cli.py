"""The command line of every entry point: a mistake in the overrides is answered in one message, the rest is Hydra's.

Exit codes: 0 done, 1 error (with a traceback), 2 bad config or data (the message only), 130 and 143 interrupted.
Nothing here imports torch, so that --help stays fast. `HYDRA_FULL_ERROR=1` brings every traceback back.
"""

import functools
import os
import re
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import (
    ConfigCompositionException,
    InstantiationException,
    OverrideParseException,
    SearchPathException,
)
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from src.preflight import CONFIG_DIR, Composer, ConfigError, did_you_mean, preflight

__all__ = ["ConfigError", "did_you_mean", "entry_point"]

_USERS_FAULT = (ConfigError, ConfigCompositionException, OverrideParseException, SearchPathException)


def entry_point(
    config_name: str,
    run: Callable[[DictConfig], Any],
    *,
    config_dir: Path = CONFIG_DIR,
    around: Callable[[list[str]], AbstractContextManager[None]] | None = None,
) -> Callable[[], None]:
    """A `main()` that checks sys.argv, then lets Hydra call `run` once or, in a multirun, once per job.

    `around` is entered with the arguments before Hydra begins, and left after its last job. What `run` returns reaches
    Hydra's sweepers. A ConfigError, or a ValueError from a constructor that `instantiate`
    called, ends with exit code 2 and its message; any other exception goes Hydra's way, SystemExit passes through.
    """

    @functools.wraps(run)  # Hydra finds the job's name through __wrapped__
    def task(cfg: DictConfig) -> Any:
        try:
            return run(cfg)
        except (ConfigError, InstantiationException) as error:
            config_error = _config_error_of(error)
            if config_error is None:
                raise
            if HydraConfig.get().mode == RunMode.RUN:
                _fail(config_error)  # here, since Hydra would wrap the message in three lines of its own
            raise config_error from config_error.__cause__  # the other jobs of the multirun go on

    hydra_main = hydra.main(version_base="1.3", config_path=str(config_dir.resolve()), config_name=config_name)(task)

    def main() -> None:
        try:
            preflight(sys.argv[1:], config_name, config_dir)
            with around(sys.argv[1:]) if around else nullcontext():
                hydra_main()
        except KeyboardInterrupt:  # in a launcher; a training run ends by itself
            raise SystemExit(130) from None
        except (ConfigError, InstantiationException) as error:  # of `around`: what Hydra's jobs raise ends in there
            if (config_error := _config_error_of(error)) is None:
                raise
            _fail(config_error)
        except SystemExit as stop:
            if stop.code == 1 and isinstance(stop.__context__, _USERS_FAULT):  # Hydra has printed it already
                raise SystemExit(2) from None
            raise

    return main


def _config_error_of(error: ConfigError | InstantiationException) -> ConfigError | None:
    """Hydra wraps what a constructor raises: a ValueError is meant for the user, a TypeError tells of an argument that
    does not exist or is of another kind, Lightning has an error of its own; anything else is a bug."""
    if isinstance(error, ConfigError):
        return error
    theirs = type(error.__cause__).__name__ == "MisconfigurationException"
    if not theirs and not isinstance(error.__cause__, ValueError | TypeError):
        return None
    where = re.search(r"full_key: (\S+)", str(error))
    config_error = ConfigError(f"{where[1]}: {error.__cause__}" if where else str(error.__cause__))
    config_error.__cause__ = error.__cause__
    return config_error


def _fail(error: ConfigError) -> NoReturn:
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        traceback.print_exception(error)
    else:
        print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2)


def _group_choices(*groups: str, _root_: DictConfig) -> str:
    """One wrapped line per group, its default marked; `$APP_CONFIG_GROUPS` puts everything on one endless line."""
    composer = Composer(_root_.hydra.job.config_name, [])
    lines = []
    for group in groups or sorted(name for name in composer.groups() if not name.startswith("hydra")):
        default = _root_.hydra.runtime.choices.get(group)
        options = ", ".join(f"[{name}]" if name == default else name for name in composer.options(group))
        head = f"  {group:<15} "
        lines.append(textwrap.fill(options, 100, initial_indent=head, subsequent_indent=" " * len(head)))
    return "\n".join(lines)


# conf/hydra/launcher/ sets defaults of launchers whose plugins bring a schema of the same name, which is how Hydra 1.3
# wants them chosen and what it warns of at every composition. Here, so that it holds in a launcher's workers, too.
warnings.filterwarnings("ignore", r"\s*'hydra/(launcher|sweeper)/\w+' is validated against ConfigStore schema")

# For hydra.help.template: ${group_choices:} lists every group of ours, ${group_choices:model,hydra/launcher} these.
OmegaConf.register_new_resolver("group_choices", _group_choices, replace=True)
