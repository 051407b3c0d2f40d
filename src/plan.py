"""The plan of a study, before its first job: which runs, how each differs, how long, how big.

Refused are runs that compute the same function as another run (a dilated 1x1 convolution at two rates), since a table
of them would show differences that are none; `allow_same=true` runs them nevertheless.
"""

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict
from rich.console import Console
from rich.table import Table

from src.cli import ConfigError
from src.config import chosen, complete_config, user_errors
from src.preflight import Composer, composing
from src.progress import progress
from src.provenance import provenance
from src.rundir import defining_but_seed, differences
from src.slurm import check_slurm
from src.study import StudyRun, fixed_overrides, state_of, study_states, summary, variant_labels, write_plan

if TYPE_CHECKING:
    from torch import nn

    from src.models.cost import Cost

CHECKPOINT_BYTES = 2 * 3 * 4  # per parameter: best and last, each with weights and AdamW's two moments in float32
OTHER_BYTES = 3_000_000  # pictures, rows and tables of a run, about
SHOWN = 6  # differences of one variant


@dataclass(frozen=True)
class Variant:
    """What runs once for each seed and fold: one row of the plan. `config` is that of its first run."""

    label: str
    config: dict[str, Any]

    @cached_property
    def net(self) -> "nn.Module":
        import torch

        from src.build import build_net

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # of all: networks that start from other weights are not the same
            return build_net(self.config["model"], quiet=True)

    @cached_property
    def cost(self) -> "Cost":
        from src.models.cost import measure_cost

        return measure_cost(self.net, self.input_shape(1))

    def input_shape(self, batch: int) -> tuple[int, int, int, int]:
        size = self.config["data"]["size"]
        return batch, len(self.config["data"]["mean"]), size, size


@contextmanager
def planned(argv: Sequence[str]) -> Iterator[None]:
    """Around a multirun of src.train: its plan before the first job, and where every run stands after the last.

    Nothing around a single run. Raises ConfigError for a plan that cannot work, and SystemExit: 0 after `plan=true`, 1
    at the end when a run is not finished.
    """
    with user_errors():
        folders = _plan(argv)
    states = []
    try:
        yield
    finally:
        states = [state for folder in folders for state in study_states(folder)]
        for found in states:
            if found.state == "failed":
                print(f"failed: {found.run.name} ({found.run.variant}): {found.reason}", file=sys.stderr)
        if states:
            print(summary(states), file=sys.stderr)
    if any(found.state != "finished" for found in states):  # a search ends well for Hydra nevertheless
        raise SystemExit(1)


def _plan(argv: Sequence[str]) -> list[Path]:
    """Prints and stores the plan of a multirun; the folders of its studies."""
    with composing(argv, "train") as composer:
        if composer is None or composer.shows or not composer.is_multirun():
            return []
        jobs, only_show = composer.jobs(), composer.master.plan
        if composer.master.hydra.launcher._target_.endswith("SlurmLauncher") and not only_show:
            check_slurm()
        plans = _plan_search(composer) if jobs is None else _plan_grid([_complete(job) for job in jobs])
    if only_show:
        raise SystemExit(0)
    commit = provenance()["commit"]
    for folder, plan in plans.items():
        write_plan(folder, **plan, command=argv, commit=commit)
    return list(plans)


def _complete(job: DictConfig) -> dict[str, Any]:
    """The complete config of one job, as src.train will make it."""
    HydraConfig.instance().set_config(job)
    hydra, cfg = job.hydra, job.copy()
    with open_dict(cfg):
        del cfg["hydra"]
    return complete_config(cfg, chosen(hydra), multirun=True, overrides=list(hydra.overrides.task))


