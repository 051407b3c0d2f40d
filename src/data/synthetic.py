"""Generated images with known masks: skin lesions, polyps in the colon, glands in stained tissue.

Everything is drawn from a seeded generator, so the data set needs no download and never changes. Shapes live in
relative coordinates (1.0 = the shorter image side), so a small picture is the small version of a large one.
Brightness, tint and polarity vary between images on purpose: no threshold solves the task, shape and texture do.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

KINDS = ("lesion", "polyp", "gland")

Array = NDArray[np.floating]
Labels = NDArray[np.unsignedinteger]
Rng = np.random.Generator

MIN_SIDE = 32
_SUBPIXEL_BITS = 4  # OpenCV draws with fixed-point coordinates: 1/16 pixel
_GREY = np.array([0.299, 0.587, 0.114], np.float32)


# ---------------------------------------------------------------------------------------------- drawing toolbox


@dataclass(frozen=True)
class Canvas:
    """Pixel grid in relative coordinates: x, y are (H, W) float32, 1.0 is the shorter side."""

    height: int
    width: int

    @property
    def unit(self) -> int:
        return min(self.height, self.width)

    @property
    def extent(self) -> tuple[float, float]:
        return self.width / self.unit, self.height / self.unit

    def grid(self) -> tuple[Array, Array]:
        xs = (np.arange(self.width, dtype=np.float32) + 0.5) / self.unit
        ys = (np.arange(self.height, dtype=np.float32) + 0.5) / self.unit
        x, y = np.meshgrid(xs, ys)
        return x, y

    def point(self, rng: Rng, margin: float = 0.0) -> tuple[float, float]:
        """A random place, `margin` (relative to each side) away from the border."""
        fx, fy = rng.uniform(margin, 1 - margin, 2)
        return float(fx * self.extent[0]), float(fy * self.extent[1])

    def noise(self, rng: Rng, cells: float) -> Array:
        """Smooth noise of about unit variance with `cells` bumps along the shorter side."""
        cols, rows = (int(np.ceil(cells * side)) + 2 for side in self.extent)
        coarse = rng.standard_normal((rows, cols), np.float32)
        scale = self.unit / cells
        full = (max(self.width, int(np.ceil(cols * scale))), max(self.height, int(np.ceil(rows * scale))))
        fine = cv2.resize(coarse, full, interpolation=cv2.INTER_CUBIC if scale >= 1 else cv2.INTER_AREA)
        return np.ascontiguousarray(fine[: self.height, : self.width], dtype=np.float32)

    def strokes(self, paths: Iterable[Array], width: float) -> Array:
        """Anti-aliased open curves as coverage in 0..1; strokes thinner than a pixel fade instead of growing."""
        layer = np.zeros((self.height, self.width), np.uint8)
        pixels = width * self.unit
        fixed = [self._fixed_point(path) for path in paths]
        level = 255 * min(1.0, pixels)
        cv2.polylines(layer, fixed, False, level, max(1, round(pixels)), cv2.LINE_AA, _SUBPIXEL_BITS)
        return layer.astype(np.float32) / 255

    def polygons(self, corners: Array, levels: Array) -> Array:
        """Filled convex polygons (n, k, 2), each with its own level in 0..1; later ones cover earlier ones."""
        layer = np.zeros((self.height, self.width), np.uint8)
        for polygon, level in zip(self._fixed_point(corners), levels * 255, strict=True):
            cv2.fillConvexPoly(layer, polygon, float(level), cv2.LINE_AA, _SUBPIXEL_BITS)
        return layer.astype(np.float32) / 255

    def _fixed_point(self, points: Array) -> NDArray[np.int32]:
        return np.round((np.asarray(points) * self.unit - 0.5) * 2**_SUBPIXEL_BITS).astype(np.int32)


@dataclass(frozen=True)
class Blob:
    """A star-shaped outline: an ellipse whose radius wobbles with the angle."""

    centre: tuple[float, float]
    radius: float
    aspect: float
    angle: float
    waves: tuple[tuple[int, float, float], ...]  # (frequency, amplitude, phase)

    @classmethod
    def random(cls, rng: Rng, centre: tuple[float, float], radius: float, wobble: float, stretch: float) -> Blob:
        waves = tuple((k, float(wobble * rng.normal() / k), float(rng.uniform(0, 2 * np.pi))) for k in (2, 3, 4, 5))
        return cls(centre, radius, float(rng.uniform(1, stretch)), float(rng.uniform(0, np.pi)), waves)

    def outline(self, theta: Array) -> Array:
        wobble = sum(amplitude * np.cos(k * theta + phase) for k, amplitude, phase in self.waves)
        return np.clip(1 + wobble, 0.6, 1.5).astype(np.float32)

    def level(self, x: Array, y: Array) -> Array:
        """0 at the centre, 1 on the outline, above 1 outside."""
        dx, dy = x - self.centre[0], y - self.centre[1]
        cos, sin, root = np.cos(self.angle), np.sin(self.angle), np.sqrt(self.aspect)
        u = ((dx * cos + dy * sin) / (self.radius * root)).astype(np.float32)
        v = ((dy * cos - dx * sin) * root / self.radius).astype(np.float32)
        rho, theta = cv2.cartToPolar(u, v)
        return rho / self.outline(theta)

    def points(self, theta: Array, level: Array) -> Array:
        """The (n, 2) places at these angles where `level` has these values."""
        rho, root = self.outline(theta) * level * self.radius, np.sqrt(self.aspect)
        u, v = rho * np.cos(theta) * root, rho * np.sin(theta) / root
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return np.stack([self.centre[0] + u * cos - v * sin, self.centre[1] + u * sin + v * cos], -1)


def _step(value: Array, softness: float) -> Array:
    """Smooth 0 -> 1 as value crosses zero."""
    t = np.clip(value / (2 * softness) + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def _mix(image: Array, colour: Sequence[float] | Array, alpha: Array) -> Array:
    return image + (np.asarray(colour, np.float32) - image) * alpha[..., None]


def _pick(rng: Rng, palette: Array) -> Array:
    return np.asarray(palette[rng.integers(len(palette))])


def _curve(rng: Rng, start: tuple[float, float], length: float, bend: float, direction: float) -> Array:
    """A smooth (16, 2) path whose direction drifts."""
    steps = np.full(15, length / 15)
    heading = direction + bend * np.cumsum(rng.normal(rng.normal(), 0.6, 15)) / 15
    moves = np.stack([steps * np.cos(heading), steps * np.sin(heading)], -1)
    return np.vstack([np.asarray(start), np.asarray(start) + np.cumsum(moves, 0)]).astype(np.float32)


def _ellipses(centres: Array, long: Array, short: Array, angle: Array) -> Array:
    """(n, 10, 2) polygons."""
    t = np.linspace(0, 2 * np.pi, 10, endpoint=False)
    u, v = long[:, None] * np.cos(t), short[:, None] * np.sin(t)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    return centres[:, None, :] + np.stack([u * cos - v * sin, u * sin + v * cos], -1)


def _to_uint8(rng: Rng, image: Array, grain: float) -> NDArray[np.uint8]:
    """Quantise with sensor grain; grain is per pixel, so it is drawn last and cannot move any shape."""
    noisy = image + grain * rng.standard_normal(image.shape, np.float32)
    return np.clip(noisy * 255 + 0.5, 0, 255).astype(np.uint8)


# ---------------------------------------------------------------------------------------------- skin lesion

_SKIN = np.array([[226, 182, 164], [214, 158, 128], [240, 212, 202], [176, 124, 98], [196, 178, 196]], np.float32) / 255
_PIGMENT = np.array([[124, 68, 42], [66, 42, 38], [170, 84, 70], [98, 88, 104], [150, 92, 58]], np.float32) / 255
_PALE = np.array([[250, 232, 224], [246, 214, 204], [240, 226, 206]], np.float32) / 255
_STICKERS = np.array([[240, 214, 20], [30, 90, 190], [40, 150, 90], [40, 30, 50], [220, 80, 60]], np.float32) / 255


def _lesion(rng: Rng, canvas: Canvas) -> tuple[Array, Labels]:
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
    body = _mix(np.broadcast_to(first, image.shape), second, _step(canvas.noise(rng, 4), 0.9))
    core = _step(-distance - rng.uniform(0.04, 0.12) + 0.03 * canvas.noise(rng, 9), 0.05)
    body = _mix(body, third * (1.0 if pale else 0.7), 0.8 * core)
    network = np.clip(1 - 1.8 * np.abs(canvas.noise(rng, 44) + 0.4 * canvas.noise(rng, 12)), 0, 1)  # thin ridges
    globules = _step(canvas.noise(rng, 34) - rng.uniform(1.0, 2.2), 0.3)
    body = body * (1 - (rng.uniform(0.08, 0.28) * network + 0.25 * globules)[..., None])
    if pale:
        body = body + 0.07 * canvas.noise(rng, 36)[..., None]  # scale
    strength = float(rng.uniform(0.6, 0.95))
    patchy = np.clip(strength + 0.12 * canvas.noise(rng, 7), 0.45, 1)
    softness = float(rng.uniform(0.008, 0.028))
    image = _mix(image, body, patchy * _step(-distance, softness))
    rim = np.exp(-np.square((distance - 0.012) / 0.02)) * rng.uniform(0.12, 0.4) * (1.6 if pale else 1.0)
    return image * (1 - rim[..., None] * np.array([0.1, 0.5, 0.5], np.float32))  # inflamed halo


def _add_freckles(rng: Rng, canvas: Canvas, image: Array, pale: bool) -> Array:
    """Small spots of lesion colour that are not the lesion."""
    count = int(rng.integers(4, 14))
    centres = np.array([canvas.point(rng) for _ in range(count)])
    sizes = rng.uniform(0.006, 0.02, count)
    spots = _ellipses(centres, sizes * rng.uniform(1, 1.6, count), sizes, rng.uniform(0, np.pi, count))
    layer = canvas.polygons(spots, rng.uniform(0.3, 0.8, count))
    palette = _PALE if pale else _PIGMENT
    soft = cv2.GaussianBlur(layer, (0, 0), 0.006 * canvas.unit + 0.3).astype(np.float32)
    return _mix(image, _pick(rng, palette), soft)


def _add_sticker(
    rng: Rng, canvas: Canvas, image: Array, distance: Array, x: Array, y: Array
) -> tuple[Array, NDArray[np.bool_]]:
    """A coloured disc reaching in from a corner of the picture; it may not hide the middle of the lesion."""
    corner = (rng.integers(2) * canvas.extent[0], rng.integers(2) * canvas.extent[1])
    room = float(np.hypot(x - corner[0], y - corner[1])[distance < 0].min(initial=0.45))
    disc = np.hypot(x - corner[0], y - corner[1]) - min(room + 0.02, rng.uniform(0.2, 0.45))
    shade = _pick(rng, _STICKERS) * (1 + 0.04 * canvas.noise(rng, 8)[..., None])
    return _mix(image, shade, _step(-disc, 0.006)), disc < 0


def _add_skin_clutter(rng: Rng, canvas: Canvas, image: Array, x: Array, y: Array) -> Array:
    if rng.random() < 0.65:  # hair
        main = rng.uniform(0, 2 * np.pi)
        hairs = [
            _curve(rng, canvas.point(rng, -0.1), rng.uniform(0.3, 1.0), 0.8, main + rng.normal(0, 0.5))
            for _ in range(int(rng.integers(3, 18)))
        ]
        tone = np.array([0.16, 0.11, 0.09]) if rng.random() < 0.8 else np.array([0.86, 0.74, 0.58])
        image = _mix(image, tone, 0.85 * canvas.strokes(hairs, rng.uniform(0.003, 0.007)))
    if rng.random() < 0.35:  # bubbles in the contact gel: a bright ring and a glint
        for _ in range(int(rng.integers(2, 8))):
            cx, cy = canvas.point(rng)
            radius = rng.uniform(0.012, 0.045)
            offset = np.hypot(x - cx, y - cy)
            ring = np.exp(-np.square((offset - radius) / 0.006))
            glint = np.exp(-np.square(np.hypot(x - cx + 0.4 * radius, y - cy + 0.4 * radius) / (0.25 * radius)))
            image = _mix(image, (1, 1, 1), 0.4 * ring + 0.55 * glint * (offset < radius))
    if rng.random() < 0.25:
        image = _mix(image, (0.12, 0.1, 0.12), 0.8 * canvas.strokes(_ruler(rng, canvas), 0.006))
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
    return _mix(image, (0.03, 0.02, 0.03), _step(outside, 0.012)), outside > 0


# ---------------------------------------------------------------------------------------------- polyp

_MUCOSA = np.array([[214, 120, 96], [226, 150, 122], [196, 96, 92], [222, 138, 140], [206, 128, 84]], np.float32) / 255


def _polyp(rng: Rng, canvas: Canvas) -> tuple[Array, Labels]:
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
    on_polyp = _step(1 - level, 0.04)
    blotch = 0.03 * canvas.noise(rng, 4) + 0.015 * canvas.noise(rng, 14)
    image = tone + blotch[..., None] * np.array([0.6, 1, 1], np.float32)
    vessels = [
        _curve(rng, canvas.point(rng), rng.uniform(0.15, 0.6), 1.6, rng.uniform(0, 2 * np.pi)) for _ in range(26)
    ]
    network = canvas.strokes(vessels[:7], 0.008) + 0.8 * canvas.strokes(vessels[7:], 0.005)
    image = _mix(image, tone * np.array([0.72, 0.45, 0.5], np.float32), 0.6 * network * (1 - on_polyp))
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
    darkness = _step(lumen - depth, 0.05) * (level >= 1)
    lit = _mix(lit, np.array([0.13, 0.05, 0.04]), 0.93 * darkness)
    wet = 0.9 * canvas.noise(rng, 10) + 0.8 * canvas.noise(rng, 34) + 4.0 * (facing - 0.85)
    glints = _step(wet - rng.uniform(1.9, 2.7), 0.25) * (1 - darkness)
    return _mix(lit, (1.0, 0.98, 0.95), 0.95 * glints)


def _endoscope_frame(rng: Rng, canvas: Canvas, image: Array, x: Array, y: Array) -> tuple[Array, NDArray[np.bool_]]:
    """The black surround with cut corners, at times a position box and caption lines; True where the view is hidden."""
    across, down = canvas.extent
    dx, dy = np.abs(x - across / 2), np.abs(y - down / 2)
    side = min(across, down) / 2
    outside = np.maximum(dx - (across / 2 - 0.02), dy - (down / 2 - 0.02))
    corners = (dx - across / 2) + (dy - down / 2) + 2 * side * rng.uniform(0.15, 0.34)
    outside = np.maximum(outside, corners / np.sqrt(2))
    image = _mix(image, (0.015, 0.015, 0.02), _step(outside, 0.008))
    hidden = outside > 0
    if rng.random() < 0.35:
        box = (x < rng.uniform(0.22, 0.34)) & (y > down - rng.uniform(0.22, 0.34))
        green = rng.random() < 0.5
        image = np.where(box[..., None], np.array([0.06, 0.25, 0.16] if green else [0.01, 0.01, 0.01]), image)
        hidden = hidden | box
        if green:  # the drawing of the scope's loops
            loop = _curve(rng, (0.05, down - 0.08), 0.3, 9.0, -0.8)
            image = _mix(image, (0.4, 0.9, 0.6), canvas.strokes([loop], 0.012) * box)
    if rng.random() < 0.5:
        image = _mix(image, (0.85, 0.85, 0.85), 0.9 * canvas.strokes(_caption(rng), 0.006))
    return image, hidden


def _caption(rng: Rng) -> list[Array]:
    """Short lines of letter-like strokes at the left border."""
    letters = []
    for row in 0.3 + 0.045 * np.arange(4):
        for column in 0.02 + 0.022 * np.arange(rng.integers(3, 8)):
            corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [0, 0.5], [1, 0.5]]) * (0.012, 0.022)
            letters.append(rng.permutation(corners)[:4] + np.array([column, row]))
    return letters


# ---------------------------------------------------------------------------------------------- gland

_HAEMATOXYLIN = np.array(
    [0.65, 0.85, 0.32], np.float32
)  # optical density of the blue-purple nuclear stain, per channel
_EOSIN = np.array([0.10, 0.80, 0.36], np.float32)  # the same for the pink stain of everything else
_PLACING_CELLS = 64  # glands are fitted together on this fixed grid, so the layout does not depend on the image size


def _gland(rng: Rng, canvas: Canvas) -> tuple[Array, Labels]:
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
    tears = _step(canvas.noise(rng, 5) + 0.5 * canvas.noise(rng, 14) - rng.uniform(1.2, 2.2), 0.15) * (fibres > 0.2)
    eosin = eosin * (1 - 0.9 * tears)  # white gaps in the stroma look like lumen

    inside = _step(1 - level, 0.05)
    ragged = level + 0.05 * canvas.noise(rng, 18)
    lumen = _step(openness - ragged, 0.05) * inside
    vacuoles = _step(canvas.noise(rng, 26) - 0.3, 0.5) * rng.uniform(0.1, 0.7)
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
        shapes.append(_ellipses(gland.points(theta, middle), size, 0.42 * size, direction))
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
    shapes = _ellipses(where, long, short, along + rng.normal(0, 0.35, len(where)))
    return canvas.polygons(shapes, rng.uniform(0.5, 1.0, len(where)))


# ---------------------------------------------------------------------------------------------- public interface

_PAINTERS: dict[str, Callable[[Rng, Canvas], tuple[Array, Labels]]] = {
    "lesion": _lesion,
    "polyp": _polyp,
    "gland": _gland,
}


def generate(
    kind: str, index: int, *, size: tuple[int, int] = (256, 256), seed: int = 0
) -> tuple[NDArray[np.uint8], Labels]:
    """Draw picture number `index` of a kind; the same arguments always give the same bytes.

    Returns the image, (H, W, 3) uint8 RGB, and its mask, (H, W): 0 is background; for "lesion" and "polyp" (uint8)
    1 is foreground; for "gland" (uint16) 1..n number the glands, each of them one connected piece.

    Raises ValueError for a kind not in KINDS, a negative index or seed, or a side under 32 pixels.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; possible: {', '.join(KINDS)}")
    if index < 0 or seed < 0:
        raise ValueError(f"index and seed must not be negative; received index={index}, seed={seed}")
    if min(size) < MIN_SIDE:
        raise ValueError(f"both sides must be at least {MIN_SIDE} pixels; received size={size}")
    rng = np.random.default_rng(np.random.SeedSequence([seed, KINDS.index(kind), index]))
    image, mask = _PAINTERS[kind](rng, Canvas(*size))
    return _to_uint8(rng, image, grain=0.012), mask


