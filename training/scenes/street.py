"""A street's fixed things: roadway, pavements, buildings, trees, lamps, signs. x along it, y to the left, metres."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from flowclas_ros.training.scenes import mesh as m
from flowclas_ros.training.scenes import street_textures as skin
from flowclas_ros.training.scenes import textures as tex
from flowclas_ros.training.scenes import vehicles
from flowclas_ros.training.scenes.mesh import Mesh
from flowclas_ros.training.scenes.world import Look, World, merged

ROADWAY, PARKING, PAVEMENT = 4.0, 6.2, 9.4  # metres from the middle to each one's outer edge
KERB = 0.13  # metres high
STOREY = 3.2

Parts = list[tuple[Mesh, Look]]

GROUND = Look("ground", skin.grass, specular=0.0)
PAVING = Look("paving", skin.paving, specular=0.0)
KERBSTONE = Look("kerb", tex.mottled((150, 148, 142), 0.1), specular=0.0)
LAY_BY = Look("lay-by", tex.mottled((86, 86, 90), 0.1, 12), specular=0.0)
PAINT = Look("road paint", tex.mottled((206, 206, 200), 0.1), specular=0.0)
ROOF = Look("roof tiles", tex.ribs((136, 74, 56), 12, 0.18), specular=0.0)
TAR = Look("tar roof", tex.mottled((70, 70, 72), 0.1), specular=0.0)
CONCRETE = Look("concrete", tex.mottled((150, 148, 142), 0.08), specular=0.0)
BARK = Look("bark", tex.ribs((92, 74, 58), 10, 0.25), specular=0.0)
POST = Look("galvanised post", tex.mottled((124, 128, 130), 0.08), specular=0.5, shininess=0.4)
LAMP_OFF = Look("street lamp", None, (0.8, 0.8, 0.76), specular=0.6)
LAMP_ON = Look("street lamp lit", None, (1.0, 0.86, 0.55), emission=1.0)
LIMIT, BLUE, BOARD = (Look(f"sign {kind}", skin.sign_face(kind), specular=0.3) for kind in ("limit", "blue", "board"))
BIN = Look("litter bin", tex.ribs((48, 82, 60), 16, 0.2), specular=0.2)


def lay(world: World, rng: np.random.Generator, start: float, end: float, lit: bool) -> None:
    """Everything from x = start to x = end."""
    _surfaces(world, rng, start, end)
    density = rng.uniform(0.35, 0.9)
    greenery = rng.uniform(0.2, 1.0)
    styles = _styles(lit)
    crowns = _crowns(rng)
    for side in (-1, 1):
        world.fixed(list(_frontage(rng, start, end, side, density, styles, crowns)))
        world.fixed(list(_furniture(rng, start, end, side, greenery, crowns, lit)))
        world.fixed(list(_parked(rng, start, end, side, rng.uniform(0.2, 0.75))))


def _surfaces(world: World, rng: np.random.Generator, start: float, end: float) -> None:
    length = end - start

    def strip(low: float, high: float, z: float, look: Look, u: float, v: float) -> tuple[Mesh, Look]:
        return m.quad((start, high, z), (0, low - high, 0), (length, 0, 0), ((high - low) / u, length / v), 8), look

    road = Look("asphalt", skin.asphalt, specular=0.05)
    world.fixed([strip(-ROADWAY, ROADWAY, 0.0, road, 8, 16), strip(-70, 70, -0.06, GROUND, 6, 6)])
    for side in (-1, 1):
        low, high = sorted((side * PARKING, side * PAVEMENT))
        a, b = sorted((side * ROADWAY, side * PARKING))
        world.fixed([strip(low, high, KERB, PAVING, 2, 2), strip(a, b, -0.005, LAY_BY, 3, 3)])
        for at in (PARKING, PAVEMENT):
            world.fixed([(m.box(length, 0.16, KERB + 0.03, 2.0).at((start + end) / 2, side * at, KERB / 2), KERBSTONE)])
    for x in np.arange(start + rng.uniform(20, 50), end, rng.uniform(60, 110)):  # zebra crossings
        world.fixed([(m.quad((x, y, 0.012), (0, -0.5, 0), (3.2, 0, 0)), PAINT) for y in np.arange(-3.4, 4.0, 1.0)])


def _styles(lit: bool) -> list[tuple[Look, Look]]:
    share = 0.42 if lit else 0.03
    glow = 0.3 if lit else 0.0
    return [
        (
            Look(f"facade {i}", skin.facade(share), specular=0.0, emission=glow),
            Look(f"shop {i}", skin.shopfront(lit), specular=0.0, emission=glow * 1.4),
        )
        for i in range(5)
    ]


def _frontage(
    rng: np.random.Generator,
    start: float,
    end: float,
    side: int,
    density: float,
    styles: list,
    crowns: list[tuple[Mesh, Look]],
) -> Iterator[tuple[Mesh, Look]]:
    """Buildings, and gardens with trees and walls between them."""
    x = start
    while x < end:
        width = rng.uniform(9, 20)
        if rng.random() < density:
            yield from _building(rng, x, width, side, styles[rng.integers(len(styles))])
        else:
            wall = m.box(width, 0.25, rng.uniform(0.7, 1.6), 1.5).at(x + width / 2, side * (PAVEMENT + 0.3), 0.4)
            yield wall, CONCRETE
            for _ in range(int(rng.integers(1, 4))):
                yield from _tree(
                    rng, x + rng.uniform(0, width), side * rng.uniform(PAVEMENT + 2.5, PAVEMENT + 12), crowns
                )
        x += width + (rng.uniform(1.5, 6) if rng.random() < 0.3 else 0.0)


def _building(
    rng: np.random.Generator, x: float, width: float, side: int, style: tuple[Look, Look]
) -> Iterator[tuple[Mesh, Look]]:
    storeys, depth = int(rng.integers(2, 6)), 11.0
    shop = rng.random() < 0.45
    base, top = (STOREY if shop else 0.0), STOREY * storeys
    front = side * (PAVEMENT + rng.choice([0.1, 0.1, 1.5]))
    back = front + side * depth
    corners = [(x, front), (x + width, front), (x + width, back), (x, back)]
    if side > 0:
        corners = corners[::1]
    for i in range(4):
        (x0, y0), (x1, y1) = corners[i], corners[(i + 1) % 4]
        if side < 0:
            (x0, y0), (x1, y1) = (x1, y1), (x0, y0)
        along = (x1 - x0, y1 - y0, 0)
        repeats = float(np.hypot(*along[:2])) / 12
        yield m.quad((x0, y0, base), along, (0, 0, top - base), (repeats, (top - base) / (2 * STOREY)), 2), style[0]
        if shop:
            yield m.quad((x0, y0, 0), along, (0, 0, STOREY), (repeats, 1)), style[1]
    middle = (x + width / 2, (front + back) / 2)
    yield m.box(width + 0.3, depth + 0.3, 0.35, 3.0).at(*middle, top + 0.1), CONCRETE
    if rng.random() < 0.5:
        slope = rng.uniform(2.0, 3.6)
        outline = [(-depth / 2 - 0.3, 0), (depth / 2 + 0.3, 0), (0, slope)]
        yield m.extrude(outline, width).tiled(0.4, 0.4).turned("z", 90).at(*middle, top + 0.25), ROOF
    else:
        yield m.box(width * 0.3, depth * 0.3, 1.4, 2.0).at(*middle, top + 0.8), TAR
    for _ in range(int(rng.integers(0, 3))):  # chimneys
        yield m.box(0.6, 0.6, 1.6).at(x + rng.uniform(1, width - 1), middle[1], top + 2.2), CONCRETE


def _crowns(rng: np.random.Generator) -> list[tuple[Mesh, Look]]:
    """A few crowns in the greens of the season."""
    palette = [(78, 108, 44), (60, 92, 46), (104, 118, 46), (150, 110, 40), (92, 104, 60)]
    season = rng.permutation(len(palette))[:2]
    looks = [Look(f"foliage {n}", skin.foliage(palette[n]), specular=0.0) for n in season]
    return [(m.leaves(rng, 260, 0.16), look) for look in (*looks, looks[0])]


def _tree(
    rng: np.random.Generator, x: float, y: float, crowns: list[tuple[Mesh, Look]], tall: float = 0.0
) -> Iterator[tuple[Mesh, Look]]:
    height = tall or rng.uniform(4.5, 9)
    mesh, look = crowns[rng.integers(len(crowns))]
    spread = height * rng.uniform(0.24, 0.36)
    trunk = m.lathe([(0.045 * height * 0.5, 0), (0.016 * height, height * 0.62)], 9, (2, 4)).at(x, y, 0)
    yield trunk, BARK
    crown = mesh.turned("z", rng.uniform(0, 360)).scaled(spread, spread, height * 0.33)
    yield crown.at(x, y, height * 0.68), look
    inner = m.ellipsoid(spread * 0.6, spread * 0.6, height * 0.22, 8).at(x, y, height * 0.68)
    yield inner.tiled(0.05, 0.05), look


def _furniture(
    rng: np.random.Generator,
    start: float,
    end: float,
    side: int,
    greenery: float,
    crowns: list[tuple[Mesh, Look]],
    lit: bool,
) -> Iterator[tuple[Mesh, Look]]:
    """Street trees, lamps, signs, bins and bollards along the kerb."""
    y = side * (PARKING + 0.6)
    height = rng.uniform(5, 7.5)
    for x in np.arange(start + rng.uniform(0, 12), end, rng.uniform(10, 16)):
        if rng.random() < greenery * 0.7:
            yield from _tree(rng, x, y, crowns, height * rng.uniform(0.85, 1.15))
    for x in np.arange(start + rng.uniform(0, 25), end, 24.0):
        yield m.lathe([(0.11, 0), (0.09, 1.2), (0.055, 6.8)], 10).at(x, y, KERB), POST
        yield m.rod((x, y, 6.85), (x, y - side * 1.7, 7.15), 0.045), POST
        yield m.box(0.3, 0.7, 0.1).at(x, y - side * 2.0, 7.15), POST
        yield m.box(0.26, 0.6, 0.04).at(x, y - side * 2.0, 7.08), LAMP_ON if lit else LAMP_OFF
    for x in np.arange(start + rng.uniform(5, 40), end, rng.uniform(25, 50)):
        yield from _sign(rng, x, y)
    for x in np.arange(start + rng.uniform(5, 30), end, rng.uniform(30, 60)):
        yield (
            m.lathe([(1e-4, 0), (0.2, 0.0), (0.24, 0.8), (0.2, 0.84), (0.2, 0.95), (1e-4, 1.0)], 14).at(
                x, side * (PAVEMENT - 0.5), KERB
            ),
            BIN,
        )
    if rng.random() < 0.5:
        for x in np.arange(start, end, rng.uniform(3, 6)):
            yield m.lathe([(0.07, 0), (0.07, 0.85), (1e-4, 0.95)], 8).at(x, side * (PARKING + 0.25), KERB), POST


def _sign(rng: np.random.Generator, x: float, y: float) -> Iterator[tuple[Mesh, Look]]:
    kind = int(rng.integers(3))
    yield m.rod((x, y, 0), (x, y, 2.9), 0.035), POST
    size = (0.7, 0.7, 1.3)[kind]
    z = 2.5 if kind < 2 else 3.1
    face = m.quad((x - 0.05, y + size / 2, z - 0.35), (0, -size, 0), (0, 0, 0.7))
    if kind == 0:
        disc = m.lathe([(0.35, 0), (1e-4, 0)], 24)
        uv = disc.vertices[:, :2] / 0.7 + 0.5
        face = Mesh(disc.vertices, disc.normals, np.stack([1 - uv[:, 1], uv[:, 0]], 1), disc.faces)
        face = face.turned("y", -90).at(x - 0.05, y, z)
    yield face, (LIMIT, BLUE, BOARD)[kind]
    yield (
        m.box(0.02, size * 0.98, 0.68).at(x - 0.035, y, z)
        if kind
        else m.cylinder(0.34, 0.02).turned("y", 90).at(x - 0.035, y, z),
        POST,
    )


def _parked(
    rng: np.random.Generator, start: float, end: float, side: int, density: float
) -> Iterator[tuple[Mesh, Look]]:
    fleet = [merged(vehicles.car(rng, False) if i < 6 else vehicles.van(rng, False)) for i in range(8)]
    for x in np.arange(start + 3, end, 6.2):
        if rng.random() < density:
            turn = 0.0 if side < 0 or rng.random() < 0.2 else 180.0
            at = x + rng.uniform(-0.4, 0.4), side * (PARKING - 1.1 + rng.uniform(-0.1, 0.1))
            turn += rng.normal(0, 1)
            for mesh, look in fleet[rng.integers(len(fleet))]:
                yield mesh.turned("z", turn).at(*at), look
