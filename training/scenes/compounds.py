"""Things of no kind: shapes put together at random, in random materials.

A list of named things teaches the list; these teach that whatever is not of this world is foreign. Each is a function
of a generator, about a metre long.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from flowclas_ros.training.scenes import mesh as m
from flowclas_ros.training.scenes import textures as tex
from flowclas_ros.training.scenes.mesh import Mesh
from flowclas_ros.training.scenes.world import Look, Parts, parts_size

LENGTHS = (0.4, 1.3)  # metres, least and most of a thing's longest side
BORROWED = 0.15  # of the materials are such as the world itself is made of, but for their colour
Colour = tuple[float, float, float]
Kind = Callable[[np.random.Generator], Parts]


def cluster(rng: np.random.Generator) -> Parts:
    """Solids, each stuck to the one before."""
    looks, at, parts = palette(rng, 3), np.zeros(3), []
    for _ in range(int(rng.integers(2, 6))):
        parts.append((solid(rng).at(*at), pick(rng, looks)))
        at = at + direction(rng) * rng.uniform(0.2, 0.5)
    return sized(rng, parts)


def block(rng: np.random.Generator) -> Parts:
    """One solid, from a slab to a pole, with smaller ones on its faces."""
    looks, size = palette(rng, 3), rng.uniform(0.15, 1.0, 3)
    parts = [(m.box(size[0], size[1], size[2], float(rng.choice([0.3, 0.6, 1.2]))), looks[0])]
    for _ in range(int(rng.integers(0, 5))):
        way = np.zeros(3)
        way[rng.integers(3)] = rng.choice([-1, 1])
        place = (way + (way == 0) * rng.uniform(-0.7, 0.7, 3)) * size / 2
        parts.append((solid(rng).scaled(0.4).at(*place), pick(rng, looks)))
    return sized(rng, parts)


def stack(rng: np.random.Generator) -> Parts:
    """Boxes, slabs and drums on one another, not quite in line."""
    looks, z, parts = palette(rng, 3), 0.0, []
    for _ in range(int(rng.integers(2, 6))):
        x, y, height = rng.uniform(0.3, 0.9), rng.uniform(0.3, 0.9), rng.uniform(0.08, 0.45)
        shape = m.box(x, y, height, 0.5) if rng.random() < 0.7 else m.cylinder(x / 2, height, 16)
        x, y = rng.normal(0, 0.06, 2)
        parts.append((shape.turned("z", rng.normal(0, 12)).at(x, y, z + height / 2), pick(rng, looks)))
        z += height
    return sized(rng, parts)


def frame(rng: np.random.Generator) -> Parts:
    """Bars along the edges of a box and across it, some fields closed: a shelf, a ladder, a broken lattice."""
    looks, radius = palette(rng, 2), rng.uniform(0.012, 0.05)
    size = np.array([1.0, rng.uniform(0.2, 0.8), rng.choice([0.0, rng.uniform(0.1, 0.7)])])
    corners = [np.array([x, y, z]) * size for x in (0, 1) for y in (0, 1) for z in (0, 1)][:: 1 if size[2] else 2]
    parts = [
        (m.rod(a, b, radius, 6), looks[0])
        for i, a in enumerate(corners)
        for b in corners[i + 1 :]
        if np.count_nonzero(a - b) == 1 and rng.random() < 0.9
    ]
    for x in np.linspace(0, 1, int(rng.integers(3, 9)))[1:-1]:
        z = rng.choice([0, size[2]])
        parts.append((m.rod((x, 0, z), (x, size[1], z), radius * 0.8, 6), looks[0]))
    for _ in range(int(rng.integers(0, 3))):
        parts.append((m.box(1, size[1], 0.03, 0.4).at(0.5, size[1] / 2, rng.uniform(0, size[2] + 0.01)), looks[1]))
    return sized(rng, parts)


def legged(rng: np.random.Generator) -> Parts:
    """A body on legs, with a neck and a head or a back: between furniture and animal."""
    looks, leg, reach = palette(rng, 3), rng.uniform(0.15, 0.6), rng.uniform(0.25, 0.5)
    thick, wide = rng.uniform(0.015, 0.06), rng.uniform(0.1, 0.3)
    soft = rng.random() < 0.5
    body = m.ellipsoid(reach * 1.2, wide, 0.16) if soft else m.box(2 * reach, 2.2 * wide, rng.uniform(0.04, 0.3), 0.5)
    parts = [(body.at(z=leg), looks[0])]
    for x in (-reach, reach) if rng.random() < 0.8 else (-reach, 0.0, reach):
        for y in (-wide, wide):
            foot = (x + rng.normal(0, 0.06), y + rng.normal(0, 0.03), 0)
            parts.append((m.rod((x * 0.85, y * 0.7, leg), foot, thick, 7), looks[1]))
    if rng.random() < 0.7:
        head = np.array([reach + rng.uniform(0, 0.25), rng.normal(0, 0.05), leg + rng.uniform(0.1, 0.5)])
        parts.append((m.rod((reach * 0.8, 0, leg), head, rng.uniform(0.03, 0.1), 9), looks[0]))
        parts.append((solid(rng).scaled(0.4).at(*head), pick(rng, looks)))
    else:
        parts.append((m.box(0.08, 2.2 * wide, 0.5, 0.5).turned("y", 8).at(reach, 0, leg + 0.25), looks[0]))
    return sized(rng, parts)


def turned(rng: np.random.Generator) -> Parts:
    """A body of rotation, standing, lying or aslant: bottles, drums, wheels, pots, spools."""
    looks, count = palette(rng, 3), int(rng.integers(2, 7))
    height, radii = rng.choice([0.15, 0.4, 0.9]), rng.uniform(0.08, 0.4, count)
    steps = np.linspace(-height / 2, height / 2, count)
    profile = [(1e-4, steps[0]), *zip(radii, steps, strict=True), (1e-4, steps[-1])]
    parts = [(m.lathe(profile, 20, (int(rng.integers(1, 5)), 1)), looks[0])]
    for i in range(int(rng.integers(0, 3))):
        parts.append((m.ring(float(radii[i % count]), rng.uniform(0.015, 0.06)).at(z=steps[i % count]), looks[1]))
    if rng.random() < 0.4:
        parts.append((m.cylinder(0.06, height * 1.4, 10), looks[2]))
    tilt = rng.choice([0.0, 90.0, rng.uniform(0, 90)])
    return sized(rng, [(mesh.turned("y", tilt), look) for mesh, look in parts])


def tangle(rng: np.random.Generator) -> Parts:
    """Hoses, straps and branches: bent tubes from one place."""
    looks, parts = palette(rng, 2), []
    for _ in range(int(rng.integers(1, 5))):
        way, at, points = direction(rng), np.zeros(3), [np.zeros(3)]
        for _ in range(7):
            way = way + rng.normal(0, 0.45, 3)
            at = at + 0.16 * way / np.linalg.norm(way)
            points.append(at)
        radius = rng.uniform(0.015, 0.06)
        parts += [(m.rod(a, b, radius, 7), looks[0]) for a, b in pairwise(points)]
        if rng.random() < 0.5:
            parts.append((solid(rng).scaled(0.3).at(*at), looks[1]))
    return sized(rng, parts)


def flake(rng: np.random.Generator) -> Parts:
    """Sheets, shards and plates."""
    looks = palette(rng, 2)
    if rng.random() < 0.4:
        return sized(rng, [(m.sheet(rng, 1.0, rng.uniform(0.3, 1.0), rng.uniform(0.01, 0.12)), looks[0])])
    angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(5, 9))))
    angles += np.linspace(0, 2 * np.pi, len(angles), endpoint=False)  # so that no gap is wider than half a turn
    outline = [(float(np.cos(a / 2)), float(np.sin(a / 2))) for a in angles]
    thickness = rng.uniform(0.02, 0.1)
    plate = m.extrude(outline, thickness).tiled(*rng.uniform(1, 3, 2))
    back = plate.scaled(0.96, 1.0, 0.96).at(y=0.4 * thickness)
    return sized(rng, [(plate, looks[0]), (back, looks[1])])


def solid(rng: np.random.Generator) -> Mesh:
    """A convex shape of 0.2 to 0.7 metres about the origin, turned at random."""
    x, y, z = rng.uniform(0.2, 0.7, 3)
    shape = [
        lambda: m.box(x, y, z, 0.4),
        lambda: m.cylinder(x / 2, z, int(rng.choice([6, 14]))),
        lambda: m.ellipsoid(x / 2, y / 2, z / 2, 12),
        lambda: m.rock(rng, x / 2, y / 2, z / 2, 0.08, 8),
        lambda: m.extrude([(-x / 2, -z / 2), (x / 2, -z / 2), (x * rng.uniform(-0.4, 0.4), z / 2)], y),
    ][rng.integers(5)]()
    return shape.turned("x", rng.choice([0, 90, rng.uniform(0, 90)])).turned("z", rng.uniform(0, 360))


def direction(rng: np.random.Generator) -> np.ndarray:
    """(3,) of length 1, any."""
    way = rng.normal(size=3)
    return np.asarray(way / np.linalg.norm(way))


def sized(rng: np.random.Generator, parts: Parts) -> Parts:
    """Brought to a length of its own."""
    factor = np.exp(rng.uniform(*np.log(LENGTHS))) / parts_size(parts)
    return [(mesh.scaled(factor), look) for mesh, look in parts]


def pick(rng: np.random.Generator, looks: list[Look]) -> Look:
    """One of them, the first most often."""
    return looks[min(int(rng.exponential(0.8)), len(looks) - 1)]


def palette(rng: np.random.Generator, count: int) -> list[Look]:
    """So many materials."""
    return [material(rng) for _ in range(count)]


def material(rng: np.random.Generator) -> Look:
    """Any surface in any colour."""
    colour, other = any_colour(rng), any_colour(rng)
    own = [
        tex.mottled(colour, 0.08),
        tex.mottled(colour, rng.uniform(0.02, 0.35), int(rng.choice([4, 8, 16]))),
        tex.ribs(colour, int(rng.integers(3, 40)), rng.uniform(0.05, 0.4)),
        tex.label(colour, other),
        tex.fabric(colour, other),
        tex.planks(colour),
        tex.fur(colour, other),
    ]
    borrowed = [tex.foil(colour), tex.hull(colour, 2, 4), tex.solar_cells, tex.hazard_stripes]
    chosen = borrowed if rng.random() < BORROWED else own
    return Look(
        f"compound {rng.integers(2**62)}",
        chosen[rng.integers(len(chosen))],
        specular=float(rng.choice([0.05, 0.3, 0.9])),
        shininess=float(rng.uniform(0.1, 0.8)),
    )


def made_of(kind: Kind, looks: Sequence[Look]) -> Kind:
    """The kind's shapes in these materials."""

    def make(rng: np.random.Generator) -> Parts:
        parts = kind(rng)
        own = {look.name: looks[int(rng.integers(len(looks)))] for _, look in parts}
        return [(mesh, own[look.name]) for mesh, look in parts]

    return make


def any_colour(rng: np.random.Generator) -> Colour:
    """Grey to garish, in 0..255."""
    saturation = rng.uniform(0, 0.2) if rng.random() < 0.5 else rng.triangular(0.2, 0.4, 0.95)
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), saturation, rng.uniform(0.12, 0.95))
    return 255 * red, 255 * green, 255 * blue


KINDS: dict[str, Kind] = {f.__name__: f for f in (cluster, block, stack, frame, legged, turned, tangle, flake)}
