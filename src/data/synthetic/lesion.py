"""Skin lesions, pigmented or pale, under a dermoscope, with the hair, gel and stickers that come with them."""

import cv2
import numpy as np
from numpy.typing import NDArray

from src.data.synthetic.toolbox import Array, Blob, Canvas, Labels, Rng, curve, ellipses, mix, pick, step

_SKIN = np.array([[226, 182, 164], [214, 158, 128], [240, 212, 202], [176, 124, 98], [196, 178, 196]], np.float32) / 255
_PIGMENT = np.array([[124, 68, 42], [66, 42, 38], [170, 84, 70], [98, 88, 104], [150, 92, 58]], np.float32) / 255
_PALE = np.array([[250, 232, 224], [246, 214, 204], [240, 226, 206]], np.float32) / 255
_STICKERS = np.array([[240, 214, 20], [30, 90, 190], [40, 150, 90], [40, 30, 50], [220, 80, 60]], np.float32) / 255


def draw_lesion(rng: Rng, canvas: Canvas) -> tuple[Array, Labels]:
    x, y = canvas.grid()
    skin_tone = rng.dirichlet(np.full(len(_SKIN), 0.4)).astype(np.float32) @ _SKIN
    texture = 0.012 * canvas.noise(rng, 6) + 0.014 * canvas.noise(rng, 40) + 0.010 * canvas.noise(rng, 90)
    redness = 0.02 * canvas.noise(rng, 5)[..., None] * np.array([1, -1, -0.6], np.float32)
    image = skin_tone + texture[..., None] + redness

    pale = rng.random() < 0.25
    distance = _lesion_distance(rng, canvas, x, y)
    if rng.random() < 0.5:
        image = _add_freckles(rng, canvas, image, pale)
    image = _paint_lesion(rng, canvas, image, distance, pale)
    covered = np.zeros((canvas.height, canvas.width), bool)
    if rng.random() < 0.25:
        image, covered = _add_sticker(rng, canvas, image, distance, x, y)
    image = _add_skin_clutter(rng, canvas, image, x, y)
    image, unlit = _light_skin(rng, canvas, image, x, y)
    return image, ((distance < 0) & ~covered & ~unlit).astype(np.uint8)


def _lesion_distance(rng: Rng, canvas: Canvas, x: Array, y: Array) -> Array:
    """Roughly the signed distance to the border, negative inside."""
    centre = canvas.point(rng, 0.36)
    radius = float(rng.uniform(0.15, 0.36))
    level = Blob.random(rng, centre, radius, 0.16, 1.7).level(x, y)
    if rng.random() < 0.4:  # a second lobe makes the outline less egg-like
        turn = rng.uniform(0, 2 * np.pi)
        lobe_centre = (centre[0] + 0.8 * radius * np.cos(turn), centre[1] + 0.8 * radius * np.sin(turn))
        level = np.minimum(level, Blob.random(rng, lobe_centre, 0.6 * radius, 0.16, 1.5).level(x, y))
    ragged = rng.uniform(0.2, 1.0) * (0.05 * canvas.noise(rng, 9) + 0.03 * canvas.noise(rng, 22))
    return (level - 1 + ragged) * radius


def _paint_lesion(rng: Rng, canvas: Canvas, image: Array, distance: Array, pale: bool) -> Array:
    palette = _PALE if pale else _PIGMENT
    first, second, third = palette[rng.integers(len(palette), size=3)]
    body = mix(np.broadcast_to(first, image.shape), second, step(canvas.noise(rng, 4), 0.9))
    core = step(-distance - rng.uniform(0.04, 0.12) + 0.03 * canvas.noise(rng, 9), 0.05)
    body = mix(body, third * (1.0 if pale else 0.7), 0.8 * core)
    network = np.clip(1 - 1.8 * np.abs(canvas.noise(rng, 44) + 0.4 * canvas.noise(rng, 12)), 0, 1)  # thin ridges
    globules = step(canvas.noise(rng, 34) - rng.uniform(1.0, 2.2), 0.3)
    body = body * (1 - (rng.uniform(0.08, 0.28) * network + 0.25 * globules)[..., None])
    if pale:
        body = body + 0.07 * canvas.noise(rng, 36)[..., None]  # scale
    strength = float(rng.uniform(0.6, 0.95))
    patchy = np.clip(strength + 0.12 * canvas.noise(rng, 7), 0.45, 1)
    softness = float(rng.uniform(0.008, 0.028))
    image = mix(image, body, patchy * step(-distance, softness))
    rim = np.exp(-np.square((distance - 0.012) / 0.02)) * rng.uniform(0.12, 0.4) * (1.6 if pale else 1.0)
    return image * (1 - rim[..., None] * np.array([0.1, 0.5, 0.5], np.float32))  # inflamed halo


