"""Many runs: where they stand, and what they say.

python -m src.report study=ablation_modules-kvasir_seg status=true   # done, running, failed, missing
python -m src.report study=ablation_modules-kvasir_seg               # the table
"""

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from src.cli import ConfigError, entry_point
from src.config import user_errors
from src.study import RunState, others, study_runs, study_states, summary

if TYPE_CHECKING:
    from src.comparison import Table as Comparison


def _run(cfg: DictConfig) -> None:
    if OmegaConf.is_missing(cfg, "study"):
        raise ConfigError("which study? Give its name: python -m src.report study=ablation_modules-kvasir_seg")
    folder = Path(cfg.runs) / cfg.study
    with user_errors():
        if cfg.status:
            print_status(folder, study_states(folder))
        else:
            metrics = [cfg.metrics] if isinstance(cfg.metrics, str) else list(cfg.metrics)
            write_report(folder, Path(cfg.out or folder), metrics, cfg.part, cfg.mode, cfg.reference)


def print_status(folder: Path, states: list[RunState]) -> None:
    """One line per run of a study, and what else lies in its folder."""
    table = Table(title=str(folder), title_justify="left")
    for name in ("variant", "seed", "state", "epochs", "run", "reason"):
        table.add_column(name, overflow="fold")
    for found in states:
        epochs = f"{found.epochs}/{found.of}" if found.of else ""
        table.add_row(found.run.variant, str(found.run.seed), found.state, epochs, found.run.name, found.reason)
    console = Console(width=max(140, Console().width))
    console.print(table, markup=False)
    console.print(summary(states))
    if strangers := others(folder, [found.run for found in states]):
        console.print(
            f"{len(strangers)} other runs lie there; they are of other settings than the latest plan and not counted: "
            f"{', '.join(strangers[:5])}{', ...' if len(strangers) > 5 else ''}",
            markup=False,
        )


def write_report(
    folder: Path,
    out: Path,
    metrics: list[str],
    part: str | None = None,
    mode: str = "full",
    reference: str | None = None,
) -> "Comparison":
    """Prints a study's table and writes table.md and results.csv (a row per run) into `out`.

    Raises ValueError where runs do not compare, and for unknown metrics.
    """
    from src.comparison import compare, markdown, read_results, run_rows
    from src.files import write_csv, write_text

    runs = study_runs(folder)
    results, part = read_results(folder, runs, part, mode)
    table = compare(results, part=part, metrics=metrics, reference=reference)
    text = markdown(table)
    write_text(out / "table.md", text + "\n")
    write_csv(out / "results.csv", run_rows(table))
    print(text)
    if len(results) < len(runs):
        print(f"\n{len(runs) - len(results)} of {len(runs)} runs are not finished: status=true shows where they stand.")
    print(f"\n{out / 'table.md'}  {out / 'results.csv'}")
    return table


main = entry_point("report", _run)

if __name__ == "__main__":
    main()