def _plan_search(composer: Composer) -> dict[Path, dict[str, Any]]:
    """Of a sweeper that chooses as it goes, only the number of trials is known, and what they may differ in."""
    swept = composer.task_sweep()
    free = [override.key_or_group for override in swept if override.is_sweep_override()]
    fixed = [override.input_line or "" for override in swept if not override.is_sweep_override()]
    config = _complete(composer.loader.load_sweep_config(composer.master, fixed))
    sweeper = composer.master.hydra.sweeper
    if not {"n_trials", "direction"} <= sweeper.keys():
        raise ConfigError(f"hydra.sweeper={sweeper._target_} is not supported: the default, or hydra/sweeper=optuna.")
    if f"{sweeper.direction}"[:3] != config["mode"]:
        raise ConfigError(
            f"hydra.sweeper.direction={sweeper.direction} does not go with monitor={config['monitor']}, whose best is "
            f"its {config['mode']}imum: hydra.sweeper.direction={config['mode']}imize."
        )
    trials = sweeper.n_trials
    print(f"{trials} trials, chosen by the sweeper as it goes, over {', '.join(free)}", file=sys.stderr)
    _tell_size([Variant("", config)] * trials, Path(config["run_dir"]).parent, [1.0] * trials, trials)
    search = {"free": free, "fixed": fixed_overrides(config["overrides"], free)}
    return {Path(config["run_dir"]).parent: {"runs": [], "search": search}}


def _plan_grid(combinations: Sequence[dict[str, Any]]) -> dict[Path, dict[str, Any]]:
    by_directory: dict[str, dict[str, Any]] = {}
    for config in combinations:
        first = by_directory.setdefault(config["run_dir"], config)
        if clash := differences(first, config):
            raise ConfigError(
                f"two runs of the study would share {config['run_dir']}, but differ in {', '.join(clash)}. "
                "Leave run_dir out: each run then gets a directory named by what defines it."
            )
    configs = list(by_directory.values())
    labels = variant_labels([config["overrides"] for config in configs])
    variants: dict[str, Variant] = {}
    for label, config in zip(labels, configs, strict=True):
        variants.setdefault(label, Variant(label, config))
    _refuse_same(list(variants.values()))
    plans: dict[Path, dict[str, Any]] = {}
    for label, config in zip(labels, configs, strict=True):
        path, cost = Path(config["run_dir"]), variants[label].cost
        run = StudyRun.of(config, path.name, label, cost.params, cost.macs)
        plans.setdefault(path.parent, {"runs": []})["runs"].append(run)
    states = [state_of(folder, run) for folder, plan in plans.items() for run in plan["runs"]]
    left = [0.0 if s.state == "finished" else 1 - s.epochs / s.of if s.of else 1.0 for s in states]
    _print_variants(list(variants.values()), ", ".join(str(folder) for folder in plans))
    seeds = ", ".join(str(seed) for seed in dict.fromkeys(config["seed"] for config in configs))
    twice = len(combinations) - len(configs)
    folds = ", ".join(dict.fromkeys(str(state.run.fold) for state in states if state.run.fold is not None))
    told = f"{len(variants)} variants, seeds {seeds}" + (f", folds {folds}" if folds else "")
    print(f"{summary(states)}; {told}", file=sys.stderr)
    if twice:
        print(f"{twice} of the {len(combinations)} combinations are the same run as another: run once", file=sys.stderr)
    new = sum(state.state == "missing" for state in states)
    _tell_size([variants[label] for label in labels], next(iter(plans)), left, new)
    return plans


def _refuse_same(variants: Sequence[Variant]) -> None:
    """ConfigError where two variants differ in nothing but arguments of the network that do not change its function."""
    from src.models.compare import same_function

    if not variants or variants[0].config["allow_same"]:
        return
    told = []
    apart: dict[str, list[Variant]] = {}
    for variant in variants:
        rest = {key: value for key, value in defining_but_seed(variant.config).items() if key != "model"}
        different = apart.setdefault(json.dumps(rest, sort_keys=True, default=str), [])
        twin = next((v for v in different if same_function(v.net, variant.net, variant.input_shape(2))), None)
        if twin is None:
            different.append(variant)
        else:
            keys = [key for key in differences(twin.config, variant.config) if key.startswith("model.")]
            told.append(f"  - {variant.label}: the same function as {twin.label} ({', '.join(keys)} changes nothing)")
    if told:
        listed = "\n".join(told)
        raise ConfigError(
            f"{len(told)} of {len(variants)} variants would train a network that is in the study already:\n{listed}\n"
            "Leave them out, or run them on purpose with allow_same=true."
        )


