"""What the page shows, as HTML. Every text goes through `escape`, whoever wrote it."""

import base64
import re
from html import escape
from pathlib import Path

from src.figures import jpeg_url
from src.rois import Roi
from src.webapp.about import RESEARCH, facts, headline
from src.webapp.session import Drawn, Looker, Seen, megapixels, shown, too_many

CSS = (Path(__file__).with_name("page.css")).read_text(encoding="utf-8")
COLUMNS = (
    *("ROI", "Box x, y", "Box w x h", "Area", "Centroid x, y", "Diameter", "Eccentricity", "Solidity"),
    "Confidence",
)
EMPTY = '<p class="hint">Send a picture, or take one of the examples: its mask and the regions found appear here.</p>'


def heading(looker: Looker) -> str:
    return (
        f'<header class="head"><h1>Segment a picture</h1><p>{escape(headline(looker.trained))}</p>'
        f'<p class="research" role="note">{escape(RESEARCH)}</p></header>'
    )


def section(title: str, more: str = "") -> str:
    said = f'<p class="small">{escape(more)}</p>' if more else ""
    return f'<h2 class="section">{escape(title)}</h2>{said}'


def model_card(looker: Looker, mode: str) -> str:
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts(looker, mode))
    return f'<dl class="facts">{rows}</dl>'


def message(text: str) -> str:
    """What went wrong."""
    return f'<p class="message" role="alert">{escape(text)}</p>'


def status(seen: Seen, drawn: Drawn) -> str:
    """What was found, in a sentence; what went wrong in another."""
    number = drawn.number
    found = f"{number:,} region{'s' * (number != 1)}" if number else "Nothing"
    sentence = (
        f'<p class="found" role="status"><b>{found} found</b> in <b>{escape(seen.name)}</b>, '
        f"{megapixels(seen.shape)}: {drawn.share:.1%} of it above {drawn.settings.threshold:g}. "
        f"It took {seen.seconds:.2g} s.</p>"
    )
    return sentence + (message(too_many(number)) if drawn.too_many else "")


def pictures(seen: Seen, drawn: Drawn, opacity: float) -> str:
    """The overlay and the mask, as pictures in the page itself: no file of them lies on the server."""
    told = f"{drawn.number} regions, {drawn.share:.1%} of the picture"
    overlay, mask = shown(seen, drawn, opacity), _png_url(drawn.small)
    height, width = overlay.shape[:2]
    note = "" if (height, width) == seen.shape else f", shown at {width} x {height} px; downloads have all pixels"
    return (
        '<div class="pictures">'
        + _figure("overlay", jpeg_url(overlay), f"{seen.name} with its mask in red: {told}")
        + _figure("mask", mask, f"Mask of {seen.name}: {told}", note)
        + "</div>"
    )


def _figure(name: str, url: str, alt: str, note: str = "") -> str:
    title = {"overlay": "Picture and mask", "mask": "Mask"}[name]
    return (
        f'<figure><img id="{name}" src="{url}" alt="{escape(alt)}">'
        f"<figcaption>{title}{escape(note)}</figcaption></figure>"
    )


def _png_url(file: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(file).decode()


def table(seen: Seen, drawn: Drawn) -> str:
    """The objects, the largest first."""
    if not drawn.rois:
        return ""
    head = "".join(f'<th scope="col">{name}</th>' for name in COLUMNS)
    body = "".join(f"<tr>{_cells(roi)}</tr>" for roi in drawn.rois)
    more = f"The {len(drawn.rois)} largest of {drawn.number:,}; the CSV file has all. " * (
        drawn.number > len(drawn.rois)
    )
    area = "Area in px and mm²" if seen.spacing else "Lengths in px: the file does not say how large a pixel is"
    caption = f"{more}{area}. Confidence: mean (lowest) probability."
    return (
        f'<p id="roi-words" class="small">{caption}</p>'
        '<div class="scroll" tabindex="0" role="region" aria-label="Table of regions">'
        f'<table id="roi-table" aria-describedby="roi-words"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cells(roi: Roi) -> str:
    x, y, width, height = roi.bbox
    area = f"{roi.area_px:,}" if roi.area is None else f"{roi.area_px:,} px, {roi.area:.4g} mm²"
    unit = "" if roi.area is None else " mm"
    texts = (
        f"{x}, {y}",
        f"{width} x {height}",
        area,
        f"{roi.centroid[0]:.1f}, {roi.centroid[1]:.1f}",
        f"{roi.equivalent_diameter:.4g}{unit}",
        f"{roi.eccentricity:.2f}",
        f"{roi.solidity:.2f}",
        f"{roi.confidence_mean:.3f} ({roi.confidence_min:.3f})",
    )
    return f'<th scope="row">{roi.id}</th>' + "".join(f"<td>{text}</td>" for text in texts)


def short_name(name: str) -> str:
    """A file's name as it is shown: without folders and control characters, at most 80 signs."""
    plain = re.sub(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", "", Path(name).name).strip()
    return plain if len(plain) <= 80 else f"{plain[:50]}...{plain[-27:]}"
