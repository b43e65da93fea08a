"""What lies, rolls or falls where it does not belong on a street. Each kind is a function of a generator, in metres."""

from __future__ import annotations

import numpy as np

from flowclas_ros.training.scenes import compounds
from flowclas_ros.training.scenes import mesh as m
from flowclas_ros.training.scenes import textures as tex
from flowclas_ros.training.scenes.mesh import Mesh
from flowclas_ros.training.scenes.world import Look

Parts = list[tuple[Mesh, Look]]

PINE = Look("pine boards", tex.planks((186, 142, 90)))
OAK = Look("dark wood", tex.planks((112, 74, 46)), specular=0.3)
STEEL = Look("bare steel", tex.mottled((150, 152, 156), 0.12), specular=0.7, shininess=0.5)
BLACK = Look("black rubber", tex.ribs((38, 38, 40), 24, 0.3), specular=0.1)
STONE = Look("stone", tex.mottled((128, 120, 110), 0.22, 6))
BLUE_DRUM = Look("blue drum", tex.ribs((36, 84, 168), 2, 0.15), specular=0.4, shininess=0.5)
RUST = Look("rusty drum", tex.mottled((142, 76, 44), 0.3, 4), specular=0.2)
RED_BOTTLE = Look("red bottle", tex.mottled((190, 38, 30), 0.08), specular=0.5, shininess=0.5)
PLAID = Look("plaid", tex.fabric((156, 40, 52), (60, 50, 90)))
TEAL = Look("teal cloth", tex.fabric((40, 128, 128), (30, 96, 104)))
MUSTARD = Look("mustard cloth", tex.fabric((200, 154, 50), (170, 124, 40)))
CARDBOARD = Look("cardboard", tex.label((186, 148, 100), (90, 60, 40)))
ENAMEL = Look("enamel", tex.mottled((214, 214, 208), 0.05, 4), specular=0.5, shininess=0.6)
TICKING = Look("ticking", tex.ribs((206, 200, 190), 10, 0.14))
PINK = Look("pink shell", tex.label((210, 88, 130), (240, 200, 210)), specular=0.5, shininess=0.5)
GREEN = Look("green tub", tex.mottled((50, 140, 70), 0.08), specular=0.4, shininess=0.4)
DARK_FUR = Look("dark coat", tex.fur((92, 66, 44), (40, 32, 28)))
PALE_FUR = Look("pale coat", tex.fur((190, 160, 118), (120, 86, 56)))
DEER_FUR = Look("red-brown coat", tex.fur((164, 102, 56), (196, 150, 100)))
HOOF = Look("hoof", None, (0.12, 0.1, 0.09))


def crate(rng: np.random.Generator) -> Parts:
    """A wooden crate with corner posts."""
    x, y, z = rng.uniform(0.6, 1.1, 3)
    posts = [(m.box(0.09, 0.09, z + 0.04).at(a * x / 2, b * y / 2, 0), OAK) for a in (-1, 1) for b in (-1, 1)]
    return [(m.box(x, y, z, 0.5), PINE), *posts]


def barrel(rng: np.random.Generator) -> Parts:
    """A steel or plastic drum."""
    profile = [
        (1e-4, -0.45),
        (0.29, -0.45),
        (0.31, -0.42),
        (0.3, -0.15),
        (0.325, -0.13),
        (0.3, -0.11),
        (0.3, 0.13),
        (0.325, 0.15),
        (0.3, 0.17),
        (0.31, 0.42),
        (0.29, 0.45),
        (1e-4, 0.45),
    ]
    lying = 90 if rng.random() < 0.4 else 0
    return [(m.lathe(profile, 22, (1, 1)).turned("y", lying), BLUE_DRUM if rng.random() < 0.5 else RUST)]


def suitcase(rng: np.random.Generator) -> Parts:
    """A suitcase with its handle out."""
    shell = PINK if rng.random() < 0.5 else TEAL
    handle = m.tube(np.array([[-0.16, 0, 0.35], [-0.16, 0, 0.62], [0.16, 0, 0.62], [0.16, 0, 0.35]]), 0.02)
    wheels = [(m.cylinder(0.05, 0.05, 10).turned("x", 90).at(x, 0, -0.38), BLACK) for x in (-0.2, 0.2)]
    return [(m.box(0.52, 0.28, 0.74), shell), (m.box(0.54, 0.05, 0.76), BLACK), (handle, STEEL), *wheels]


def dog(rng: np.random.Generator) -> Parts:
    """A standing dog."""
    return _animal(DARK_FUR if rng.random() < 0.5 else PALE_FUR, rng.uniform(0.85, 1.2), 0.34, antlers=False)


def armchair(rng: np.random.Generator) -> Parts:
    """An upholstered armchair."""
    cloth = PLAID if rng.random() < 0.5 else MUSTARD
    return _seat(cloth, 0.95)


