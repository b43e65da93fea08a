"""Cars, vans, lorries and buses: normal traffic, in metres, driving along +x, standing on z = 0."""

from __future__ import annotations

import numpy as np

from flowclas_ros.training.scenes import mesh as m
from flowclas_ros.training.scenes import textures as tex
from flowclas_ros.training.scenes.mesh import Mesh
from flowclas_ros.training.scenes.world import Look

Parts = list[tuple[Mesh, Look]]

COLOURS = [
    (0.72, 0.72, 0.74),
    (0.12, 0.12, 0.14),
    (0.78, 0.78, 0.76),
    (0.42, 0.44, 0.47),
    (0.5, 0.09, 0.09),
    (0.1, 0.18, 0.42),
    (0.2, 0.3, 0.24),
    (0.55, 0.5, 0.4),
]
GLASS = Look("car glass", None, (0.09, 0.11, 0.13), specular=1.0, shininess=0.8)
TYRE = Look("tyre", tex.mottled((30, 30, 32), 0.1), specular=0.1)
RIM = Look("rim", tex.mottled((150, 152, 156), 0.1), specular=0.8, shininess=0.6)
TRIM = Look("black trim", None, (0.06, 0.06, 0.07), specular=0.3)
PLATE = Look("number plate", None, (0.85, 0.85, 0.8))
HEAD_OFF = Look("lamp", None, (0.75, 0.77, 0.8), specular=1.0, shininess=0.8)
HEAD_ON = Look("lamp lit", None, (1.0, 0.97, 0.85), emission=1.0)
TAIL_OFF = Look("tail lamp", None, (0.45, 0.03, 0.03), specular=0.6)
TAIL_ON = Look("tail lamp lit", None, (1.0, 0.12, 0.08), emission=1.0)
CARGO = Look("cargo box", tex.ribs((196, 196, 190), 16, 0.05), specular=0.2)


def paint(rng: np.random.Generator) -> Look:
    """A car's colour."""
    number = int(rng.integers(len(COLOURS)))
    return Look(f"paint {number}", None, COLOURS[number], specular=0.8, shininess=0.6)


def vehicle(rng: np.random.Generator, lit: bool) -> Parts:
    """Mostly cars."""
    kind = rng.random()
    if kind < 0.7:
        return car(rng, lit)
    return van(rng, lit) if kind < 0.9 else lorry(rng, lit)


def car(rng: np.random.Generator, lit: bool) -> Parts:
    """A hatchback, saloon or estate."""
    length, width, height = rng.uniform(3.8, 4.7), rng.uniform(1.7, 1.85), rng.uniform(1.42, 1.6)
    h, tail = length / 2, rng.uniform(0.0, 0.75)
    waist, floor = height * 0.6, 0.2
    body = [
        (-h, floor),
        (h - 0.05, floor),
        (h, 0.5),
        (h - 0.12, waist * 0.82),
        (h - 1.05, waist),
        (-h + 0.06, waist),
        (-h, waist * 0.7),
    ]
    cabin = [(-h + 0.12 + tail, waist - 0.03), (h - 1.0, waist - 0.03), (h - 1.75, height), (-h + 0.55 + tail, height)]
    roof = [(-h + 0.5 + tail, height - 0.06), (h - 1.65, height - 0.06), (h - 1.8, height), (-h + 0.6 + tail, height)]
    colour = paint(rng)
    parts: Parts = [(m.extrude(body, width, 0.92), colour), (m.extrude(cabin, width * 0.9, 0.78), GLASS)]
    parts.append((m.extrude(roof, width * 0.73, 0.96).at(z=0.015), colour))
    for x in (h - 1.36, (h - 1.75 - h + 0.55 + tail) / 2 + 0.0, -h + 0.34 + tail):  # pillars
        parts += [
            (
                m.box(0.07, 0.03, height - waist - 0.05)
                .turned("x", side * 11)
                .at(x - 0.1, side * width * 0.405, (height + waist) / 2),
                colour,
            )
            for side in (-1, 1)
        ]
    return (
        parts + _wheels(h - 0.75, width, 0.31) + _lamps(h, width, waist * 0.78, lit) + _details(h, width, waist, colour)
    )


