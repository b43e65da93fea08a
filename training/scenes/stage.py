"""A compiled scene in motion: bodies on rails, foreign bodies under MuJoCo's physics, and the clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from flowclas_ros.training.scenes import engine
from flowclas_ros.training.scenes.world import STEP, World

Pose = tuple[np.ndarray, np.ndarray]  # position (3,) in metres, rotation (3, 3)


@dataclass(frozen=True)
class Foreign:
    """A free body that does not belong: where and how it is let go, and when. Hidden before.

    position (3,) metres, rotation (3, 3), velocity (3,) m/s, spin (3,) rad/s in the body's own frame.
    """

    name: str
    time: float
    position: np.ndarray
    rotation: np.ndarray
    velocity: np.ndarray
    spin: np.ndarray


class Backdrop(Protocol):
    """What lies infinitely far behind the geometry."""

    def __call__(self, rays: np.ndarray, pose: np.ndarray, time: float) -> np.ndarray:
        """(H, W, 3) float32, 1 is white, seen along `rays` (H, W, 3), unit vectors in the world."""
        ...


@dataclass(frozen=True, eq=False)
class Scene:
    """What a domain makes of a seed.

    camera: time in seconds to (4, 4) world_from_optical. rails: body name to its pose over time. joints: name to angle
    in radians over time. haze: colour and metres over which 63 % of a thing's colour is gone, None for vacuum.
    """

    world: World
    camera: Callable[[float], np.ndarray]
    backdrop: Backdrop
    rails: dict[str, Callable[[float], Pose]]
    joints: dict[str, Callable[[float], float]]
    foreign: Sequence[Foreign]
    fovy: float
    near: float = 0.1
    far: float = 400.0
    exposure: float = 1.0
    noise: float = 1.0
    haze: tuple[np.ndarray, float] | None = None
    occlusion: float = 0.5
    lights_follow: bool = False


class Stage:
    """The scene's model and data at a time that only goes forward."""

    def __init__(self, scene: Scene, start: float):
        """start: seconds, at most the time of the first frame; what lies about settles from here on."""
        self.scene, self.time = scene, start
        self.model, self.data = scene.world.compile()
        mj = self._mj = scene.world.mj
        self._mocap = {name: int(self.model.body(name).mocapid[0]) for name in scene.rails}
        self._joints = {name: int(self.model.joint(name).qposadr[0]) for name in scene.joints}
        self._free = [
            (f, int(self.model.joint(f.name).qposadr[0]), int(self.model.joint(f.name).dofadr[0]))
            for f in scene.foreign
        ]
        self._let_go: set[str] = set()
        body_ids = {int(self.model.body(f.name).id): number for number, f in enumerate(scene.foreign, 1)}
        self.object_of_geom = np.array([body_ids.get(int(b), 0) for b in self.model.geom_bodyid] + [0], np.uint16)
        self._set()
        mj.mj_forward(self.model, self.data)

    def advance(self, time: float) -> None:
        """Go on to `time` in seconds."""
        steps = int(np.ceil((time - self.time) / STEP - 1e-9)) if self._free else 0  # rails need no steps
        for step in range(steps):
            self.model.opt.timestep = (time - self.time) / (steps - step)
            self._set()
            if self._let_go:
                self._mj.mj_step(self.model, self.data)
            self.time += self.model.opt.timestep
        self.time = max(self.time, time)
        self._set()
        self._mj.mj_kinematics(self.model, self.data)
        self._mj.mj_comPos(self.model, self.data)
        self._mj.mj_camlight(self.model, self.data)

    def _set(self) -> None:
        for name, index in self._mocap.items():
            position, matrix = self.scene.rails[name](self.time)
            self.data.mocap_pos[index] = position
            self.data.mocap_quat[index] = quaternion(matrix)
        for name, address in self._joints.items():
            self.data.qpos[address] = self.scene.joints[name](self.time)
        for foreign, q, v in self._free:
            if foreign.name in self._let_go:
                continue
            waits = self.time < foreign.time
            self.data.qpos[q : q + 3] = (0, 0, -1000.0 - 10 * q) if waits else foreign.position
            self.data.qpos[q + 3 : q + 7] = quaternion(foreign.rotation)
            self.data.qvel[v : v + 3] = 0 if waits else foreign.velocity
            self.data.qvel[v + 3 : v + 6] = 0 if waits else foreign.spin
            if not waits:
                self._let_go.add(foreign.name)


def quaternion(matrix: np.ndarray) -> np.ndarray:
    """(3, 3) rotation to (w, x, y, z)."""
    found = np.empty(4)
    engine.load().mju_mat2Quat(found, np.ravel(matrix))
    return found


def looking(
    position: np.ndarray, target: np.ndarray, up: np.ndarray | Sequence[float] = (0, 0, 1), roll: float = 0.0
) -> np.ndarray:
    """(4, 4) world_from_optical (x right, y down, z ahead) of a camera that looks at `target`; roll in radians."""
    z = np.asarray(target, float) - position
    z /= np.linalg.norm(z)
    x = np.cross(z, up)
    x /= np.linalg.norm(x)
    y = np.cross(z, x)
    c, s = np.cos(roll), np.sin(roll)
    pose = np.eye(4)
    pose[:3, :3] = np.column_stack([c * x + s * y, c * y - s * x, z])
    pose[:3, 3] = position
    return pose


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """(3, 3), uniform."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else -q
