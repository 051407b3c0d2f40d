"""What every kind is drawn with: a pixel grid in relative coordinates, outlines, strokes and colour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Labels = NDArray[np.unsignedinteger]
Rng = np.random.Generator

_SUBPIXEL_BITS = 4  # OpenCV draws with fixed-point coordinates: 1/16 pixel


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


def step(value: Array, softness: float) -> Array:
    """Smooth 0 -> 1 as value crosses zero."""
    t = np.clip(value / (2 * softness) + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def mix(image: Array, colour: Sequence[float] | Array, alpha: Array) -> Array:
    return image + (np.asarray(colour, np.float32) - image) * alpha[..., None]


def pick(rng: Rng, palette: Array) -> Array:
    return np.asarray(palette[rng.integers(len(palette))])


def curve(rng: Rng, start: tuple[float, float], length: float, bend: float, direction: float) -> Array:
    """A smooth (16, 2) path whose direction drifts."""
    steps = np.full(15, length / 15)
    heading = direction + bend * np.cumsum(rng.normal(rng.normal(), 0.6, 15)) / 15
    moves = np.stack([steps * np.cos(heading), steps * np.sin(heading)], -1)
    return np.vstack([np.asarray(start), np.asarray(start) + np.cumsum(moves, 0)]).astype(np.float32)


def ellipses(centres: Array, long: Array, short: Array, angle: Array) -> Array:
    """(n, 10, 2) polygons."""
    t = np.linspace(0, 2 * np.pi, 10, endpoint=False)
    u, v = long[:, None] * np.cos(t), short[:, None] * np.sin(t)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    return centres[:, None, :] + np.stack([u * cos - v * sin, u * sin + v * cos], -1)


def to_uint8(rng: Rng, image: Array, grain: float) -> NDArray[np.uint8]:
    """Quantise with sensor grain; grain is per pixel, so it is drawn last and cannot move any shape."""
    noisy = image + grain * rng.standard_normal(image.shape, np.float32)
    return np.clip(noisy * 255 + 0.5, 0, 255).astype(np.uint8)
