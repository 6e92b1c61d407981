"""A procedural set of 32x32 colour images that needs no download: shapes, textured, on clutter.

A class is a shape (10 classes) or a shape with a texture (100 classes). Everything else is nuisance, drawn
anew for each image: position, size, angle, the colours of figure and ground and which of them is the
brighter, the texture's phase, a background of two colours with a grating, small blobs, pixel noise. No
pixel by itself tells the class, so a linear model stays near chance, while a small convolutional network
learns it in a few epochs.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fedfmd.data.arrays import Bytes, IntArray
from fedfmd.seeds import generator

SIDE = 32
_CHUNK = 256
"""Images drawn at a time: their float planes fit the processor's cache."""
_BLOBS = 3
_FREE = 24 + 5 * _BLOBS
"""Uniform numbers that one image uses."""

Plane = Callable[[Tensor, Tensor], Tensor]


def make_embedded(*, samples: int, classes: int, seed: int, stream: str) -> tuple[Bytes, IntArray]:
    """Draw ``samples`` images, uint8 (N, 3, 32, 32), with balanced labels in random order, int64 (N,).

    ``classes`` is 10 (shapes) or 100 (shape times texture); ``stream`` names the part, "train" or "test".
    """
    rng = generator(seed, f"embedded-{classes}-{stream}")
    labels = (torch.arange(samples) % classes)[torch.randperm(samples, generator=rng)]
    free = torch.rand(samples, _FREE, generator=rng)
    textures = labels % 10 if classes == 100 else torch.randint(10, (samples,), generator=rng)
    shapes = labels // 10 if classes == 100 else labels
    kinds = shapes * 10 + textures
    strength = 1.0 if classes == 100 else 0.4
    images = torch.empty(samples, 3, SIDE, SIDE, dtype=torch.uint8)
    for kind in torch.bincount(kinds).nonzero()[:, 0].tolist():
        for part in torch.split((kinds == kind).nonzero()[:, 0], _CHUNK):
            images[part] = _draw(free[part], SHAPES[kind // 10][1], TEXTURES[kind % 10][1], strength)
    _add_noise(images, rng)
    return images.numpy(), labels.numpy()


def class_names(classes: int) -> tuple[str, ...]:
    """Name the classes: "ring", or "striped ring"."""
    if classes == 10:
        return tuple(name for name, _ in SHAPES)
    return tuple(f"{texture} {shape}" for shape, _ in SHAPES for texture, _ in TEXTURES)


def _draw(free: Tensor, shape: Plane, texture: Plane, strength: float) -> Tensor:
    """Draw the images of one kind from their uniform numbers (n, _FREE); ``strength`` is the ink's."""
    u = free[:, :, None, None]
    ys = (torch.arange(SIDE) - (SIDE - 1) / 2)[:, None]
    xs = ys.T
    radius = 8.5 + 4.5 * u[:, 0]
    x, y = xs - 7 * (u[:, 1] - 0.5), ys - 7 * (u[:, 2] - 0.5)
    angle = 1.2 * (u[:, 3] - 0.5)
    cos, sin = angle.cos(), angle.sin()
    along, across = (cos * x + sin * y) / radius, (cos * y - sin * x) / radius
    cover = (0.5 - shape(along, across) * radius).clamp_(0, 1)
    ground, figure, ink = _colours(u[:, 4:14])
    pixels_x, pixels_y = along * radius + 8 * u[:, 14], across * radius + 8 * u[:, 15]
    fill = figure + strength * (ink - figure) * texture(pixels_x, pixels_y)[:, None]
    back = _background(u, xs, ys, ground)
    picture = back + (fill - back) * cover[:, None]
    return picture.clamp_(0, 1).mul_(255).round_().to(torch.uint8)


def _colours(u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return ground, figure and ink colours (n, 3, 1, 1): the figure is the brighter or the darker."""
    sign = (u[:, 9:10] < 0.5).float() * 2 - 1
    ground = 0.5 - sign * 0.22 + 0.3 * (u[:, 0:3] - 0.5)
    figure = 0.5 + sign * 0.22 + 0.4 * (u[:, 3:6] - 0.5)
    ink = figure + 0.5 * (u[:, 6:9] - 0.5) - sign * 0.2
    return ground, figure, ink


def _background(u: Tensor, xs: Tensor, ys: Tensor, ground: Tensor) -> Tensor:
    """Give the ground a slope, a faint grating and blobs: (n, 3, 32, 32)."""
    angle, pitch = 2 * math.pi * u[:, 16], 0.4 + 1.2 * u[:, 17]
    slope = (angle.cos() * xs + angle.sin() * ys) / SIDE
    grating = ((angle.sin() * xs - angle.cos() * ys) * pitch + 6 * u[:, 18]).sin_()
    plane = slope[:, None] * (0.5 * u[:, 19:22] - 0.25) + grating[:, None] * (0.05 * u[:, 22:23])
    plane += ground
    for blob in range(_BLOBS):
        at = u[:, 24 + 5 * blob :]
        away = (xs - SIDE * (at[:, 0] - 0.5)).square() + (ys - SIDE * (at[:, 1] - 0.5)).square()
        spot = (2.0 + at[:, 2] - away.sqrt_()).clamp_(0, 1)
        plane += spot[:, None] * torch.cat([at[:, 3:4], at[:, 4:5], at[:, 2:3]], dim=1).sub_(0.5).mul_(0.5)
    return plane


def _add_noise(images: Tensor, rng: torch.Generator) -> None:
    """Add the sum of two uniform integers in -4..4 to every channel value, in place."""
    for part in torch.split(images, 1024):
        noise = torch.randint(0, 9 * 9, part.shape, generator=rng, dtype=torch.int16)
        noise = noise // 9 + noise % 9 - 8
        part.copy_(noise.add_(part).clamp_(0, 255))


def _box(x: Tensor, y: Tensor, half_x: float, half_y: float) -> Tensor:
    return torch.maximum(x.abs() - half_x, y.abs() - half_y)


def _disc(x: Tensor, y: Tensor, at_x: float, radius: float) -> Tensor:
    return ((x - at_x).square() + y.square()).sqrt_() - radius


def _polygon(x: Tensor, y: Tensor, corners: int, inner: float) -> Tensor:
    """Return the (scaled) distance to the widest of ``corners`` half-planes at distance ``inner``."""
    angles = [2 * math.pi * k / corners for k in range(corners)]
    sides = [math.cos(a) * x + math.sin(a) * y for a in angles]
    return torch.stack(sides).amax(0) - inner


def _star(x: Tensor, y: Tensor) -> Tensor:
    turn = torch.atan2(y, x)
    return ((x.square() + y.square()).sqrt_() - (0.68 + 0.34 * (5 * turn).cos_())) * 0.7


# Signed distances in units of the figure's radius: negative inside.
SHAPES: tuple[tuple[str, Plane], ...] = (
    ("disc", lambda x, y: _disc(x, y, 0, 0.85)),
    ("ring", lambda x, y: (_disc(x, y, 0, 0.8)).abs_() - 0.2),
    ("square", lambda x, y: _box(x, y, 0.8, 0.8)),
    ("frame", lambda x, y: _box(x, y, 0.72, 0.72).abs_() - 0.18),
    ("triangle", lambda x, y: _polygon(x, y, 3, 0.55)),
    ("cross", lambda x, y: torch.minimum(_box(x, y, 1.0, 0.27), _box(x, y, 0.27, 1.0))),
    ("star", _star),
    ("crescent", lambda x, y: torch.maximum(_disc(x, y, 0, 0.95), -_disc(x, y, 0.5, 0.75))),
    ("bar", lambda x, y: _box(x, y, 1.05, 0.3)),
    ("pair", lambda x, y: torch.minimum(_disc(x, y, -0.6, 0.42), _disc(x, y, 0.6, 0.42))),
)

# How much ink at a point of the figure, 0..1; coordinates in pixels, turned with the figure.
TEXTURES: tuple[tuple[str, Plane], ...] = (
    ("plain", lambda x, _: torch.zeros_like(x)),
    ("striped", lambda x, _: (x * 2.1).sin_().mul_(2).clamp_(-1, 1).add_(1).mul_(0.5)),
    ("banded", lambda x, _: (x * 0.9).sin_().mul_(3).clamp_(-1, 1).add_(1).mul_(0.5)),
    ("hatched", lambda x, y: ((x + y) * 1.4).sin_().add_(1).mul_(0.5)),
    ("checked", lambda x, y: ((x * 1.2).sin_() * (y * 1.2).sin_()).mul_(4).clamp_(-1, 1).add_(1).mul_(0.5)),
    ("dotted", lambda x, y: ((x * 1.5).sin_() + (y * 1.5).sin_()).sub_(0.7).mul_(2).clamp_(0, 1)),
    ("shaded", lambda x, _: ((x - 4) * 0.12 + 0.5).clamp_(0, 1)),
    ("rippled", lambda x, y: (x - 4).hypot(y - 4).mul_(1.6).sin_().add_(1).mul_(0.5)),
    ("halved", lambda _, y: ((y - 4) * 2).clamp_(0, 1)),
    ("waved", lambda x, y: (x * 1.3 + 2 * (y * 0.8).sin()).sin_().add_(1).mul_(0.5)),
)