def _print_variants(variants: Sequence[Variant], title: str) -> None:
    from src.models.compare import module_difference

    first = variants[0]
    table = Table(title=f"{title}\nagainst the first; MACs at {first.input_shape(1)[2]} px", title_justify="left")
    for name in ("variant", "params (M)", "MACs (G)", "MACs", "differs in"):
        table.add_column(name, justify="right" if name not in ("variant", "differs in") else "left")
    for variant in variants:
        modules = module_difference(variant.net, first.net)
        lines = modules[:SHOWN] + ([f"and {len(modules) - SHOWN} more"] if len(modules) > SHOWN else [])
        lines += _settings_difference(variant.config, first.config, bool(modules))
        change = 100 * (variant.cost.macs / first.cost.macs - 1)
        cells = f"{variant.cost.params / 1e6:.3f}", f"{variant.cost.macs / 1e9:.3f}", f"{change:+.1f} %"
        table.add_row(variant.label, *cells, "\n".join(lines) if variant is not first else "")
    Console(stderr=True, width=max(120, Console().width)).print(table, markup=False)


def _settings_difference(config: dict[str, Any], reference: dict[str, Any], shown: bool) -> list[str]:
    """What differs besides the module tree: widths, chosen files of other groups, and single settings.

    Arguments of the network stand there only where nothing else (`shown`) tells of them.
    """
    groups = [g for g, name in config["choices"].items() if g != "model" and name != reference["choices"].get(g)]
    lines = [f"{group}: {reference['choices'][group]} -> {config['choices'][group]}" for group in groups]
    if (widths := config["model"].get("channels")) != reference["model"].get("channels"):
        lines.append(f"channels: {reference['model'].get('channels')} -> {widths}")
    keys = [key for key in differences(config, reference) if key not in ("seed", "data.seed")]
    for key in keys:
        if key.partition(".")[0] not in (*groups, "model") or (key.startswith("model.") and not shown and not lines):
            lines.append(f"{key}: {_at(reference, key)} -> {_at(config, key)}")
    return lines


def _at(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config


def _tell_size(runs: Sequence[Variant], folder: Path, left: Sequence[float], new: int) -> None:
    """`runs`: the variant of each run; `left`: the part of each that is still to train; `new` runs take new disk."""
    from src.timing import seconds_apart

    to_time = {id(variant): variant for variant, part in zip(runs, left, strict=True) if part}
    seconds = {}
    with progress(len(to_time), "timing a step of each network", unit=" networks") as bar:
        timed = seconds_apart([variant.config for variant in to_time.values()])
        for key, needed in zip(to_time, timed, strict=True):
            seconds[key] = needed
            bar.update()
    hours = sum(part * seconds.get(id(variant), 0.0) for variant, part in zip(runs, left, strict=True)) / 3600
    whole = sum(variant.cost.params * CHECKPOINT_BYTES + OTHER_BYTES for variant in runs)
    size = whole * new // len(runs)
    where = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(where).free
    print(
        f"time: about {hours:.1f} h one after another on this machine ({runs[0].config['threads']} CPU threads), from "
        f"a timed step of each network; scoring comes on top\n"
        f"disk: about {size / 1e9:.2f} GB more; {free / 1e9:.0f} GB are free in {where}",
        file=sys.stderr,
    )
    if size > free:
        raise ConfigError(f"the study needs about {size / 1e9:.2f} GB more, {where} has {free / 1e9:.2f}. Make room.")
