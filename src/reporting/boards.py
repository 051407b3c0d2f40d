"""A study's workspace and report in W&B, as code: which runs, which panels, over which keys.

The keys are those that src.loggers writes. Nothing here talks to a server; saving does.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from src.comparison import higher_is_better
from src.loggers import OVERLAYS, cost_key, score_key
from src.study import GROUPS

COSTS = ("params", "macs")
CURVES = ("val/dice", "val/loss", "train/dice", "train/loss_epoch")  # the last: Lightning's name beside that of steps
VARIANT = "variant"  # of a run's config: what its seeds are grouped by
MOST_RUNS = 100  # in one plot; W&B shows 10 unless told


@dataclass(frozen=True)
class Board:
    """A study as its boards show it: runs of W&B group `study`; `varied` are the config keys that it varies; scores are
    those of `part`."""

    entity: str
    project: str
    study: str
    varied: Sequence[str]
    part: str
    metrics: Sequence[str]
    question: str = ""
    caption: str = ""

    @property
    def higher(self) -> bool:
        return higher_is_better(self.metrics[0])

    @property
    def score(self) -> str:
        return score_key(self.part, self.metrics[0])


def config_key(key: str) -> str:
    """Where a swept key stands in the logged config: the choice of a file under `choices`."""
    return f"choices.{key}" if key in GROUPS else key


def workspace(board: Board) -> ws.Workspace:
    """Its runs by variant, the panels in sections."""
    sections = [ws.Section(name=name, panels=panels, is_open=True) for name, panels in _panels(board).items() if panels]
    columns = [f"summary:{key}" for key in (*_scores(board), *map(cost_key, COSTS))]
    return ws.Workspace(
        entity=board.entity,
        project=board.project,
        name=board.study,
        sections=sections,
        settings=ws.WorkspaceSettings(max_runs=MOST_RUNS),
        runset_settings=ws.RunsetSettings(
            filters=_in_study(board), groupby=[ws.Config(VARIANT)], pinned_columns=columns
        ),
    )


def report(board: Board) -> wr.Report:
    """The same panels below each other, with the study's question and what its scores are."""
    # of the report's own project: naming it would ask the server for its number
    runs = wr.Runset(name=board.study, filters=_in_study(board), groupby=[f"config.{VARIANT}"])
    blocks: list[Any] = [wr.P(board.question)] if board.question else []
    for name, panels in _panels(board).items():
        for place, panel in enumerate(panels):
            panel.layout = wr.Layout(x=12 * (place % 2), y=8 * (place // 2), w=24 if len(panels) == 1 else 12, h=8)
        blocks += [wr.H2(name), wr.PanelGrid(runsets=[runs], panels=panels)]
    if board.caption:
        blocks += [wr.H2("What the numbers are"), wr.P(board.caption)]
    return wr.Report(
        entity=board.entity, project=board.project, title=board.study, description=board.question, blocks=blocks,
        width="fluid",
    )  # fmt: skip


def specification(board: Board) -> dict[str, Any]:
    """What would be saved, as plain data."""
    return {
        "workspace": json.loads(workspace(board)._to_model().model_dump_json(by_alias=True, exclude_none=True)),
        "report": json.loads(report(board)._to_model().model_dump_json(by_alias=True, exclude_none=True)),
    }


def _in_study(board: Board) -> ws.And:
    return ws.And(ws.Metric("Group") == board.study)


def _scores(board: Board) -> list[str]:
    return [score_key(board.part, metric) for metric in board.metrics]


def _panels(board: Board) -> dict[str, list[Any]]:
    """By section."""
    columns = [wr.ParallelCoordinatesPlotColumn(wr.Config(config_key(key))) for key in board.varied]
    columns += [wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(key)) for key in map(cost_key, COSTS)]
    columns += [wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(key)) for key in reversed(_scores(board))]
    return {
        "Score against cost": [
            wr.ScatterPlot(
                title=f"{board.score} against {name}", x=wr.SummaryMetric(cost_key(name)),
                y=wr.SummaryMetric(board.score), log_x=True,
                running_ymax=board.higher, running_ymin=not board.higher,
            )
            for name in COSTS
        ],
        "What matters": [
            wr.ParallelCoordinatesPlot(columns=columns),
            wr.ParameterImportancePlot(with_respect_to=board.score),
        ],
        "Training": [
            wr.LinePlot(title=key, x="epoch", y=[key], groupby=wr.Config(VARIANT), max_runs_to_show=MOST_RUNS)
            for key in CURVES
        ],
        "Masks on the same images": [wr.MediaBrowser(media_keys=[OVERLAYS], num_columns=3)],
        "Runs side by side": [wr.RunComparer(diff_only="split")],
    }  # fmt: skip
