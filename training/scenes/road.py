"""A drive through a street, noon to dusk: buildings, trees, parked cars, traffic, and what should not be there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from flowclas_ros.training.scenes import street, vehicles
from flowclas_ros.training.scenes.drift import Kinds
from flowclas_ros.training.scenes.mesh import rotation
from flowclas_ros.training.scenes.sky import Daylight, Sky
from flowclas_ros.training.scenes.stage import Foreign, Pose, Scene
from flowclas_ros.training.scenes.world import World, centred

FOVY = 46.0  # degrees
EYE = 1.55  # metres over the road
LANE = -2.0  # metres, the middle of our lane
SIGHT = 130.0  # metres of street before the camera at the end
EVERY = 7.5  # metres from one foreign thing to the next, about
LARGER = 1.25  # than life, to be seen in small pictures
CAR = 1.35  # metres to either side of the camera that stay clear
ONCOMING = 2.6  # metres, where the others drive


def build(seed: int, size: tuple[int, int], seconds: float, kinds: Kinds | None) -> Scene:
    """The scene of a seed, good for so many seconds, with foreign things of these kinds about."""
    rng = np.random.default_rng([seed, 1])
    light = Daylight.draw(rng)
    speed = rng.uniform(4.0, 7.5)
    world = World(seed, size, gravity=9.81, extent=34.0)
    street.lay(world, rng, -15.0, speed * seconds + SIGHT, lit=light.dusk > 0.3)
    quiet = bool(rng.random() < 0.5)  # nobody comes towards us
    rails = _traffic(world, rng, speed, 0.0 if quiet else seconds, lit=light.dusk > 0.1)
    world.sun(-light.sun, light.direct, specular=0.4, reach=70.0)
    world.fill((0.15, 0.1, -1.0), light.ambient * 0.62, ambient=light.ambient * 0.55)
    world.fill((1.0, 0.0, -0.2), light.ambient * 0.3)
    scene = Scene(
        world,
        _drive(rng, speed),
        Sky(light, rng),
        rails,
        {},
        (),
        FOVY,
        near=0.3,
        far=600.0,
        lights_follow=True,
        exposure=float(rng.uniform(0.92, 1.12) * (1 + 0.1 * light.dusk)),
        noise=1.0 + 1.2 * light.dusk,
        haze=(light.horizon * 0.9 + light.ambient * 0.1, float(rng.uniform(140, 500))),
        occlusion=0.75,
    )
    return (
        scene
        if kinds is None
        else replace(scene, foreign=_scatter(world, kinds, seed, speed, seconds, street.ROADWAY if quiet else 1.1))
    )


def _drive(rng: np.random.Generator, speed: float) -> Callable[[float], np.ndarray]:
    pace, phase = rng.uniform(0.05, 0.15, 3), rng.uniform(0, 6.3, 3)
    pitch, offset = np.deg2rad(rng.uniform(2.0, 5.0)), rng.normal(0, 0.15)
    height = EYE + rng.uniform(-0.15, 0.25)

    def pose(time: float) -> np.ndarray:
        wave = np.sin(2 * np.pi * pace * time + phase)
        bump = 0.006 * np.sin(9 * time + phase[0]) + 0.004 * np.sin(23 * time)
        turn = rotation("z", 1.2 * wave[0]) @ rotation("y", np.rad2deg(pitch) + 0.4 * wave[1] + 40 * bump)
        matrix = np.eye(4)
        matrix[:3, :3] = turn @ np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0.0]])
        matrix[:3, 3] = speed * time, LANE + offset + 0.2 * wave[2], height + bump
        return matrix

    return pose


def _traffic(
    world: World, rng: np.random.Generator, speed: float, seconds: float, lit: bool
) -> dict[str, Callable[[float], Pose]]:
    """Vehicles that come towards us, and perhaps one before us."""
    rails: dict[str, Callable[[float], Pose]] = {}

    def send(at: float, y: float, pace: float) -> None:
        name = f"vehicle {len(rails)}"
        world.body(name, vehicles.vehicle(rng, lit))
        turn = rotation("z", 0 if pace > 0 else 180)
        rails[name] = lambda time: (np.array([at + pace * time, y, 0.0]), turn)

    x = rng.uniform(15, 60)
    while x < (speed + 9) * seconds:  # never, on a quiet street
        send(x, ONCOMING + rng.normal(0, 0.1), -rng.uniform(7, 10))
        x += rng.uniform(25, 120)
    if rng.random() < 0.55:
        send(rng.uniform(13, 30), LANE + rng.normal(0, 0.1), speed * rng.uniform(1.0, 1.15))
    return rails


def _scatter(world: World, kinds: Kinds, seed: int, speed: float, seconds: float, left: float) -> list[Foreign]:
    """Things that lie about, and some that roll up or fall, added to the world with a ground to lie on.

    left: metres to the left of the road's middle up to which things lie on it.
    """
    mj = world.mj
    world.spec.worldbody.add_geom(type=mj.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1], group=5)
    for side in (-1, 1):
        middle, half = (street.PARKING + street.PAVEMENT) / 2, (street.PAVEMENT - street.PARKING) / 2
        world.spec.worldbody.add_geom(
            type=mj.mjtGeom.mjGEOM_BOX,
            size=[2000, half, street.KERB / 2],
            pos=[0, side * middle, street.KERB / 2],
            group=5,
        )
    rng = np.random.default_rng([seed, 4])
    found: list[Foreign] = []
    order: list[str] = []
    x = rng.uniform(5, 9)
    while x < speed * seconds + 50:
        order = order or list(rng.permutation(sorted(kinds)))
        kind = order.pop()
        name = f"foreign {len(found)}"
        world.body(
            name, centred([(m.scaled(LARGER), look) for m, look in kinds[kind](rng)], on_ground=True), kind="free"
        )
        found.append(_let_go(rng, name, kind, x, speed, left))
        x += EVERY * rng.uniform(0.6, 1.5)
    return found


def _let_go(rng: np.random.Generator, name: str, kind: str, x: float, speed: float, left: float) -> Foreign:
    """Where and how a thing comes onto the road that lies before us at x, or onto a pavement."""
    pavement = rng.choice([-1, 1]) * rng.uniform(street.PARKING + 0.6, street.PAVEMENT - 0.6)
    y = pavement if rng.random() < 0.2 else rng.uniform(LANE + CAR, left)
    ground = street.KERB if abs(y) > street.PARKING - 0.6 else 0.0
    turn = rotation("z", rng.uniform(0, 360))
    still = np.zeros(3)
    how = rng.random()
    if kind == "wheel" and how < 0.7:  # rolls towards us
        pace = rng.uniform(1.5, 3.0)
        heading = rotation("z", 180 + rng.uniform(-6, 6))
        start = np.array([x + 6, rng.uniform(-0.4, 2.5), 0.01])
        return Foreign(name, x / speed - 4.5, start, heading, heading @ [pace, 0, 0], np.array([0, pace / 0.42, 0]))
    if how < 0.2:  # falls from above the picture, as from a lorry's load or a balcony, and may tumble on
        start = np.array([x, y, rng.uniform(6, 9)])
        return Foreign(
            name, x / speed - 2.6, start, turn, np.array([rng.uniform(-1, 1), 0, -1.0]), rng.normal(size=3) * 1.5
        )
    return Foreign(name, -1.5, np.array([x, y, ground + 0.02]), turn, still, still)