def _add_freckles(rng: Rng, canvas: Canvas, image: Array, pale: bool) -> Array:
    """Small spots of lesion colour that are not the lesion."""
    count = int(rng.integers(4, 14))
    centres = np.array([canvas.point(rng) for _ in range(count)])
    sizes = rng.uniform(0.006, 0.02, count)
    spots = ellipses(centres, sizes * rng.uniform(1, 1.6, count), sizes, rng.uniform(0, np.pi, count))
    layer = canvas.polygons(spots, rng.uniform(0.3, 0.8, count))
    palette = _PALE if pale else _PIGMENT
    soft = cv2.GaussianBlur(layer, (0, 0), 0.006 * canvas.unit + 0.3).astype(np.float32)
    return mix(image, pick(rng, palette), soft)


def _add_sticker(
    rng: Rng, canvas: Canvas, image: Array, distance: Array, x: Array, y: Array
) -> tuple[Array, NDArray[np.bool_]]:
    """A coloured disc reaching in from a corner of the picture; it may not hide the middle of the lesion."""
    corner = (rng.integers(2) * canvas.extent[0], rng.integers(2) * canvas.extent[1])
    room = float(np.hypot(x - corner[0], y - corner[1])[distance < 0].min(initial=0.45))
    disc = np.hypot(x - corner[0], y - corner[1]) - min(room + 0.02, rng.uniform(0.2, 0.45))
    shade = pick(rng, _STICKERS) * (1 + 0.04 * canvas.noise(rng, 8)[..., None])
    return mix(image, shade, step(-disc, 0.006)), disc < 0


def _add_skin_clutter(rng: Rng, canvas: Canvas, image: Array, x: Array, y: Array) -> Array:
    if rng.random() < 0.65:  # hair
        main = rng.uniform(0, 2 * np.pi)
        hairs = [
            curve(rng, canvas.point(rng, -0.1), rng.uniform(0.3, 1.0), 0.8, main + rng.normal(0, 0.5))
            for _ in range(int(rng.integers(3, 18)))
        ]
        tone = np.array([0.16, 0.11, 0.09]) if rng.random() < 0.8 else np.array([0.86, 0.74, 0.58])
        image = mix(image, tone, 0.85 * canvas.strokes(hairs, rng.uniform(0.003, 0.007)))
    if rng.random() < 0.35:  # bubbles in the contact gel: a bright ring and a glint
        for _ in range(int(rng.integers(2, 8))):
            cx, cy = canvas.point(rng)
            radius = rng.uniform(0.012, 0.045)
            offset = np.hypot(x - cx, y - cy)
            ring = np.exp(-np.square((offset - radius) / 0.006))
            glint = np.exp(-np.square(np.hypot(x - cx + 0.4 * radius, y - cy + 0.4 * radius) / (0.25 * radius)))
            image = mix(image, (1, 1, 1), 0.4 * ring + 0.55 * glint * (offset < radius))
    if rng.random() < 0.25:
        image = mix(image, (0.12, 0.1, 0.12), 0.8 * canvas.strokes(_ruler(rng, canvas), 0.006))
    return image


def _ruler(rng: Rng, canvas: Canvas) -> list[Array]:
    across, down = canvas.extent
    base, start = down * rng.uniform(0.86, 0.95), across * rng.uniform(0.05, 0.3)
    ticks = start + np.arange(14) * 0.045
    tall = np.where(np.arange(14) % 5 == 0, 0.05, 0.025)
    lines = [np.array([[t, base], [t, base - h]], np.float32) for t, h in zip(ticks, tall, strict=True)]
    return [*lines, np.array([[ticks[0], base], [ticks[-1], base]], np.float32)]


def _light_skin(rng: Rng, canvas: Canvas, image: Array, x: Array, y: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Uneven light, vignette, colour cast, and at times the black rim of the dermoscope (True where it hides)."""
    across, down = canvas.extent
    turn, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 0.6)
    ramp = slope * ((x - across / 2) * np.cos(turn) + (y - down / 2) * np.sin(turn))
    offset = np.hypot((x - across / 2) / across, (y - down / 2) / down)
    light = rng.uniform(0.62, 1.08) * (1 + ramp) * (1 - rng.uniform(0, 0.9) * np.square(offset))
    image = image * light[..., None] * rng.uniform(0.9, 1.08, 3).astype(np.float32)
    if rng.random() < 0.6:
        return image, np.zeros(image.shape[:2], bool)
    outside = offset - rng.uniform(0.5, 0.6)
    return mix(image, (0.03, 0.02, 0.03), step(outside, 0.012)), outside > 0
