"""A MuJoCo model in the making: looks, fixed geometry, moving bodies, free bodies, light."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flowclas_ros.training.scenes import engine
from flowclas_ros.training.scenes.mesh import Mesh, join

STEP = 0.005  # seconds, the longest step of the physics


@dataclass(frozen=True)
class Look:
    """A material; `name` tells it from others and, with the seed, is what its texture is drawn from.

    rgb: in 0..1, multiplies the texture. specular, shininess, emission: MuJoCo's.
    """

    name: str
    texture: Callable[[np.random.Generator], np.ndarray] | None = None
    rgb: tuple[float, float, float] = (1.0, 1.0, 1.0)
    specular: float = 0.15
    shininess: float = 0.2
    emission: float = 0.0


Parts = Sequence[tuple[Mesh, Look]]


class World:
    """Geometry is gathered first, then compiled once; fixed meshes of one look become one."""

    def __init__(self, seed: int, size: tuple[int, int], gravity: float, extent: float, shadow: int = 2048):
        """size: (width, height) px of the pictures. gravity: m/s² downwards. extent: metres that shadows reach."""
        self.mj = engine.load()
        self.spec = self.mj.MjSpec()
        self.spec.option.gravity = [0, 0, -gravity]
        self.spec.option.timestep = STEP
        self.spec.stat.extent = extent
        self.spec.stat.center = [0, 0, 0]
        visual = self.spec.visual
        visual.global_.offwidth, visual.global_.offheight = size
        visual.quality.offsamples = 0  # the mean of the sub-frames smooths edges
        visual.quality.shadowsize = shadow
        visual.map.shadowclip = 1.0
        visual.headlight.active = 0
        self._seed = seed
        self._looks: set[Look] = set()
        self._meshes: dict[int, tuple[str, Mesh]] = {}
        self._fixed: dict[Look, list[Mesh]] = {}

    def fixed(self, parts: Parts) -> None:
        """Geometry that never moves."""
        for mesh, look in parts:
            self._fixed.setdefault(look, []).append(mesh)

    def body(self, name: str, parts: Parts, *, parent: Any = None, kind: str = "moving", at: Any = (0, 0, 0)) -> Any:
        """A body of its own; kind: moving (placed for every frame), free (MuJoCo's physics), or hinged to `parent`."""
        body = (parent or self.spec.worldbody).add_body(name=name, pos=list(at), mocap=kind == "moving")
        if kind == "free":
            body.add_freejoint(name=name)
        # things collide part by part, each by its convex hull; for looks alone one mesh a look will do
        for mesh, look in parts if kind == "free" else merged(parts):
            self._geom(body, mesh, look, collides=kind == "free")
        return body

    def sun(self, direction: np.ndarray, colour: Any, *, specular: float = 0.5, reach: float) -> None:
        """A light along `direction` (3,) from infinitely far that casts shadows; its camera stands `reach` metres up.

        What it does not reach is black but for `fill`: MuJoCo leaves a light's own ambient part out of its shadow.
        """
        at = -direction / np.linalg.norm(direction) * reach
        self._light(direction, colour, specular=[specular] * 3, pos=at.tolist(), castshadow=True)

    def fill(self, direction: Any, colour: Any, *, ambient: Any = (0, 0, 0)) -> None:
        """Soft light: from along `direction` (3,) without shadow or gloss, `ambient` (3,) of it from all around."""
        self._light(direction, colour, specular=[0.0] * 3, ambient=list(ambient), castshadow=False)

    def lamp(self, strength: float) -> None:
        """A lamp beside the camera that shines where it looks, without shadow, as bright on far things as on near."""
        lamp = self.spec.visual.headlight
        lamp.active = 1
        lamp.diffuse, lamp.specular, lamp.ambient = [strength] * 3, [strength / 2] * 3, [0.0] * 3

    def _light(self, direction: Any, colour: Any, **rest: Any) -> None:
        kind = self.mj.mjtLightType.mjLIGHT_DIRECTIONAL
        self.spec.worldbody.add_light(type=kind, dir=list(direction), diffuse=list(colour), **rest)

    def compile(self) -> tuple[Any, Any]:
        """The model and its data."""
        while self._fixed:  # emptied, as bodies may be added and all be compiled again
            look, meshes = self._fixed.popitem()
            self._geom(self.spec.worldbody, join(meshes), look, collides=False)
        model = self.spec.copy().compile()  # a copy, since compiling changes what it reads
        return model, self.mj.MjData(model)

    def _geom(self, body: Any, mesh: Mesh, look: Look, collides: bool) -> None:
        body.add_geom(
            type=self.mj.mjtGeom.mjGEOM_MESH,
            meshname=self._mesh(mesh),
            material=self._material(look),
            contype=int(collides),
            conaffinity=int(collides),
            density=200.0,
        )

    def _mesh(self, mesh: Mesh) -> str:
        if id(mesh) not in self._meshes:
            name = f"mesh{len(self._meshes)}"
            self.spec.add_mesh(
                name=name,
                uservert=mesh.vertices.ravel().tolist(),
                usernormal=mesh.normals.ravel().tolist(),
                usertexcoord=mesh.uv.ravel().tolist(),
                userface=mesh.faces.ravel().tolist(),
                inertia=self.mj.mjtMeshInertia.mjMESH_INERTIA_SHELL,
            )
            self._meshes[id(mesh)] = (name, mesh)  # kept, so that its id stays its own
        return self._meshes[id(mesh)][0]

    def _material(self, look: Look) -> str:
        if look not in self._looks:
            material = self.spec.add_material(
                name=look.name,
                rgba=[*look.rgb, 1.0],
                specular=look.specular,
                shininess=look.shininess,
                emission=look.emission,
                texrepeat=[1, 1],
            )
            if look.texture is not None:
                pixels = look.texture(np.random.default_rng([self._seed, zlib.crc32(look.name.encode())]))
                texture = self.spec.add_texture(
                    name=look.name,
                    type=self.mj.mjtTexture.mjTEXTURE_2D,
                    nchannel=3,
                    width=pixels.shape[1],
                    height=pixels.shape[0],
                )
                texture.data = np.ascontiguousarray(pixels).tobytes()
                material.textures[self.mj.mjtTextureRole.mjTEXROLE_RGB] = look.name
            self._looks.add(look)
        return look.name


def merged(parts: Parts) -> list[tuple[Mesh, Look]]:
    """One mesh a look: cheaper to place again and again."""
    by_look: dict[Look, list[Mesh]] = {}
    for mesh, look in parts:
        by_look.setdefault(look, []).append(mesh)
    return [(join(meshes), look) for look, meshes in by_look.items()]


def parts_size(parts: Parts) -> float:
    """The longest side in metres of the box around them."""
    vertices = np.concatenate([mesh.vertices for mesh, _ in parts])
    return float(np.ptp(vertices, axis=0).max())


def centred(parts: Parts, *, on_ground: bool = False) -> list[tuple[Mesh, Look]]:
    """The parts about the middle of the box around them; on_ground: standing on z = 0 instead."""
    vertices = np.concatenate([mesh.vertices for mesh, _ in parts])
    low, high = vertices.min(0), vertices.max(0)
    middle = (low + high) / 2
    if on_ground:
        middle[2] = low[2]
    return [(mesh.at(*-middle), look) for mesh, look in parts]
