"""What drifts where it does not belong: tools, panels, debris. Each kind is a function of a generator, in metres."""

from __future__ import annotations

import numpy as np

from flowclas_ros.training.scenes import compounds, orbit
from flowclas_ros.training.scenes import mesh as m
from flowclas_ros.training.scenes import textures as tex
from flowclas_ros.training.scenes.world import Look, Parts

STEEL = Look("tool steel", tex.mottled((158, 160, 166), 0.12), specular=0.9, shininess=0.6)
DARK = Look("dark steel", tex.mottled((70, 72, 78), 0.15), specular=0.6, shininess=0.5)
RUBBER = Look("grip rubber", tex.mottled((34, 34, 36), 0.15), specular=0.1)
RED = Look("red paint", tex.mottled((190, 40, 30), 0.1), specular=0.4, shininess=0.5)
ORANGE = Look("orange cloth", tex.fabric((226, 112, 26), (190, 84, 16)))
YELLOW = Look("yellow paint", tex.mottled((222, 176, 34), 0.08), specular=0.4, shininess=0.5)
GREEN = Look("green tank paint", tex.mottled((54, 118, 70), 0.1), specular=0.5, shininess=0.5)
BLUE = Look("blue cloth", tex.fabric((46, 70, 150), (30, 44, 110)))
STRIPES = Look("hazard stripes", tex.hazard_stripes, specular=0.3)
BOARD = Look("circuit board", tex.label((34, 104, 58), (196, 170, 90)), specular=0.3)
CRUMPLED = Look("torn foil", tex.foil((205, 165, 84)), specular=0.9, shininess=0.7)
SILVER = Look("silver foil", tex.foil((190, 192, 200)), specular=0.9, shininess=0.7)
SHARD = Look("cell shard", tex.solar_cells, specular=0.8, shininess=0.7)
CARBON = Look("carbon fibre", tex.fabric((44, 46, 50), (74, 76, 82)), specular=0.5, shininess=0.5)
COPPER = Look("copper coil", tex.ribs((186, 104, 60), 40), specular=0.6, shininess=0.5)
BRASS = Look("brass", tex.mottled((190, 150, 70), 0.1), specular=0.8, shininess=0.6)
GLASS = Look("lens glass", None, (0.1, 0.13, 0.25), specular=1.0, shininess=0.9)
WHITE = Look("white box", tex.label((206, 204, 196), (160, 40, 40)), specular=0.3)
THREAD = Look("thread", tex.ribs((150, 150, 155), 20), specular=0.8)
CELL_BACK = Look("panel back", tex.mottled((150, 96, 50), 0.15))
SCORCHED = Look("scorched metal", tex.mottled((138, 112, 92), 0.35, 4), specular=0.6, shininess=0.5)
DISH_FACE = Look("dish face", tex.mottled((214, 206, 188), 0.06))


def wrench(rng: np.random.Generator) -> Parts:
    """An open-ended spanner."""
    length = rng.uniform(0.5, 0.8)
    parts = [(m.box(length, 0.07, 0.03, 0.2), STEEL)]
    for end in (-1, 1):
        x = end * length / 2
        parts.append((m.cylinder(0.08, 0.04, 14).at(x), STEEL))
        for side in (-1, 1):
            parts.append((m.box(0.12, 0.045, 0.04).turned("z", end * side * 8).at(x + end * 0.11, side * 0.05), STEEL))
    return parts


def hammer(rng: np.random.Generator) -> Parts:
    """A hammer with a coloured handle."""
    grip = [RED, YELLOW, RUBBER][rng.integers(3)]
    return [
        (m.cylinder(0.028, 0.45, 10).at(z=0.1), DARK),
        (m.cylinder(0.04, 0.26, 12).at(z=-0.22), grip),
        (m.cylinder(0.065, 0.2, 14).turned("y", 90).at(0.06, 0, 0.33), STEEL),
        (
            m.extrude([(0, -0.05), (0.2, -0.01), (0.2, 0.01), (0, 0.05)], 0.09).turned("z", 180).at(-0.04, 0, 0.33),
            STEEL,
        ),
    ]


def bolt(rng: np.random.Generator) -> Parts:
    """A large hexagonal bolt, its nut half-way."""
    length = rng.uniform(0.25, 0.45)
    look = STEEL if rng.random() < 0.6 else BRASS
    return [
        (m.cylinder(0.045, length, 12, (1, 8)), THREAD),
        (m.cylinder(0.1, 0.07, 6).at(z=length / 2), look),
        (m.cylinder(0.095, 0.06, 6).at(z=-length * 0.15), DARK),
    ]


