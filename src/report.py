"""Many runs: where they stand, and what they say, as tables, plots and one page.

python -m src.report study=ablation_modules-kvasir_seg status=true   # done, running, failed, missing
python -m src.report study=ablation_modules-kvasir_seg               # tables, plots, report.html
python -m src.report 'run=[runs/glas/*]'                             # of any runs
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from src.cli import ConfigError, entry_point
from src.config import check_switches, listed, user_errors
from src.study import (
    RunState,
    StudyRun,
    directory_runs,
    others,
    state_of,
    study_question,
    study_runs,
    summary,
)

if TYPE_CHECKING:
    from src.comparison import Table as Comparison

PAGE = "report.html"


@dataclass(frozen=True)
class Request:
    """What is compared (`runs`, whose names are paths below `folder`), how, and where the report goes.

    Args:
        metrics: columns of per_image.csv; differences and plots are about the first.
        part: of the split; None: test where every run was scored on it, else val.
        reference: a variant's name; None: the first.
        latency: times the networks on this machine, instead of what an earlier report kept of that.
        figures: the kind of file of the plots: png, pdf or svg.
    """

    folder: Path
    runs: Sequence[StudyRun]
    out: Path
    title: str
    metrics: Sequence[str] = ("dice", "iou")
    part: str | None = None
    mode: str = "full"
    reference: str | None = None
    latency: bool = False
    figures: str = "png"
    question: str = ""


def _run(cfg: DictConfig) -> None:
    studies, patterns = listed(cfg, "study"), listed(cfg, "run")
    if bool(studies) == bool(patterns):
        raise ConfigError(
            "which runs? Give a study, python -m src.report study=ablation_modules-kvasir_seg, or run directories, "
            "python -m src.report 'run=[runs/kvasir_seg/emisnet-*,runs/kvasir_seg/unet-*]'."
        )
    with user_errors():
        check_switches(cfg, "status", "latency")
        if len(studies) == 1:
            folder = Path(cfg.runs) / studies[0]
            runs, title, question = study_runs(folder), folder.name, study_question(folder)
            out = folder / "report"
        else:
            folders = [Path(cfg.runs) / study for study in studies]
            planned = [of / run.name for of in folders for run in study_runs(of)]
            begun = [path for path in planned if (path / "config.yaml").is_file()]
            folder, runs, question = Path(), directory_runs(patterns or begun), ""
            if len(begun) < len(planned):
                print(f"{len(planned) - len(begun)} of {len(planned)} planned runs were not begun; they are left out.")
            title = " and ".join(studies) or (f"{len(runs)} runs" if len(runs) > 1 else Path(runs[0].name).name)
            out = Path("reports") / hashlib.sha256("\n".join(run.name for run in runs).encode()).hexdigest()[:8]
        if cfg.status:
            print_status(folder, [state_of(folder, run) for run in runs])
            return
        request = Request(
            folder,
            runs,
            Path(cfg.out or out),
            title,
            metrics=listed(cfg, "metrics"),
            part=cfg.part,
            mode=cfg.mode,
            reference=cfg.reference,
            latency=cfg.latency,
            figures=cfg.figures,
            question=question,
        )
        write_report(request)


def print_status(folder: Path, states: list[RunState]) -> None:
    """One line per run of a study, and what else lies in its folder."""
    table = Table(title=str(folder), title_justify="left")
    folds = any(found.run.fold is not None for found in states)
    for name in ("variant", "seed", *(["fold"] if folds else []), "state", "epochs", "run", "reason"):
        table.add_column(name, overflow="fold")
    for found in states:
        epochs = f"{found.epochs}/{found.of}" if found.of else ""
        fold = ["" if found.run.fold is None else str(found.run.fold)] if folds else []
        cells = found.run.variant, str(found.run.seed), *fold, found.state, epochs, found.run.name, found.reason
        table.add_row(*cells)
    console = Console(width=max(140, Console().width))
    console.print(table, markup=False)
    console.print(summary(states))
    if strangers := others(folder, [found.run for found in states]):
        console.print(
            f"{len(strangers)} other runs lie there; they are of other settings than the latest plan and not counted: "
            f"{', '.join(strangers[:5])}{', ...' if len(strangers) > 5 else ''}",
            markup=False,
        )


def write_report(request: Request) -> "Comparison":
    """Prints the table, and writes into `request.out`: table.md, .csv and .tex (a row per variant), results.csv (a row
    per run), the plots under figures/, and the page.

    Raises ValueError where runs do not compare, and for unknown metrics, variants and kinds of figures.
    """
    from src.comparison import compare
    from src.files import sweep, write_csv, write_text
    from src.progress import progress
    from src.reporting import texts
    from src.reporting.gallery import make_gallery
    from src.reporting.latency import FILE, kept_latencies, measure_latencies
    from src.reporting.page import render_page
    from src.reporting.panels import make_panels
    from src.reporting.plots import check_format, write_plots
    from src.reporting.published import published_on
    from src.results import LEFT_OUT, finished_folds, read_results

    check_format(request.figures)  # before anything is written
    out, states = request.out, [state_of(request.folder, run) for run in request.runs]
    for folder in (out, out / "figures"):
        sweep(folder)
    with progress(4, "report", unit=" steps") as bar:
        results, part = read_results(request.folder, request.runs, request.part, request.mode)
        bar.update()
        table = compare(results, part=part, metrics=request.metrics, reference=request.reference)
        kept = out / FILE
        latencies = measure_latencies(table, kept) if request.latency else kept_latencies(table, kept)
        write_text(out / "table.md", texts.markdown(table, latencies) + "\n")
        write_text(out / "table.tex", texts.latex(table, latencies) + "\n")
        write_csv(out / "table.csv", texts.table_rows(table, latencies))
        run_rows = texts.run_rows(table)
        write_csv(out / "results.csv", run_rows)
        bar.update()
        panels = make_panels(table, latencies)
        gallery = make_gallery(table, panels["shown"])
        page = render_page(
            table,
            panels,
            gallery,
            title=request.title,
            question=request.question,
            states=states,
            run_rows=run_rows,
            latencies=latencies,
            published=published_on(results[0].metrics["protocol"]["dataset"]),
        )
        write_text(out / PAGE, page)
        bar.update()
        write_plots(panels, gallery, out / "figures", texts.measured_on(table), request.figures)
        bar.update()
    print(texts.markdown(table, latencies))
    if table.left_out:
        print(f"\n{LEFT_OUT.format(len(table.left_out))}\n{finished_folds(table.left_out)}")
    if len(results) < len(request.runs):
        left = len(request.runs) - len(results)
        print(f"\n{left} of {len(request.runs)} runs are not finished: status=true shows where they stand.")
    if gallery.missing:
        print(f"\nnote: {gallery.missing}")
    print(
        f"\nopen {out / PAGE}\ntables: {out / 'table.md'}  .csv  .tex  {out / 'results.csv'}\nplots: {out / 'figures'}"
    )
    return table


main = entry_point("report", _run)

if __name__ == "__main__":
    main()