def table(rng: np.random.Generator) -> Parts:
    """A table, standing or on its side."""
    wood = OAK if rng.random() < 0.5 else PINE
    parts = [(m.box(1.3, 0.8, 0.06, 0.8).at(z=0.36), wood)]
    parts += [(m.box(0.08, 0.08, 0.72).at(x, y, 0), wood) for x in (-0.56, 0.56) for y in (-0.32, 0.32)]
    return [(mesh.turned("x", 90), look) for mesh, look in parts] if rng.random() < 0.5 else parts


def pallet(rng: np.random.Generator) -> Parts:
    """Pallets in a stack."""
    parts: Parts = []
    for layer in range(int(rng.integers(2, 5))):
        z = 0.17 * layer
        parts += [(m.box(1.2, 0.13, 0.03).at(0, y, z + 0.12), PINE) for y in np.linspace(-0.38, 0.38, 5)]
        parts += [(m.box(0.12, 0.86, 0.1).at(x, 0, z + 0.055), PINE) for x in (-0.52, 0, 0.52)]
    return parts


def gas_bottle(rng: np.random.Generator) -> Parts:
    """A gas bottle with its collar, upright or lying."""
    lying = 90 if rng.random() < 0.5 else 0
    body = m.lathe([(1e-4, -0.5), (0.2, -0.48), (0.21, 0.3), (0.15, 0.42), (0.06, 0.46), (1e-4, 0.46)], 20)
    collar = m.lathe([(0.14, 0.4), (0.14, 0.58)], 18)
    parts = [(body, RED_BOTTLE), (collar, STEEL), (m.cylinder(0.04, 0.14).at(z=0.5), OAK)]
    return [(mesh.turned("y", lying), look) for mesh, look in parts]


def boulder(rng: np.random.Generator) -> Parts:
    """A rock, smaller ones beside it."""
    parts = [(m.rock(rng, rng.uniform(0.35, 0.65), rng.uniform(0.35, 0.65), rng.uniform(0.25, 0.45)), STONE)]
    return parts + [
        (m.rock(rng, 0.14, 0.12, 0.1).at(rng.choice([-1, 1]) * 0.62, rng.uniform(-0.3, 0.3), -0.18), STONE)
        for _ in range(2)
    ]


def wheel(rng: np.random.Generator) -> Parts:
    """A lost wheel, upright along x."""
    r = rng.uniform(0.34, 0.5)
    tyre = m.lathe(
        [(r * 0.6, -0.11), (r * 0.93, -0.13), (r, -0.09), (r, 0.09), (r * 0.93, 0.13), (r * 0.6, 0.11)], 26, (6, 1)
    )
    spokes = [(m.box(r * 1.1, 0.09, 0.1).turned("z", 36 * i), STEEL) for i in range(5)]
    parts = [(tyre, BLACK), (m.cylinder(r * 0.62, 0.14, 20), HOOF), *spokes, (m.cylinder(0.09, 0.16, 10), STEEL)]
    return [(mesh.turned("x", 90), look) for mesh, look in parts]


def cardboard_boxes(rng: np.random.Generator) -> Parts:
    """Fallen cardboard boxes, a flap open."""
    x, y, z = rng.uniform(0.5, 0.9, 3)
    flap = m.box(x, 0.02, y * 0.5).turned("x", 35).at(0, -y / 2 - 0.12, z / 2 + 0.14)
    other = m.box(0.45, 0.4, 0.36).turned("z", rng.uniform(0, 90)).at(x * 0.85, 0.1, 0.18 - z / 2)
    return [(m.box(x, y, z), CARDBOARD), (flap, CARDBOARD), (other, CARDBOARD)]


def deer(rng: np.random.Generator) -> Parts:
    """A standing deer."""
    return _animal(DEER_FUR, rng.uniform(1.5, 1.8), 0.62, antlers=True)


def sofa(rng: np.random.Generator) -> Parts:
    """A two-seater."""
    return _seat(TEAL, 1.9)


def fridge(rng: np.random.Generator) -> Parts:
    """A refrigerator, upright or on its back."""
    parts = [
        (m.box(0.62, 0.62, 1.65), ENAMEL),
        (m.box(0.58, 0.03, 0.5).at(0, -0.32, 0.52), ENAMEL),
        (m.box(0.58, 0.03, 0.98).at(0, -0.32, -0.28), ENAMEL),
        (m.box(0.04, 0.06, 0.3).at(-0.23, -0.36, 0.48), STEEL),
        (m.box(0.04, 0.06, 0.4).at(-0.23, -0.36, 0.0), STEEL),
        (m.box(0.6, 0.02, 1.6).at(0, 0.32, 0), HOOF),
    ]
    return [(mesh.turned("x", 90), look) for mesh, look in parts] if rng.random() < 0.5 else parts


def ladder(rng: np.random.Generator) -> Parts:
    """A lying aluminium ladder."""
    length = rng.uniform(1.8, 2.6)
    rails = [(m.box(length, 0.05, 0.08).at(y=y), STEEL) for y in (-0.22, 0.22)]
    return [
        *rails,
        *[
            (m.rod((x, -0.22, 0), (x, 0.22, 0), 0.025), MUSTARD)
            for x in np.arange(-length / 2 + 0.15, length / 2, 0.28)
        ],
    ]