def tool_bag(rng: np.random.Generator) -> Parts:
    """A soft bag with handles."""
    cloth = ORANGE if rng.random() < 0.6 else BLUE
    bag = m.ellipsoid(0.34, 0.2, 0.22)
    strap = np.array([[-0.2, 0, 0.17], [-0.14, 0, 0.32], [0.14, 0, 0.32], [0.2, 0, 0.17]])
    return [
        (bag.tiled(4, 3), cloth),
        (m.box(0.5, 0.28, 0.16).at(z=-0.12), cloth),
        (m.tube(strap + [0, 0.08, 0], 0.018), RUBBER),
        (m.tube(strap - [0, 0.08, 0], 0.018), RUBBER),
        (m.box(0.16, 0.03, 0.12).at(0, -0.2, 0), WHITE),
    ]


def canister(rng: np.random.Generator) -> Parts:
    """A gas bottle with a valve."""
    look = [GREEN, RED, YELLOW][rng.integers(3)]
    body = m.lathe([(1e-4, -0.3), (0.13, -0.28), (0.13, 0.2), (0.09, 0.28), (0.04, 0.3), (0.04, 0.36), (1e-4, 0.36)])
    return [
        (body, look),
        (m.ring(0.07, 0.014).at(z=0.4), DARK),
        (m.cylinder(0.02, 0.1, 8).at(z=0.38), BRASS),
        (m.cylinder(0.133, 0.06).at(z=0.05), WHITE),
    ]


def foil_sheet(rng: np.random.Generator) -> Parts:
    """A torn piece of insulation."""
    return [
        (m.sheet(rng, rng.uniform(0.5, 0.9), rng.uniform(0.35, 0.6), 0.05), CRUMPLED if rng.random() < 0.6 else SILVER)
    ]


def bracket(rng: np.random.Generator) -> Parts:
    """An angle of striped metal with holes."""
    parts = [(m.box(0.5, 0.22, 0.03), STRIPES), (m.box(0.03, 0.22, 0.34).at(-0.24, 0, 0.16), STRIPES)]
    parts += [(m.cylinder(0.035, 0.04, 10).at(x, y, 0), DARK) for x in (-0.05, 0.15) for y in (-0.06, 0.06)]
    return parts


def strut(rng: np.random.Generator) -> Parts:
    """A broken rod with fittings and a frayed end."""
    length = rng.uniform(0.7, 1.1)
    parts = [
        (m.rod((-length / 2, 0, 0), (length / 2, 0, 0), 0.04, 12), CARBON),
        (m.ring(0.06, 0.03).turned("y", 90).at(-length / 2), RED),
    ]
    for _ in range(7):
        tip = np.array([length / 2 + rng.uniform(0.05, 0.16), *rng.normal(0, 0.05, 2)])
        parts.append((m.rod((length / 2 - 0.02, 0, 0), tip, 0.01, 5), CARBON))
    return parts


def circuit_box(rng: np.random.Generator) -> Parts:
    """An open electronics unit."""
    parts = [
        (m.box(0.42, 0.32, 0.05), BOARD),
        (m.box(0.46, 0.03, 0.14).at(0, 0.17, 0.04), STEEL),
        (m.box(0.46, 0.03, 0.14).at(0, -0.17, 0.04), STEEL),
    ]
    for _ in range(8):
        x, y = rng.uniform(-0.17, 0.17), rng.uniform(-0.12, 0.12)
        parts.append(
            (
                m.box(rng.uniform(0.04, 0.1), rng.uniform(0.03, 0.08), 0.06).at(x, y, 0.05),
                RUBBER if rng.random() < 0.6 else BRASS,
            )
        )
    return parts


def cell_shard(rng: np.random.Generator) -> Parts:
    """A piece broken off a solar panel, its back brown."""
    points = np.array([[np.cos(a), np.sin(a)] for a in np.sort(rng.uniform(0, 2 * np.pi, 6))]) * rng.uniform(
        0.25, 0.5, (6, 1)
    )
    plate = m.extrude([(float(x), float(z)) for x, z in points], 0.02)
    return [(plate.tiled(2, 2), SHARD), (plate.scaled(0.97, 1.0, 0.97).at(y=0.014), CELL_BACK)]


def drill(rng: np.random.Generator) -> Parts:
    """A pistol-grip power tool."""
    return [
        (m.cylinder(0.09, 0.36, 16).turned("y", 90), YELLOW),
        (m.lathe([(0.085, 0), (0.05, 0.12), (0.03, 0.14), (0.03, 0.2), (1e-4, 0.2)]).turned("y", 90).at(0.18), DARK),
        (m.rod((0.36, 0, 0), (0.55, 0, 0), 0.014), STEEL),
        (m.box(0.11, 0.08, 0.3).turned("y", -12).at(-0.08, 0, -0.2), RUBBER),
        (m.box(0.2, 0.12, 0.1).at(-0.11, 0, -0.38), DARK),
        (m.box(0.14, 0.19, 0.02).at(-0.05, 0, 0.08), RUBBER),
    ]


