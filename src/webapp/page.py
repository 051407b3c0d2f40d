"""The page itself: its parts, and what happens when one of them is touched."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from src.rois import PostProcess
from src.webapp import about, markup, session
from src.webapp.examples import Example
from src.webapp.guard import KEPT_S
from src.webapp.session import Drawn, Looker, Seen, Settings

SWEPT_S = 600  # and looked for this often
LOOKS = 2  # at once: while one decodes, the network may look at another's
REDRAWS = 4  # at once
WAITING = 64  # further requests that may wait, others are told to come later
SAVE = """(file) => {
    if (!file) return;
    const link = Object.assign(document.createElement("a"), {href: file.url, download: file.orig_name});
    document.body.append(link);
    link.click();
    link.remove();
}"""
FILE_KINDS = "JPEG, PNG, BMP, TIFF, WebP or DICOM"
BUTTONS = {"mask": "Download mask (PNG)", "crops": "Download crops (ZIP)", "table": "Download table (CSV)"}

Answer = dict[gr.blocks.Block, Any]


def theme() -> gr.themes.Base:
    """With the fonts of the reader's machine, and small text dark enough to be read (contrast above 7)."""
    made = gr.themes.Default(
        primary_hue="blue",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
        radius_size="sm",
    )
    return made.set(body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_300")


class Page:
    """Builds the page, `blocks`, around one network.

    `folder`: where what is made for download lies until it is fetched; Gradio's own folder, or it would copy it.
    """

    def __init__(self, looker: Looker, examples: Sequence[Example], folder: Path, *, mode: str = "full"):
        self.looker, self.folder, self.mode = looker, folder, mode
        with gr.Blocks(
            title=f"{looker.trained.name}: segment a picture",
            analytics_enabled=False,
            delete_cache=(SWEPT_S, KEPT_S),
            fill_width=True,  # page.css says how wide
        ) as self.blocks:
            self.seen, self.drawn = gr.State(), gr.State()
            gr.HTML(markup.heading(looker))
            with gr.Row(elem_classes="parts"):
                with gr.Column(elem_classes="part-picture"):
                    self._pictures(examples)
                with gr.Column(elem_classes="part-result"):
                    self._result()
                with gr.Column(elem_classes="part-settings"):
                    self._settings()
            with gr.Accordion("About this model", open=True):
                self.facts = gr.HTML(markup.model_card(looker, mode))
            self._events()
        self.blocks.queue(max_size=WAITING, default_concurrency_limit=REDRAWS)

    # ---- parts

    def _pictures(self, examples: Sequence[Example]) -> None:
        gr.HTML(markup.section("Picture", f"{FILE_KINDS}, or an example that a program drew"))
        self.file = gr.File(label="Your picture", elem_id="upload", height=140)
        with gr.Row(elem_classes="examples"):
            self.examples = [
                (gr.Button(example.title, icon=str(example.icon), size="sm"), example) for example in examples
            ]

    def _settings(self) -> None:
        gr.HTML(markup.section("Settings"))
        choices = [(text, name) for name, text in about.MODES.items()]
        self.mode_choice = gr.Radio(choices, value=self.mode, label="How the network looks", elem_id="mode")
        self.threshold = gr.Slider(
            0.01,
            0.99,
            value=self.looker.threshold(self.mode),
            step=0.01,
            label="Threshold",
            info="A pixel belongs to the mask if its probability is higher.",
            elem_id="threshold",
        )
        self.opacity = gr.Slider(0, 1, value=0.4, step=0.05, label="Opacity of the mask", elem_id="opacity")
        with gr.Accordion("Post-processing (off unless chosen)", open=False, elem_id="post"):
            self.fill_holes = gr.Checkbox(label="Fill holes", elem_id="fill-holes")
            self.largest_only = gr.Checkbox(label="Largest region only", elem_id="largest-only")
            self.min_area = gr.Number(
                0, minimum=0, precision=0, label="Drop regions smaller than (px)", elem_id="min-area"
            )

    def _result(self) -> None:
        gr.HTML(markup.section("Result"))
        self.status = gr.HTML(elem_id="status")
        self.pictures = gr.HTML(markup.EMPTY, elem_id="pictures")
        with gr.Row(elem_classes="downloads"):
            self.buttons = {
                name: gr.Button(text, interactive=False, size="sm", elem_id=f"save-{name}")
                for name, text in BUTTONS.items()
            }
        self.carriers = {name: gr.File(visible=False) for name in BUTTONS}
        self.table = gr.HTML(elem_id="rois")

    # ---- events

    def _events(self) -> None:
        options: dict[str, Any] = {"api_visibility": "private"}
        looks = options | {"concurrency_limit": LOOKS, "concurrency_id": "look", "show_progress_on": self.pictures}
        shown = [self.seen, self.drawn, self.status, self.pictures, self.table, *self.buttons.values()]
        settings: list[Any] = [self.threshold, self.fill_holes, self.min_area, self.largest_only]
        looking = [self.mode_choice, self.opacity, *settings]
        self.file.upload(self._sent, [self.file, *looking], shown, **looks)
        self.file.clear(self._cleared, None, shown, **options)
        for button, example in self.examples:
            button.click(self._example(example), looking, [*shown, self.file], **looks)
        self.mode_choice.input(self._other_mode, [self.seen, *looking], [*shown, self.threshold, self.facts], **looks)
        drawing = options | {"trigger_mode": "always_last", "show_progress": "hidden"}
        drawn = [self.drawn, self.status, self.pictures, self.table, *self.buttons.values()]
        gr.on(
            [self.threshold.change, self.fill_holes.change, self.min_area.change, self.largest_only.change],
            self._redraw,
            [self.seen, self.drawn, self.opacity, *settings],
            drawn,
            **drawing,
        )
        self.opacity.change(self._recolour, [self.seen, self.drawn, self.opacity], self.pictures, **drawing)
        for name, button in self.buttons.items():
            carrier = self.carriers[name]
            made = button.click(self._download(name), [self.seen, *settings], [carrier, self.status], **options)
            made.success(None, carrier, None, js=SAVE, **options)

    # ---- what they answer

    def _sent(self, path: str | None, mode: str, opacity: float, *settings: Any) -> Answer:
        if path is None:
            return self._cleared()
        return self._look(Path(path), markup.short_name(path), mode, opacity, _settings(*settings))

    def _example(self, example: Example) -> Callable[..., Answer]:
        def look(mode: str, opacity: float, *settings: Any) -> Answer:
            answer = self._look(example.path, example.path.name, mode, opacity, _settings(*settings))
            return {**answer, self.file: None}

        return look

    def _other_mode(self, seen: Seen | None, mode: str, opacity: float, *settings: Any) -> Answer:
        """The same picture, looked at in another way, and cut where that way is."""
        threshold = self.looker.threshold(mode)
        answer: Answer = {self.threshold: threshold, self.facts: markup.model_card(self.looker, mode)}
        if seen is None:
            return answer
        if not seen.path.is_file():
            return answer | self._cleared(f"{seen.name} is no longer kept here. Send it again.")
        wanted = replace(_settings(*settings), threshold=threshold)
        return answer | self._look(seen.path, seen.name, mode, opacity, wanted)

    def _look(self, path: Path, name: str, mode: str, opacity: float, settings: Settings) -> Answer:
        begun = time.perf_counter()
        try:
            seen = self.looker.look(path, name, mode)
        except ValueError as error:
            return self._cleared(str(error))
        seen = replace(seen, seconds=time.perf_counter() - begun)
        drawn = session.draw(seen, settings)
        return {self.seen: seen, **self._shown(seen, drawn, opacity)}

    def _redraw(self, seen: Seen | None, drawn: Drawn | None, opacity: float, *settings: Any) -> Answer:
        wanted = _settings(*settings)
        if seen is None or (drawn and drawn.settings == wanted):  # the page itself moved the slider to where it is
            return {self.drawn: gr.skip()}
        return self._shown(seen, session.draw(seen, wanted), opacity)

    def _recolour(self, seen: Seen | None, drawn: Drawn | None, opacity: float) -> Any:
        return markup.pictures(seen, drawn, opacity) if seen and drawn else gr.skip()

    def _shown(self, seen: Seen, drawn: Drawn, opacity: float) -> Answer:
        return {
            self.drawn: drawn,
            self.status: markup.status(seen, drawn),
            self.pictures: markup.pictures(seen, drawn, opacity),
            self.table: markup.table(seen, drawn),
            **self._downloads(not drawn.too_many),
        }

    def _downloads(self, are_possible: bool) -> Answer:
        return {button: gr.update(interactive=are_possible) for button in self.buttons.values()}

    def _cleared(self, message: str = "") -> Answer:
        """Nothing to see, but perhaps why."""
        empty = "" if message else markup.EMPTY
        answer: Answer = {self.seen: None, self.drawn: None, self.pictures: empty, self.table: ""}
        answer[self.status] = markup.message(message) if message else ""
        return answer | self._downloads(False)

    def _download(self, name: str) -> Callable[..., Answer]:
        carrier = self.carriers[name]

        def make(seen: Seen | None, *settings: Any) -> Answer:
            if seen is None:
                return {carrier: None}
            wanted = _settings(*settings)
            try:
                suffix, content = _content(name, self.looker, seen, wanted)
            except ValueError as error:
                return {carrier: None, self.status: markup.message(str(error))}
            path = Path(tempfile.mkdtemp(dir=self.folder)) / f"{seen.stem}_{name}{suffix}"
            path.write_bytes(content)
            return {carrier: str(path)}

        return make


def _content(name: str, looker: Looker, seen: Seen, settings: Settings) -> tuple[str, bytes]:
    """Suffix and content of a download."""
    if name == "mask":
        return ".png", session.mask_png(seen, settings)
    if name == "crops":
        return ".zip", session.crops_zip(looker, seen, settings)
    return ".csv", session.table_csv(seen, settings).encode()


def _settings(threshold: float, fill_holes: bool, min_area: float | None, largest_only: bool) -> Settings:
    """Of what the page's parts say; an emptied field of numbers says None."""
    post = PostProcess(fill_holes=bool(fill_holes), min_area=int(min_area or 0), largest_only=bool(largest_only))
    return Settings(float(threshold), post)