def mattress(rng: np.random.Generator) -> Parts:
    """A bent mattress."""
    bend = rng.uniform(8, 30)
    half = m.box(0.95, 1.3, 0.22, 0.6).at(0.47)
    return [(half.turned("y", -bend), TICKING), (half.turned("z", 180).turned("y", bend), TICKING)]


def wheelbarrow(rng: np.random.Generator) -> Parts:
    """A wheelbarrow."""
    tub = m.extrude([(-0.32, 0.0), (0.34, 0.0), (0.6, 0.4), (-0.48, 0.34)], 0.52, 1.35).at(z=0.28)
    handles = [(m.rod((0.55, s * 0.1, 0.2), (-1.05, s * 0.28, 0.52), 0.028), OAK) for s in (-1, 1)]
    legs = [(m.rod((-0.35, s * 0.24, 0.4), (-0.42, s * 0.24, 0), 0.025), STEEL) for s in (-1, 1)]
    return [(tub, GREEN), *handles, *legs, (m.cylinder(0.2, 0.09, 16).turned("x", 90).at(0.68, 0, 0.2), BLACK)]


def _animal(coat: Look, length: float, leg: float, antlers: bool) -> Parts:
    """Four legs, trunk, neck, head, ears, tail; looking along x."""
    body, top = length * 0.55, leg + length * 0.16
    parts: Parts = [(m.ellipsoid(body * 0.55, length * 0.14, length * 0.155).at(z=top), coat)]
    for x in (-body * 0.38, body * 0.38):
        for y in (-0.075 * length, 0.075 * length):
            parts.append((m.rod((x, y, top), (x * 1.05, y, leg * 0.45), 0.045 * length, 8), coat))
            parts.append(
                (m.rod((x * 1.05, y, leg * 0.5), (x * 1.02, y, 0), 0.026 * length, 8), HOOF if antlers else coat)
            )
    rise = 0.34 if antlers else 0.16
    head = np.array([body * 0.72, 0, top + rise * length])
    parts.append((m.rod((body * 0.4, 0, top + 0.02), head, 0.065 * length, 10), coat))
    parts.append(
        (
            m.ellipsoid(0.13 * length, 0.06 * length, 0.07 * length)
            .turned("y", 18)
            .at(*(head + [0.06 * length, 0, 0])),
            coat,
        )
    )
    parts.append(
        (
            m.ellipsoid(0.025 * length, 0.025 * length, 0.02 * length).at(
                *(head + [0.18 * length, 0, -0.045 * length])
            ),
            HOOF,
        )
    )
    for s in (-1, 1):
        parts.append(
            (
                m.ellipsoid(0.02 * length, 0.03 * length, 0.06 * length)
                .turned("x", -s * 25)
                .at(*(head + [-0.03 * length, s * 0.06 * length, 0.08 * length])),
                coat,
            )
        )
        if antlers:
            points = np.array([[0, 0.03 * s, 0.06], [-0.05, 0.14 * s, 0.2], [0.03, 0.2 * s, 0.36]]) * length
            parts.append((m.tube(points + head, 0.014 * length), PINE))
            parts.append(
                (m.rod(points[1] + head, points[1] + head + [0.1 * length, 0.02, 0.07 * length], 0.011 * length), PINE)
            )
    tail = np.array([[-body * 0.52, 0, top + 0.05], [-body * 0.72, 0, top + (0.02 if antlers else 0.2) * length]])
    return [*parts, (m.tube(tail, 0.025 * length), coat)]


def _seat(cloth: Look, width: float) -> Parts:
    """An armchair or a sofa of this width, looking along -y."""
    parts = [
        (m.box(width, 0.8, 0.3, 0.5).at(z=0.27), cloth),
        (m.box(width, 0.2, 0.55, 0.5).turned("x", -10).at(0, 0.36, 0.66), cloth),
    ]
    parts += [(m.box(0.18, 0.82, 0.36, 0.5).at(s * width / 2, 0, 0.46), cloth) for s in (-1, 1)]
    seats = max(1, round(width / 0.9))
    for i in range(seats):
        x = (i - (seats - 1) / 2) * (width - 0.2) / seats
        parts.append((m.box((width - 0.22) / seats, 0.62, 0.13, 0.5).at(x, -0.06, 0.48), cloth))
    return parts + [
        (m.box(0.07, 0.07, 0.12).at(x * width * 0.42, y, 0.06), OAK) for x in (-1, 1) for y in (-0.33, 0.33)
    ]


FIT = {f.__name__: f for f in (crate, barrel, armchair, table, gas_bottle, boulder)} | compounds.KINDS
VAL = {f.__name__: f for f in (suitcase, dog, pallet)}
TEST = {f.__name__: f for f in (wheel, cardboard_boxes, deer, sofa, fridge, ladder, mattress, wheelbarrow)}
