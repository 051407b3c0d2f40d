"""The page of a report in a real browser: it opens without a network, answers clicks, and shows names as text."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from src.comparison import Table, compare
from src.files import read_csv, write_csv, write_text
from src.reporting.gallery import Gallery, Picture, make_gallery
from src.reporting.page import render_page
from src.reporting.panels import make_panels
from src.reporting.published import published_on
from src.reporting.texts import run_rows
from src.results import read_results
from src.study import RunState, StudyRun, study_states

from .browser import needs_chromium, visit

pytestmark = needs_chromium
READY = "html[data-ready=true]"
HOSTILE = """</script><script>document.title='taken'</script><img src=x onerror="document.title='taken'">'"&"""


def write_page(table: Table, states: list[RunState], path: Path, *, title: str = "mine", gallery: Gallery) -> str:
    panels = make_panels(table)
    published = published_on("kvasir_seg")
    page = render_page(
        table,
        panels,
        gallery,
        title=title,
        question="Which is better?",
        states=states,
        run_rows=run_rows(table),
        published=published,
    )
    write_text(path, page)
    return path.as_uri()


@pytest.fixture
def url(study: tuple[Path, list[StudyRun]], tmp_path: Path) -> str:
    folder, runs = study
    write_text(folder / runs[5].name / "status.json", '{"state": "failed", "reason": "ValueError: <no>"}')
    results, part = read_results(folder, runs)
    table = compare(results, part=part, metrics=["dice", "iou"])
    gallery = make_gallery(table, ["plain", "bold"])
    return write_page(table, study_states(folder), tmp_path / "page.html", gallery=gallery)


@pytest.mark.parametrize("width", [390, 1300])
@pytest.mark.parametrize("dark", [False, True])
def test_it_opens_from_the_file_system_at_any_width(url: str, width: int, dark: bool) -> None:
    with visit(url, width=width, dark=dark, offline=True) as found:
        page = found.page
        page.wait_for_selector(READY)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for plot in ("pareto", "distributions", "strata", "curves", "parallel"):
            page.wait_for_selector(f"#{plot} .main-svg")
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) == dark
        page.click("#theme")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != background
        assert "1 of 6 runs are not finished" in page.inner_text("body")
        found.assert_clean()


def first_column(page, table: str) -> list[str]:
    return page.locator(f"#{table} tbody tr:visible td:first-child").all_inner_texts()


def test_tables_sort_filter_and_lead_to_their_runs(url: str) -> None:
    with visit(url) as found:
        page = found.page
        page.wait_for_selector(READY)
        assert first_column(page, "comparison") == ["plain", "bold"]
        page.click("#comparison th:has-text('variant') button")
        assert first_column(page, "comparison") == ["bold", "plain"]
        page.click("#comparison th:has-text('params') button")
        dice = page.locator("#comparison th", has_text=re.compile("^dice$")).locator("button")
        dice.click()
        assert first_column(page, "comparison") == ["plain", "bold"]  # by number, lowest first
        dice.click()
        assert first_column(page, "comparison") == ["bold", "plain"]
        page.fill("#comparison-filter", "BOL")
        assert first_column(page, "comparison") == ["bold"]
        assert page.inner_text("#comparison-count") == "1 of 2 variants"
        page.click("[data-runs-of=bold]")
        assert first_column(page, "runs") == ["bold"] * 3
        text = page.inner_text("#runs")
        assert "failed" in text and "ValueError: <no>" in text and "checkpoints/best.ckpt" in text
        page.fill("#runs-filter", "seed2 finished")
        assert first_column(page, "runs") == ["plain"]
        found.assert_clean()


def test_plots_follow_their_choices(url: str) -> None:
    with visit(url) as found:
        page = found.page
        page.wait_for_selector(READY)
        page.select_option("#pareto-cost", "multiply-adds (G)")
        assert "multiply-adds (G)" in page.text_content("#pareto .xtitle")
        assert page.locator("#distributions .boxes").count() == 1  # bold against plain
        assert page.locator("#distributions .point").count() == 6  # every image
        page.select_option("#distributions-what", "scores")
        assert page.locator("#distributions .boxes").count() == 2
        page.select_option("#curves-metric", "train/loss")
        assert "train/loss" in page.text_content("#curves .ytitle")
        page.hover("#pareto .point >> nth=1", force=True)
        page.wait_for_selector("#pareto .hovertext")
        assert "3 seeds" in page.text_content("#pareto .hovertext") or "2 seeds" in page.text_content(
            "#pareto .hovertext"
        )
        found.assert_clean()


def test_the_slider_moves_between_two_variants(url: str) -> None:
    with visit(url) as found:
        page = found.page
        page.wait_for_selector(READY)
        assert page.locator("#thumbs button").count() == 6
        page.locator("#slider").fill("20")
        assert page.evaluate("byId('left').style.clipPath") == "inset(0px 80% 0px 0px)"
        assert page.evaluate("byId('right').style.clipPath") == "inset(0px 0px 0px 20%)"
        left, right = (page.inner_text(f"#{side}-score") for side in ("left", "right"))
        page.select_option("#left-variant", "bold")
        page.select_option("#right-variant", "plain")
        assert (page.inner_text("#left-score"), page.inner_text("#right-score")) == (right, left) and left != right
        assert page.locator("#left .truth").count() == 1
        page.uncheck("#truth")
        assert page.locator("#left .truth").count() == 0
        before = page.get_attribute("#picture", "src")
        page.click("#thumbs button >> nth=3")
        assert page.get_attribute("#picture", "src") != before
        assert page.get_attribute("#thumbs button >> nth=3", "aria-pressed") == "true"
        found.assert_clean()


def test_names_are_shown_as_text_whatever_they_are(study: tuple[Path, list[StudyRun]], tmp_path: Path) -> None:
    folder, runs = study
    for run in runs:  # an image, too, may have any name
        path = folder / run.name / "per_image.csv"
        write_csv(path, [{**row, "id": HOSTILE + row["id"]} for row in read_csv(path)])
    results, part = read_results(folder, runs)
    results = [replace(result, run=replace(result.run, variant=f"{HOSTILE}{result.run.variant}")) for result in results]
    table = compare(results, part=part, metrics=["dice"])
    names = list(table.variants)
    states = [replace(state, run=replace(state.run, variant=HOSTILE)) for state in study_states(folder)]
    url = write_page(table, states, tmp_path / "page.html", title=HOSTILE, gallery=pictured(names))
    with visit(url) as found:
        page = found.page
        page.wait_for_selector(READY)
        assert page.title() == HOSTILE and page.inner_text("h1") == HOSTILE
        assert first_column(page, "comparison") == names
        assert HOSTILE in page.inner_text("#why") and page.locator("img[src=x]").count() == 0
        page.hover("#distributions .point >> nth=1", force=True)
        page.wait_for_timeout(300)
        assert page.title() == HOSTILE and page.locator("img[src=x]").count() == 0
        found.assert_clean()


def pictured(names: list[str]) -> Gallery:
    """A gallery of one image, called HOSTILE."""
    mask = np.ones((8, 8), bool)
    image = np.zeros((8, 8, 3), np.uint8)
    scores = dict.fromkeys(names, 0.5)
    picture = Picture(HOSTILE, image, mask, dict.fromkeys(names, mask), scores, names[1], 0.5, None)
    return Gallery([picture], names, {names[1]: 0.5}, None)
