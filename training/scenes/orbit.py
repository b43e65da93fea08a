"""Outside a space station in low orbit: modules, truss, arrays, a moving manipulator, hard sun, the Earth below."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from flowclas_ros.training.scenes import mesh as m
from flowclas_ros.training.scenes import textures as tex
from flowclas_ros.training.scenes.drift import Kinds, adrift
from flowclas_ros.training.scenes.earth import Earth
from flowclas_ros.training.scenes.mesh import Mesh, rotation
from flowclas_ros.training.scenes.stage import Scene, looking
from flowclas_ros.training.scenes.world import Look, World

FOVY = 50.0  # degrees
RADIUS = 2.1  # metres, of a module
LAMP = 0.25  # of the sunlight's strength, in the camera's lamp: dark things show in shadows, which stay deep

METAL = Look("bare metal", tex.mottled((146, 148, 152), 0.1), specular=0.7, shininess=0.5)
DARK = Look("dark metal", tex.mottled((58, 60, 64), 0.12), specular=0.4, shininess=0.4)
RAIL = Look("handrail", tex.mottled((206, 160, 50), 0.08), specular=0.5, shininess=0.5)
GOLD = Look("gold insulation", tex.foil((196, 142, 58)), specular=0.6, shininess=0.5)
WHITE = Look("white blanket", tex.foil((204, 202, 196)), specular=0.15)
CELLS = Look("solar cells", tex.solar_cells, specular=0.6, shininess=0.7)
PANEL_BACK = Look("array back", tex.mottled((158, 116, 66), 0.08, 4))
RADIATOR = Look("radiator", tex.ribs((212, 212, 208), 10, 0.07), specular=0.2)
GLASS = Look("window glass", None, (0.06, 0.09, 0.13), specular=1.0, shininess=0.9)
ARM = Look("arm blanket", tex.hull((206, 204, 198), 2, 4), specular=0.2)
SKINS = [(196, 194, 188), (170, 172, 176), (188, 180, 164), (142, 150, 150)]

Parts = list[tuple[Mesh, Look]]


def build(seed: int, size: tuple[int, int], seconds: float, kinds: Kinds | None) -> Scene:
    """The scene of a seed, good for so many seconds, with foreign things of these kinds adrift."""
    rng = np.random.default_rng([seed, 1])
    world = World(seed, size, gravity=0.0, extent=13.0)
    side = float(rng.choice([-1, 1]))  # where arm and camera are, and no module in their way
    length = _modules(world, rng, -side)
    _truss(world, rng)
    rails = _arrays(world, rng)
    arm = Manipulator(world, rng, length, side)
    camera, eye = _camera(rng, arm, length)
    earth = Earth(seed, rng, eye)
    world.sun(-earth.sun, (0.95, 0.93, 0.88), reach=30.0)
    earthshine = np.array([0.15, 0.18, 0.24]) * rng.uniform(0.7, 1.4)
    world.fill((0, 0, 1.0), earthshine, ambient=(0.12, 0.126, 0.14))  # some of it by way of the station itself
    world.lamp(LAMP)
    scene = Scene(
        world,
        camera,
        earth,
        rails,
        arm.joints,
        (),
        FOVY,
        near=0.2,
        far=200.0,
        occlusion=0.7,
        exposure=float(rng.uniform(0.95, 1.2)),
    )
    return scene if kinds is None else replace(scene, foreign=adrift(scene, kinds, seed, size, seconds))


def _modules(world: World, rng: np.random.Generator, side: float) -> float:
    """Modules end to end along x, some with one more to the `side`, -1 or 1. Returns the row's length in metres."""
    count = int(rng.integers(2, 4))
    lengths = rng.uniform(4.5, 7.5, count)
    x = -float(lengths.sum() + 1.2 * (count - 1)) / 2
    start = x
    for number, length in enumerate(lengths):
        middle = x + length / 2
        skin = Look(f"hull {number}", tex.hull(SKINS[rng.integers(len(SKINS))]), specular=0.25, shininess=0.3)
        shell = GOLD if rng.random() < 0.2 else WHITE if rng.random() < 0.15 else skin
        world.fixed([(mesh.turned("y", 90).at(middle), look) for mesh, look in _module(rng, float(length), shell)])
        x += length + 1.2
        if number + 1 < count:  # the passage to the next
            ring = m.lathe([(1.0, -0.75), (1.15, -0.45), (1.15, 0.45), (1.0, 0.75)], 24, (6, 1)).turned("y", 90)
            world.fixed([(ring.at(x - 0.6), METAL), (m.ring(1.16, 0.08).turned("y", 90).at(x - 0.6), DARK)])
    if rng.random() < 0.7:
        parts = _module(rng, 4.0, Look("hull side", tex.hull(SKINS[rng.integers(len(SKINS))]), specular=0.25))
        at = start + rng.uniform(0.25, 0.75) * (x - 1.2 - start)
        world.fixed([(mesh.turned("x", -90 * side).at(at, side * (RADIUS + 2.2)), look) for mesh, look in parts])
    return x - 1.2 - start


