"""Polyps on the wall of the colon, lit and framed as an endoscope does."""

import cv2
import numpy as np
from numpy.typing import NDArray

from src.data.synthetic.toolbox import Array, Blob, Canvas, Labels, Rng, curve, mix, step

_MUCOSA = np.array([[214, 120, 96], [226, 150, 122], [196, 96, 92], [222, 138, 140], [206, 128, 84]], np.float32) / 255


def draw_polyp(rng: Rng, canvas: Canvas) -> tuple[Array, Labels]:
    x, y = canvas.grid()
    lumen = Blob.random(rng, canvas.point(rng, 0.05), float(rng.uniform(0.08, 0.2)), 0.12, 1.6)
    depth = lumen.level(x, y) * lumen.radius + 0.015 * canvas.noise(rng, 5)  # distance from the lumen's centre
    folds = _folds(rng, canvas, depth)

    level = np.full(x.shape, np.inf, np.float32)
    dome = np.zeros(x.shape, np.float32)
    for blob in _polyp_outlines(rng, canvas, lumen):
        here = blob.level(x, y) + 0.03 * canvas.noise(rng, 9)
        bulge = (
            blob.radius * rng.uniform(0.5, 0.9) * np.clip(1 - np.abs(here) ** 2.5, 0, None) ** rng.uniform(0.5, 0.75)
        )
        dome, level = np.maximum(dome, bulge), np.minimum(level, here)
    inside = level < 1

    tone = rng.dirichlet(np.full(len(_MUCOSA), 0.5)).astype(np.float32) @ _MUCOSA
    image = _mucosa(rng, canvas, tone, level)
    height = dome + 0.012 * canvas.noise(rng, 5) + 0.0016 * canvas.noise(rng, 26)
    image = _light_mucosa(rng, canvas, image, height, folds, depth, lumen.radius, level)
    image, hidden = _endoscope_frame(rng, canvas, image, x, y)
    return image, (inside & ~hidden).astype(np.uint8)


def _folds(rng: Rng, canvas: Canvas, depth: Array) -> Array:
    """Light on the bowel wall: crescents around the lumen, each with a bright crest and the dark gap behind it."""
    phase = depth * rng.uniform(2.5, 4.5) + 0.12 * canvas.noise(rng, 3) + 0.03 * canvas.noise(rng, 9) + rng.uniform()
    outward = phase - np.floor(phase)  # 0 at a crest, towards 1 in the gap that the next crest hides
    profile = 0.25 * np.exp(-outward / 0.2) - 0.46 * np.exp((outward - 1) / 0.16)
    light = 1 + profile * np.clip(0.6 + 0.6 * canvas.noise(rng, 2.5), 0, 1.2)
    return np.asarray(cv2.GaussianBlur(light, (0, 0), 0.005 * canvas.unit + 0.2), np.float32)


def _polyp_outlines(rng: Rng, canvas: Canvas, lumen: Blob) -> list[Blob]:
    """One polyp, sometimes two, off the lumen (a few tries, then wherever the last try fell)."""
    outlines: list[Blob] = []
    for _ in range(1 if rng.random() < 0.75 else 2):
        radius = float(rng.uniform(0.13, 0.32)) / (1 + 0.5 * len(outlines))
        for _ in range(12):
            centre = canvas.point(rng, 0.27)
            if np.hypot(centre[0] - lumen.centre[0], centre[1] - lumen.centre[1]) > lumen.radius + 0.7 * radius:
                break
        outlines.append(Blob.random(rng, centre, radius, 0.1, 1.6))
    return outlines


def _mucosa(rng: Rng, canvas: Canvas, tone: Array, level: Array) -> Array:
    """Colour without light: vessels run in the wall and stop at the polyp, whose surface is finely pitted."""
    on_polyp = step(1 - level, 0.04)
    blotch = 0.03 * canvas.noise(rng, 4) + 0.015 * canvas.noise(rng, 14)
    image = tone + blotch[..., None] * np.array([0.6, 1, 1], np.float32)
    vessels = [curve(rng, canvas.point(rng), rng.uniform(0.15, 0.6), 1.6, rng.uniform(0, 2 * np.pi)) for _ in range(26)]
    network = canvas.strokes(vessels[:7], 0.008) + 0.8 * canvas.strokes(vessels[7:], 0.005)
    image = mix(image, tone * np.array([0.72, 0.45, 0.5], np.float32), 0.6 * network * (1 - on_polyp))
    pits = 0.045 * canvas.noise(rng, 32) + 0.03 * canvas.noise(rng, 55) + 0.03 * canvas.noise(rng, 9)
    redder = rng.uniform(0.02, 0.09) * np.array([0.4, -1, -0.8]) * (1 if rng.random() < 0.8 else -1)
    shift = redder + rng.normal(0, 0.012, 3)
    return image + (pits[..., None] * np.array([0.5, 1, 1], np.float32) + shift) * on_polyp[..., None]