def _pairs(
    kind: str | None, numbers: range, size: tuple[int, int], seed: int
) -> list[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """Image and foreground of one kind, or of all kinds in turn for None."""
    kinds = KINDS if kind is None else (kind,)
    drawn = (generate(kinds[i % len(kinds)], i, size=size, seed=seed) for i in numbers)
    return [(image, mask > 0) for image, mask in drawn]


def _channels(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(5, H, W) uint8: red, green, blue, grey, saturation."""
    grey = np.round(image @ _GREY).astype(np.uint8)
    saturation = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[..., 1]
    return np.stack([*np.moveaxis(image, -1, 0), grey, saturation])


def _threshold_dice(channel: NDArray[np.uint8], truth: NDArray[np.bool_]) -> Array:
    """(2, 256) Dice of `channel <= t` and of `channel > t` for every t."""
    hit = np.bincount(channel[truth], minlength=256).cumsum()
    chosen = np.bincount(channel.ravel(), minlength=256).cumsum()
    below = 2 * hit / (chosen + hit[-1])
    above = 2 * (hit[-1] - hit) / (chosen[-1] - chosen + hit[-1])
    return np.stack([below, above])


def baselines(
    kind: str | None, *, size: tuple[int, int] = (96, 96), seed: int = 0, choose: int = 100, score: int = 60
) -> dict[str, float]:
    """Mean per-image Dice of predictors that learn no shape, on a kind or (None) on all kinds in turn.

    "constant" calls everything foreground. "threshold" is one threshold for all images on the best of red, green,
    blue, grey and saturation, either side, chosen on the first `choose` images. "otsu" picks a threshold per image on
    grey, the side chosen likewise. All are scored on the `score` images that follow.

    Raises ValueError as generate does.
    """
    tables: list[Array] = []
    otsu: list[Array] = []
    constant: list[float] = []
    for image, truth in _pairs(kind, range(choose + score), size, seed):
        channels = _channels(image)
        table = np.stack([_threshold_dice(channel, truth) for channel in channels])  # (5, 2, 256)
        cut, _ = cv2.threshold(channels[3], 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
        tables.append(table)
        otsu.append(table[3, :, int(cut)])
        constant.append(float(2 * truth.mean() / (1 + truth.mean())))
    best = np.unravel_index(np.mean(tables[:choose], 0).argmax(), tables[0].shape)
    side = np.mean(otsu[:choose], 0).argmax()
    return {
        "constant": float(np.mean(constant[choose:])),
        "threshold": float(np.mean(tables[choose:], 0)[best]),
        "otsu": float(np.mean(otsu[choose:], 0)[side]),
    }


def _outlined(image: NDArray[np.uint8], mask: Labels) -> NDArray[np.uint8]:
    """The image with a green line along the border of every labelled region."""
    drawn = image.copy()
    for label in range(1, int(mask.max()) + 1):
        contours, _ = cv2.findContours((mask == label).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, contours, -1, (0, 255, 60), max(1, min(mask.shape) // 128))
    return drawn


def sheet(path: str | Path, *, n: int = 6, size: tuple[int, int] = (256, 256), seed: int = 0) -> Path:
    """Write a PNG: for each kind a row of `n` images and, below, the same images with their masks outlined.

    Returns the path. Raises ValueError as generate does, OSError if the file cannot be written.
    """
    rows = []
    for kind in KINDS:
        pairs = [generate(kind, i, size=size, seed=seed) for i in range(n)]
        rows.append(np.hstack([image for image, _ in pairs]))
        rows.append(np.hstack([_outlined(image, mask) for image, mask in pairs]))
    _, png = cv2.imencode(".png", cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(png.tobytes())
    return target


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Draw a sheet of the generated images and score simple baselines.")
    parser.add_argument("out", nargs="?", default="synthetic.png", help="PNG to write (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    print(f"wrote {sheet(options.out, seed=options.seed)}")
    print(f"\nmean Dice   {'constant':>10} {'threshold':>10} {'otsu':>10}")
    for kind in (*KINDS, None):
        scores = baselines(kind, seed=options.seed)
        print(f"{kind or 'mix':<11} " + " ".join(f"{value:10.3f}" for value in scores.values()))


if __name__ == "__main__":
    main()