def _module(rng: np.random.Generator, length: float, shell: Look) -> Parts:
    """A module along z about the origin: shell, cones, ports, windows, handrails, boxes."""
    h, r = length / 2, RADIUS
    body = m.lathe([(r, -h + 0.6 + (length - 1.2) * i / 8) for i in range(0, 9)], 40)
    ends = (
        m.lathe([(0.9, -h), (1.3, -h), (r, -h + 0.6)], 40, (4, 0.3)),
        m.lathe([(r, h - 0.6), (1.3, h), (0.9, h)], 40, (4, 0.3)),
    )
    parts: Parts = [(body, shell), (ends[0], METAL), (ends[1], METAL)]
    for z in (-h + 0.6, h - 0.6, *(rng.uniform(-h + 1, h - 1, 1))):
        parts.append(
            (m.lathe([(r, z - 0.09), (r + 0.07, z - 0.06), (r + 0.07, z + 0.06), (r, z + 0.09)], 40, (8, 1)), METAL)
        )
    for _ in range(int(rng.integers(5, 9))):
        parts += _on_shell(_handrail(rng.uniform(0.8, 1.8)), rng.uniform(0, 360), r, rng.uniform(-h + 1.3, h - 1.3))
    for _ in range(int(rng.integers(2, 5))):
        parts += _on_shell(_window(), rng.uniform(0, 360), r, rng.uniform(-h + 1, h - 1))
    for _ in range(int(rng.integers(3, 7))):
        block = m.box(rng.uniform(0.4, 1.1), rng.uniform(0.4, 0.9), rng.uniform(0.2, 0.5), 0.6)
        look = [GOLD, WHITE, METAL, DARK][rng.integers(4)]
        parts += _on_shell([(block.at(z=0.12), look)], rng.uniform(0, 360), r, rng.uniform(-h + 1, h - 1))
    if rng.random() < 0.6:
        parts += _on_shell(_antenna(), rng.uniform(0, 360), r, rng.uniform(-h + 1, h - 1))
    return parts


def _on_shell(parts: Parts, angle: float, radius: float, along: float) -> Parts:
    """Parts that stand on z = 0, put upright on a shell around z: their x goes along it."""
    return [
        (
            mesh.turned("y", -90).turned("x", 180).turned("z", 180).at(-radius).turned("z", angle).at(z=along),
            look,
        )
        for mesh, look in parts
    ]


def _handrail(length: float) -> Parts:
    ends = [(m.rod((x, 0, 0), (x, 0, 0.13), 0.03), DARK) for x in (-length / 2, length / 2)]
    return [*ends, (m.rod((-length / 2 - 0.05, 0, 0.13), (length / 2 + 0.05, 0, 0.13), 0.03), RAIL)]


def _window() -> Parts:
    frame = m.lathe([(0.46, -0.05), (0.46, 0.08), (0.32, 0.1), (0.3, 0.05)], 24)
    bolts = [
        (m.cylinder(0.025, 0.03, 6).at(0.39 * np.cos(a), 0.39 * np.sin(a), 0.1), DARK) for a in np.arange(8) * np.pi / 4
    ]
    return [(frame, METAL), (m.cylinder(0.31, 0.06, 24).at(z=0.03), GLASS), *bolts]


