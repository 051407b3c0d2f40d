"""Glands in tissue stained with haematoxylin and eosin, each with a number of its own in the mask."""

import numpy as np

from src.data.synthetic.toolbox import Array, Blob, Canvas, Labels, Rng, ellipses, step

# optical density per channel: of the blue-purple nuclear stain, of the pink stain of everything else
_HAEMATOXYLIN = np.array([0.65, 0.85, 0.32], np.float32)
_EOSIN = np.array([0.10, 0.80, 0.36], np.float32)
_PLACING_CELLS = 64  # glands are fitted together on this fixed grid, so the layout does not depend on the image size


def draw_gland(rng: Rng, canvas: Canvas) -> tuple[Array, Labels]:
    x, y = canvas.grid()
    glands = _place_glands(rng, canvas)
    labels = np.zeros(x.shape, np.uint16)
    level = np.full(x.shape, np.inf, np.float32)
    openness = np.zeros(x.shape, np.float32)  # where the lumen begins, in units of level
    lumen_size = float(rng.uniform(0.3, 0.6))
    for number, gland in enumerate(glands, start=1):
        window = _window(canvas, gland)
        here = gland.level(x[window], y[window])
        closer = here < level[window]
        level[window] = np.where(closer, here, level[window])
        openness[window] = np.where(closer, lumen_size * rng.uniform(0.2, 1.25), openness[window])
        labels[window][closer & (here < 1)] = number

    nuclei, eosin = _stain(rng, canvas, x, y, glands, level, openness)
    hue = rng.normal(0, 0.05, (2, 3)).astype(np.float32)
    amount_h, amount_e = rng.uniform(0.7, 1.6), rng.uniform(0.4, 1.1)
    density = nuclei[..., None] * amount_h * (_HAEMATOXYLIN + hue[0]) + eosin[..., None] * amount_e * (_EOSIN + hue[1])
    return np.exp(-np.clip(density, 0, None)) * rng.uniform(0.86, 1.0), labels


def _place_glands(rng: Rng, canvas: Canvas) -> list[Blob]:
    """Fit glands together until the wanted share of the tissue is taken. Centres stay inside the picture, so a gland
    cut by the border remains one piece."""
    columns, rows = (round(side * _PLACING_CELLS) for side in canvas.extent)
    x, y = Canvas(rows, columns).grid()
    taken = np.zeros(x.shape, bool)
    wanted, typical = rng.uniform(0.22, 0.44), rng.uniform(0.11, 0.19)
    glands: list[Blob] = []
    for attempt in range(90):
        radius = float(typical * rng.uniform(0.75, 1.3) * (1 - 0.4 * attempt / 90))
        gland = Blob.random(rng, canvas.point(rng, 0.01), radius, 0.14, 1.9)
        level = gland.level(x, y)
        if np.any(taken & (level < 1 + 0.022 / radius)):
            continue
        taken |= level < 1
        glands.append(gland)
        if taken.mean() > wanted:
            break
    return glands


def _window(canvas: Canvas, gland: Blob) -> tuple[slice, slice]:
    """The part of the picture one gland can reach; drawing only there keeps many glands cheap."""
    reach = gland.radius * np.sqrt(gland.aspect) * 1.9
    low = [max(0, int((c - reach) * canvas.unit)) for c in gland.centre]
    high = [int((c + reach) * canvas.unit) + 2 for c in gland.centre]
    return slice(low[1], high[1]), slice(low[0], high[0])