def tank(rng: np.random.Generator) -> Parts:
    """A scorched spherical tank with a band and a stub."""
    r = rng.uniform(0.24, 0.36)
    return [
        (m.ellipsoid(r, r, r, 20), SCORCHED),
        (m.ring(r, 0.02, 30), DARK),
        (m.cylinder(0.05, 0.16).at(z=r), STEEL),
        (m.rod((0, 0, -r), (0.12, 0.05, -r - 0.18), 0.025), COPPER),
    ]


def camera(rng: np.random.Generator) -> Parts:
    """A lost photo camera with its lens."""
    return [
        (m.box(0.36, 0.18, 0.26, 0.3), CARBON),
        (m.box(0.14, 0.15, 0.08).at(z=0.16), CARBON),
        (m.cylinder(0.11, 0.2, 20).turned("x", 90).at(0, -0.18, -0.01), DARK),
        (m.ring(0.11, 0.016).turned("x", 90).at(0, -0.24, -0.01), RED),
        (m.ellipsoid(0.09, 0.03, 0.09).at(0, -0.28, -0.01), GLASS),
        (
            m.tube(
                np.array([[-0.18, 0, 0.1], [-0.32, 0.05, 0.25], [-0.1, 0.1, 0.42], [0.22, 0.06, 0.3], [0.18, 0, 0.1]]),
                0.014,
            ),
            ORANGE,
        ),
    ]


def cable_coil(rng: np.random.Generator) -> Parts:
    """A coil of hose with a loose end."""
    parts: list[tuple[m.Mesh, Look]] = []
    for i in range(4):
        parts.append(
            (
                m.ring(0.26 + 0.012 * rng.normal(), 0.032).turned("x", 5 * rng.normal()).at(z=0.055 * i),
                ORANGE if i % 2 else COPPER,
            )
        )
    t = np.linspace(0, 1, 9)
    loose = np.column_stack([0.26 + 0.35 * t, 0.18 * np.sin(5 * t), 0.2 * t + 0.1 * np.cos(6 * t)])
    return [*parts, (m.tube(loose, 0.03), ORANGE), (m.cylinder(0.045, 0.1).turned("y", 60).at(*loose[-1]), BRASS)]


def dish(rng: np.random.Generator) -> Parts:
    """A torn-off antenna dish."""
    depth = [(0.03, 0), (0.12, 0.015), (0.24, 0.06), (0.34, 0.13)]
    front = m.lathe([*depth[::-1]], 26)  # from the rim inwards: the normals look up
    back = m.lathe(depth, 26).at(z=-0.01)
    return [
        (front, DISH_FACE),
        (back, DARK),
        (m.rod((0, 0, 0), (0, 0, 0.3), 0.015), STEEL),
        (m.ellipsoid(0.04, 0.04, 0.05).at(z=0.3), RED),
        (m.tube(np.array([[0, 0, 0], [0.05, 0, -0.15], [0.2, 0.05, -0.22]]), 0.025), BRASS),
    ]


def small_satellite(rng: np.random.Generator) -> Parts:
    """A cube with cells, rods out at its corners."""
    parts = [
        (m.box(0.3, 0.3, 0.44), SHARD),
        (m.box(0.32, 0.32, 0.04).at(z=0.22), BRASS),
        (m.box(0.32, 0.32, 0.04).at(z=-0.22), BRASS),
    ]
    for x, y in ((1, 1), (-1, 1), (1, -1), (-1, -1)):
        parts.append((m.rod((x * 0.13, y * 0.13, 0.22), (x * 0.42, y * 0.42, 0.36), 0.01), STEEL))
    return [*parts, (m.cylinder(0.07, 0.06).at(z=0.26), GLASS)]


# Compounds of what the station itself is made of, so that not material alone tells what is foreign. No flakes: a shard
# of a panel is of the test's kinds.
HULL = Look("offcut of a hull", tex.hull(orbit.SKINS[1], 2, 4), specular=0.25, shininess=0.3)
STATION = (orbit.METAL, orbit.DARK, orbit.GOLD, orbit.WHITE, orbit.CELLS, orbit.PANEL_BACK, orbit.RADIATOR, HULL)
OFFCUTS = {
    f"offcut {name}": compounds.made_of(kind, STATION) for name, kind in compounds.KINDS.items() if name != "flake"
}


def flake(rng: np.random.Generator) -> Parts:
    """A sheet, shard or plate of anything but a solar panel."""
    while True:
        parts = compounds.flake(rng)
        if all(look.texture is not tex.solar_cells for _, look in parts):
            return parts


NAMED = {f.__name__: f for f in (wrench, bolt, canister, foil_sheet, bracket, strut)}
FIT = NAMED | compounds.KINDS | {"flake": flake} | OFFCUTS
VAL = {f.__name__: f for f in (hammer, tool_bag, circuit_box)}
TEST = {f.__name__: f for f in (cell_shard, drill, tank, camera, cable_coil, dish, small_satellite)}
