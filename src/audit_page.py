"""The page of an audit: one HTML file with its pictures inside, nothing fetched."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from src.data.decode import read_mask
from src.data.duplicates import CERTAIN, PICTURE
from src.data.findings import GROUPS, LEAK, NOTE, PUBLISHED, PUBLISHED_SO, SEVERITIES, has_speck, tally
from src.figures import TRUTH, jpeg_url, outline, shrink

if TYPE_CHECKING:
    from src.audit import Audit
    from src.data.findings import Finding
    from src.data.survey import Look

PAIRS, MASKS = 60, 8  # pictures of one kind at most; the JSON file has all
BINS = 20  # of the lesion area, each 5 %


def page(audit: "Audit") -> str:
    """Ids and file names are escaped: they are whatever somebody called a file."""
    folder = Path(__file__).parent
    environment = Environment(loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined)
    seen = [look for look in audit.looks if look.area is not None]
    by_area = sorted(seen, key=lambda look: look.area or 0)
    shown = {
        "Empty or full": [look for look in seen if look.area in (0, 1)],
        "Smallest": [look for look in by_area if look.area],
        "Largest": by_area[::-1],
        "With specks": [look for look in seen if has_speck(look)],
        "Most holes": sorted((look for look in seen if look.holes), key=lambda look: -look.holes),
        "Most objects": sorted((look for look in seen if look.objects > 1), key=lambda look: -look.objects),
    }
    of = {severity: audit.of(severity) for severity in SEVERITIES}
    groups = {s: [f for f in of[s] if f.kind in GROUPS] for s in (LEAK, PUBLISHED)}  # pictures of these prove nothing
    pairs = {s: [f for f in of[s] if len(f.images) == 2 and f.kind not in GROUPS] for s in (LEAK, PUBLISHED, NOTE)}
    return environment.get_template("audit_page.html.j2").render(
        audit=audit,
        of=of,
        pairs={severity: [_shown(f, audit) for f in found[:PAIRS]] for severity, found in pairs.items()},
        more={severity: max(0, len(found) - PAIRS) for severity, found in pairs.items()},
        groups=groups,
        tally={severity: tally(found) for severity, found in of.items()},
        published_so=PUBLISHED_SO,
        certain=CERTAIN,
        in_train=sum(all(part == "train" for _, part in f.images) for f in pairs[NOTE]),
        texts=[finding for finding in of["note"] if len(finding.images) < 2],
        masks={title: [_outlined(look, audit) for look in looks[:MASKS]] for title, looks in shown.items() if looks},
        bars=_bars(seen),
        tables={
            "Size (height x width)": _counted(f"{look.height} x {look.width}" for look in audit.looks if look.height),
            "Image files": _counted(f"{look.format} {look.mode}" for look in audit.looks if look.format),
            "Mask files": _counted(f"{look.mask_format} {look.mask_mode}" for look in audit.looks if look.mask_format),
            "Mask values": _counted(look.mask_kind for look in audit.looks if look.mask_kind),
            "Objects per mask": _counted(str(look.objects) for look in seen),
            "Lesion touches the border": _counted("yes" if look.touches_border else "no" for look in seen),
        },
    )


def _shown(finding: "Finding", audit: "Audit") -> dict[str, Any]:
    return {"finding": finding, "images": [(id_, part, _jpeg(audit.picture(id_))) for id_, part in finding.images]}


def _outlined(look: "Look", audit: "Audit") -> tuple["Look", str]:
    pair = audit.source.pairs[look.id]
    image, mask = shrink(audit.picture(look.id), PICTURE), read_mask(pair.mask, audit.source.foreground)
    small_mask = cv2.resize(mask, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return look, _jpeg(outline(image, small_mask, TRUTH))


def _jpeg(image: np.ndarray) -> str:
    return jpeg_url(shrink(image, PICTURE))


def _bars(looks: "Sequence[Look]") -> list[tuple[str, int, float]]:
    """Range of the area in %, count, and height relative to the highest."""
    counts, edges = np.histogram(np.array([look.area for look in looks], float), bins=BINS, range=(0, 1))
    highest = max(1, counts.max())
    names = [f"{100 * low:.0f} to {100 * high:.0f} %" for low, high in pairwise(edges)]
    return [(name, int(count), float(count / highest)) for name, count in zip(names, counts, strict=True)]


def _counted(values: Iterable[str]) -> list[tuple[str, int]]:
    """The ten most frequent, the others together."""
    counts = Counter(values)
    rest = counts.total() - sum(count for _, count in counts.most_common(10))
    return counts.most_common(10) + ([(f"{len(counts) - 10} others", rest)] if rest else [])