def _stain(
    rng: Rng, canvas: Canvas, x: Array, y: Array, glands: list[Blob], level: Array, openness: Array
) -> tuple[Array, Array]:
    """How much nuclear stain and how much eosin each place takes up."""
    turn = rng.uniform(0, np.pi)
    along = x * np.cos(turn) + y * np.sin(turn) + 0.05 * canvas.noise(rng, 4)
    waves = np.sin(2 * np.pi * rng.uniform(12, 24) * along + 2.5 * canvas.noise(rng, 9))
    fibres = 0.5 + 0.5 * waves * np.clip(0.5 + 0.5 * canvas.noise(rng, 6), 0, 1)
    eosin = 0.5 + 0.35 * fibres + 0.1 * canvas.noise(rng, 24) + 0.1 * canvas.noise(rng, 50)
    tears = step(canvas.noise(rng, 5) + 0.5 * canvas.noise(rng, 14) - rng.uniform(1.2, 2.2), 0.15) * (fibres > 0.2)
    eosin = eosin * (1 - 0.9 * tears)  # white gaps in the stroma look like lumen

    inside = step(1 - level, 0.05)
    ragged = level + 0.05 * canvas.noise(rng, 18)
    lumen = step(openness - ragged, 0.05) * inside
    vacuoles = step(canvas.noise(rng, 26) - 0.3, 0.5) * rng.uniform(0.1, 0.7)
    cytoplasm = 0.42 * (1 - vacuoles) + 0.05 * canvas.noise(rng, 40)
    secretion = rng.uniform(0, 0.3) * np.clip(canvas.noise(rng, 6), 0, 1)
    eosin = eosin * (1 - inside) + inside * ((1 - lumen) * cytoplasm + lumen * secretion)

    scattered = _scattered_nuclei(rng, canvas, glands, level, turn + np.pi / 2)
    haze = inside * (1 - lumen) * np.clip(0.22 + 0.5 * (level - 0.7), 0.08, 0.4)  # epithelium is bluish
    nuclei = np.maximum(scattered * (1 - inside), _lining_nuclei(rng, canvas, glands) * inside)
    return np.maximum(nuclei, haze), np.clip(eosin, 0, None)


def _lining_nuclei(rng: Rng, canvas: Canvas, glands: list[Blob]) -> Array:
    """Elongated nuclei side by side along the outer wall of each gland, pointing at its lumen."""
    shapes: list[Array] = [np.zeros((0, 10, 2))]
    for gland in glands:
        count = int(2 * np.pi * gland.radius / 0.0155)
        theta = (np.arange(count) + rng.uniform(-0.3, 0.3, count)) * 2 * np.pi / count
        size = 0.019 * rng.uniform(0.8, 1.2, count)
        middle = 1 - (0.024 + 0.010 * rng.uniform(-1, 1, count)) / gland.radius
        outer, inner = gland.points(theta, middle + 0.01), gland.points(theta, middle - 0.01)
        direction = np.arctan2(outer[:, 1] - inner[:, 1], outer[:, 0] - inner[:, 0])
        shapes.append(ellipses(gland.points(theta, middle), size, 0.42 * size, direction))
    corners = np.concatenate(shapes)
    return canvas.polygons(corners, rng.uniform(0.6, 1.0, len(corners)))


def _scattered_nuclei(rng: Rng, canvas: Canvas, glands: list[Blob], level: Array, along: float) -> Array:
    """Nuclei of the stroma: spindles that follow the fibres, and crowds of small round inflammatory cells."""
    across, down = canvas.extent
    spindles, crowds = int(rng.integers(60, 240) * across * down), int(rng.integers(0, 7))
    centres = [rng.uniform(0, 1, (spindles, 2)) * canvas.extent]
    centres += [rng.normal(canvas.point(rng), rng.uniform(0.03, 0.09), (45, 2)) for _ in range(crowds)]
    where = np.concatenate(centres)
    is_round = np.arange(len(where)) >= spindles
    long = np.where(is_round, 0.009, 0.016) * rng.uniform(0.8, 1.3, len(where))
    short = np.where(is_round, 0.8, 0.35) * long
    shapes = ellipses(where, long, short, along + rng.normal(0, 0.35, len(where)))
    return canvas.polygons(shapes, rng.uniform(0.5, 1.0, len(where)))