def _light_mucosa(
    rng: Rng, canvas: Canvas, image: Array, height: Array, folds: Array, depth: Array, lumen: float, level: Array
) -> Array:
    smooth = cv2.GaussianBlur(height, (0, 0), 0.008 * canvas.unit + 0.2)
    slope_y, slope_x = (2.6 * np.tanh(slope / 2.6) for slope in np.gradient(smooth, 1 / canvas.unit))  # no ink line
    turn, tilt = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.7)
    length = np.sqrt(1 + np.square(slope_x) + np.square(slope_y))
    facing = (1 - tilt * (slope_x * np.cos(turn) + slope_y * np.sin(turn))) / (length * np.hypot(1, tilt))
    contact = np.exp(-np.abs(level - 1) / 0.1) * (level >= 1)  # the shadow line where the polyp meets the wall
    contact = contact * np.clip(0.5 + 0.25 * canvas.noise(rng, 3), 0.3, 0.75)
    distance_light = 0.55 + 0.6 * np.clip(depth / 0.7, 0, 1)  # the wall near the lumen is further away
    light = (0.25 + 0.95 * np.clip(facing, 0, None)) * (1 - contact)
    wall_light = distance_light * np.clip(folds, 0, None)
    light = light * np.where(level < 1, np.maximum(distance_light, 0.9), wall_light) * rng.uniform(0.7, 1.15)
    lit = image * cv2.GaussianBlur(light, (0, 0), 0.004 * canvas.unit + 0.2)[..., None]
    darkness = step(lumen - depth, 0.05) * (level >= 1)
    lit = mix(lit, np.array([0.13, 0.05, 0.04]), 0.93 * darkness)
    wet = 0.9 * canvas.noise(rng, 10) + 0.8 * canvas.noise(rng, 34) + 4.0 * (facing - 0.85)
    glints = step(wet - rng.uniform(1.9, 2.7), 0.25) * (1 - darkness)
    return mix(lit, (1.0, 0.98, 0.95), 0.95 * glints)


def _endoscope_frame(rng: Rng, canvas: Canvas, image: Array, x: Array, y: Array) -> tuple[Array, NDArray[np.bool_]]:
    """The black surround with cut corners, at times a position box and caption lines; True where the view is hidden."""
    across, down = canvas.extent
    dx, dy = np.abs(x - across / 2), np.abs(y - down / 2)
    side = min(across, down) / 2
    outside = np.maximum(dx - (across / 2 - 0.02), dy - (down / 2 - 0.02))
    corners = (dx - across / 2) + (dy - down / 2) + 2 * side * rng.uniform(0.15, 0.34)
    outside = np.maximum(outside, corners / np.sqrt(2))
    image = mix(image, (0.015, 0.015, 0.02), step(outside, 0.008))
    hidden = outside > 0
    if rng.random() < 0.35:
        box = (x < rng.uniform(0.22, 0.34)) & (y > down - rng.uniform(0.22, 0.34))
        green = rng.random() < 0.5
        image = np.where(box[..., None], np.array([0.06, 0.25, 0.16] if green else [0.01, 0.01, 0.01]), image)
        hidden = hidden | box
        if green:  # the drawing of the scope's loops
            loop = curve(rng, (0.05, down - 0.08), 0.3, 9.0, -0.8)
            image = mix(image, (0.4, 0.9, 0.6), canvas.strokes([loop], 0.012) * box)
    if rng.random() < 0.5:
        image = mix(image, (0.85, 0.85, 0.85), 0.9 * canvas.strokes(_caption(rng), 0.006))
    return image, hidden


def _caption(rng: Rng) -> list[Array]:
    """Short lines of letter-like strokes at the left border."""
    letters = []
    for row in 0.3 + 0.045 * np.arange(4):
        for column in 0.02 + 0.022 * np.arange(rng.integers(3, 8)):
            corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [0, 0.5], [1, 0.5]]) * (0.012, 0.022)
            letters.append(rng.permutation(corners)[:4] + np.array([column, row]))
    return letters