def van(rng: np.random.Generator, lit: bool) -> Parts:
    """A delivery van."""
    h, width, height = rng.uniform(2.4, 2.8), 1.95, rng.uniform(2.0, 2.4)
    body = [
        (-h, 0.28),
        (h - 0.05, 0.28),
        (h, 0.6),
        (h - 0.1, 1.0),
        (h - 0.75, 1.15),
        (h - 1.5, height),
        (-h + 0.05, height),
    ]
    screen = [(h - 0.82, 1.16), (h - 0.70, 1.16), (h - 1.36, height - 0.16), (h - 1.48, height - 0.16)]
    colour = paint(rng) if rng.random() < 0.5 else Look("paint white", None, (0.82, 0.82, 0.8), specular=0.6)
    parts: Parts = [
        (m.extrude(body, width, 0.93), colour),
        (m.extrude(screen, width * 0.86, 0.95).at(0.05, 0, 0.02), GLASS),
    ]
    parts += [
        (m.box(0.75, 0.03, 0.55).turned("x", side * 4).at(h - 1.6, side * width * 0.483, 1.45), GLASS)
        for side in (-1, 1)
    ]
    parts.append((m.box(0.03, width * 0.7, 0.5).at(-h - 0.0, 0, height - 0.55), GLASS))
    return parts + _wheels(h - 0.8, width, 0.35) + _lamps(h, width, 0.75, lit) + _details(h, width, 1.0, colour)


def lorry(rng: np.random.Generator, lit: bool) -> Parts:
    """A box lorry, or a bus when windows take its sides."""
    h, width, height = rng.uniform(3.4, 4.6), 2.35, rng.uniform(2.9, 3.2)
    colour = paint(rng)
    if rng.random() < 0.4:
        parts: Parts = [
            (m.box(2 * h, width, height - 0.5).at(z=height / 2 + 0.1), colour),
            (m.box(0.04, width * 0.92, 1.3).at(h, 0, 1.9), GLASS),
        ]
        parts += [(m.box(2 * h - 0.8, 0.04, 0.9).at(0, side * width / 2, 2.0), GLASS) for side in (-1, 1)]
        parts += [
            (m.box(0.1, 0.05, 0.95).at(x, side * width / 2, 2.0), colour)
            for side in (-1, 1)
            for x in np.arange(-h + 1.2, h - 0.5, 1.3)
        ]
        parts.append((m.box(0.04, width * 0.8, 0.8).at(-h, 0, 2.1), GLASS))
    else:
        cab = m.extrude([(h - 1.7, 0.4), (h, 0.4), (h, 1.3), (h - 0.25, 2.3), (h - 1.7, 2.4)], width * 0.94, 0.96)
        parts = [(cab, colour), (m.box(2 * h - 1.9, width, height - 0.8, 1.2).at(-0.95, 0, height / 2 + 0.4), CARGO)]
        parts.append((m.box(0.06, width * 0.8, 0.8).turned("y", -14).at(h - 0.1, 0, 1.75), GLASS))
        parts.append((m.box(2 * h - 1.0, 0.9, 0.3).at(-0.3, 0, 0.7), TRIM))
    return parts + _wheels(h - 1.1, width, 0.46) + _lamps(h, width, 0.8, lit)


def _wheels(reach: float, width: float, radius: float) -> Parts:
    parts: Parts = []
    for x in (-reach, reach):
        for side in (-1, 1):
            at = (x, side * (width / 2 - 0.09), radius)
            parts.append((m.cylinder(radius, 0.22, 18).turned("x", 90).at(*at), TYRE))
            parts.append((m.cylinder(radius * 0.62, 0.235, 12).turned("x", 90).at(*at), RIM))
    return parts


def _lamps(h: float, width: float, z: float, lit: bool) -> Parts:
    head, tail = (HEAD_ON, TAIL_ON) if lit else (HEAD_OFF, TAIL_OFF)
    lamp, rear = m.ellipsoid(0.1, 0.17, 0.08, 10), m.box(0.06, 0.28, 0.14)
    return [
        (shape.at(x, side * width * 0.37, z), look)
        for shape, x, look in ((lamp, h - 0.1, head), (rear, -h, tail))
        for side in (-1, 1)
    ]


def _details(h: float, width: float, waist: float, colour: Look) -> Parts:
    return [
        (m.box(0.04, 0.5, 0.11).at(h, 0, 0.42), PLATE),
        (m.box(0.04, 0.5, 0.11).at(-h - 0.005, 0, waist * 0.62), PLATE),
        (m.box(0.1, width * 0.9, 0.16).at(h - 0.02, 0, 0.3), TRIM),
        (m.box(0.1, width * 0.9, 0.14).at(-h + 0.02, 0, 0.3), TRIM),
        *[(m.box(0.12, 0.18, 0.12).at(h - 1.45, side * (width / 2 + 0.07), waist + 0.08), colour) for side in (-1, 1)],
    ]