def _antenna() -> Parts:
    bowl = m.lathe([(0.55, 0.62), (0.35, 0.48), (0.08, 0.42)], 24)
    return [
        (m.rod((0, 0, 0), (0, 0, 0.45), 0.05), METAL),
        (bowl, WHITE),
        (m.lathe([(0.08, 0.4), (0.35, 0.46), (0.56, 0.61)], 24), METAL),
        (m.rod((0, 0, 0.42), (0, 0, 0.85), 0.02), DARK),
    ]


def _truss(world: World, rng: np.random.Generator) -> None:
    """A square lattice along y above the modules, with boxes on it."""
    half, bay, bays, height = 0.75, 1.5, 14, RADIUS + 1.7
    y = (np.arange(bays + 1) - bays / 2) * bay
    corners = [(sx * half, sz * half) for sx, sz in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    bars = [m.rod((x, y[0], z), (x, y[-1], z), 0.07) for x, z in corners]
    for i, at in enumerate(y):
        for (x0, z0), (x1, z1) in zip(corners, corners[1:] + corners[:1], strict=True):
            bars.append(m.rod((x0, at, z0), (x1, at, z1), 0.045, 6))
            if i < bays:
                a, b = ((x0, z0), (x1, z1)) if i % 2 else ((x1, z1), (x0, z0))
                bars.append(m.rod((a[0], at, a[1]), (b[0], at + bay, b[1]), 0.035, 6))
    world.fixed([(bar.at(z=height), METAL) for bar in bars])
    world.fixed(
        [
            (m.rod((x, 0.4 * s, RADIUS - 0.2), (x, 0.6 * s, height - half), 0.09), METAL)
            for x in (-0.6, 0.6)
            for s in (-1, 1)
        ]
    )
    for at in y[:-1]:
        if rng.random() < 0.55:
            block = m.box(rng.uniform(0.7, 1.3), rng.uniform(0.7, 1.3), rng.uniform(0.4, 1.0), 0.7)
            look = [GOLD, WHITE, METAL, DARK][rng.integers(4)]
            world.fixed(
                [(block.at(rng.uniform(-0.3, 0.3), at + bay / 2, height + float(rng.choice([-0.9, 0.9]))), look)]
            )
    for side in (-1, 1):  # radiators hang beneath
        if rng.random() < 0.8:
            fin = m.box(0.06, 2.6, 4.2, 1.3)
            world.fixed([(fin.turned("x", side * 35).at(x, side * 6.2, height - 2.8), RADIATOR) for x in (-1.0, 1.0)])


def _arrays(world: World, rng: np.random.Generator) -> dict:
    """Solar wings at the truss's ends that turn slowly after the sun."""
    rails, height = {}, RADIUS + 1.7
    tilt = rng.uniform(-60, 60)
    for number, (side, along) in enumerate((s, x) for s in (-1, 1) for x in (-1, 1)):
        parts: Parts = [(m.rod((0, 0, 0), (along * 11.5, 0, 0), 0.09), METAL)]
        for lane in (-1, 1):
            for piece in range(5):
                x0 = along * (2.0 + 1.9 * piece)
                corner = (min(x0, x0 + along * 1.8), lane * 1.3 - 1.1, 0.02)
                parts.append((m.quad(corner, (1.8, 0, 0), (0, 2.2, 0), (2, 2.4), 3), CELLS))
                back = (corner[0], corner[1] + 2.2, -0.02)
                parts.append((m.quad(back, (1.8, 0, 0), (0, -2.2, 0), (1, 1), 3), PANEL_BACK))
        name = f"wing {number}"
        world.body(name, parts)
        at = np.array([0.0, side * 10.8, height])

        def pose(time: float, at: np.ndarray = at) -> tuple[np.ndarray, np.ndarray]:
            return at, rotation("x", tilt + 0.3 * time)

        rails[name] = pose
    return rails


class Manipulator:
    """An arm of four hinges on a module's back: yaw, shoulder, elbow, wrist."""

    LINKS = (3.4, 3.0, 0.9)  # metres

    def __init__(self, world: World, rng: np.random.Generator, length: float, side: float):
        self.base = np.array([rng.uniform(-0.3, 0.3) * length, side * RADIUS * 0.75, RADIUS * 0.72])
        self._rest = np.array(
            [side * rng.uniform(40, 140), rng.uniform(20, 60), rng.uniform(40, 100), rng.uniform(-40, 40)]
        )
        self._swing = rng.uniform(3, 9, 4)
        self._pace, self._phase = rng.uniform(0.05, 0.13, 4), rng.uniform(0, 6.3, 4)
        self.joints = {f"joint {i}": self._angle(i) for i in range(4)}
        self._build(world)

    def _angle(self, joint: int) -> Callable[[float], float]:
        return lambda time: float(np.deg2rad(self.angles(time)[joint]))

    def angles(self, time: float) -> np.ndarray:
        """(4,) degrees."""
        return np.asarray(self._rest + self._swing * np.sin(2 * np.pi * self._pace * time + self._phase))

    def wrist(self, time: float) -> np.ndarray:
        """(3,) where the last hinge is, metres."""
        yaw, shoulder, elbow, _ = self.angles(time)
        out = rotation("z", yaw) @ rotation("y", shoulder)
        up = np.array([0, 0, 1.0])
        return np.asarray(
            self.base + [0, 0, 0.5] + out @ (self.LINKS[0] * up + rotation("y", elbow) @ (self.LINKS[1] * up))
        )

    def _build(self, world: World) -> None:
        mj, parent = world.mj, None
        pedestal = [(m.cylinder(0.42, 0.9).at(z=0.05), DARK), (m.cylinder(0.32, 0.3).at(z=0.4), METAL)]
        for number, (axis, at) in enumerate(
            (
                ((0, 0, 1), self.base),
                ((0, 1, 0), (0, 0, 0.5)),
                ((0, 1, 0), (0, 0, self.LINKS[0])),
                ((0, 1, 0), (0, 0, self.LINKS[1])),
            )
        ):
            parts = pedestal if number == 0 else self._link(self.LINKS[number - 1], hand=number == 3)
            parent = world.body(f"arm {number}", parts, parent=parent, kind="hinged", at=at)
            parent.add_joint(name=f"joint {number}", type=mj.mjtJoint.mjJNT_HINGE, axis=list(axis))

    @staticmethod
    def _link(length: float, hand: bool) -> Parts:
        joint = [(m.cylinder(0.26, 0.62).turned("x", 90), METAL), (m.cylinder(0.2, 0.68).turned("x", 90), DARK)]
        if hand:
            fingers = [(m.box(0.08, 0.1, 0.3).at(s * 0.14, 0, length + 0.1), DARK) for s in (-1, 1)]
            return [
                *joint,
                (m.cylinder(0.2, length).at(z=length / 2), ARM),
                (m.cylinder(0.24, 0.2).at(z=length), RAIL),
                *fingers,
            ]
        bands = [(m.cylinder(0.205, 0.12).at(z=z), RAIL if i else DARK) for i, z in enumerate((0.5, length - 0.5))]
        return [*joint, (m.cylinder(0.19, length - 0.3, 20, (1, 1)).at(z=length / 2), ARM), *bands]


def _camera(rng: np.random.Generator, arm: Manipulator, length: float) -> tuple:
    """The camera's way and where it is at first: by the arm's wrist, or on a mast that pans."""
    side = float(np.sign(arm.base[1]))
    mast = np.array(
        [rng.choice([-1, 1]) * rng.uniform(0.35, 0.6) * length, side * rng.uniform(4.5, 8.0), rng.uniform(-1.0, 6.5)]
    )
    on_arm = bool(rng.random() < 0.5)
    target = np.array([rng.uniform(-0.25, 0.25) * length, -side * rng.uniform(0, 1.5), rng.uniform(-1.0, 2.5)])
    sway, pace, phase = rng.uniform(0.3, 1.2, 3) * [1, 0.5, 0.5], rng.uniform(0.04, 0.1, 3), rng.uniform(0, 6.3, 3)
    roll = rng.normal(0, 0.12)

    def pose(time: float) -> np.ndarray:
        at = mast
        if on_arm:
            wrist = arm.wrist(time)
            out = wrist - target
            at = wrist + 2.4 * out / np.linalg.norm(out) + [0, 0, 1.4]
        aim = target + sway * np.sin(2 * np.pi * pace * time + phase)
        return looking(at, aim, roll=roll + 0.02 * np.sin(0.3 * time + phase[0]))

    return pose, pose(0.0)
