"""Triangle meshes with normals and texture coordinates, and the shapes that things are put together from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

Vector = Sequence[float] | np.ndarray


@dataclass(frozen=True, eq=False)
class Mesh:
    """vertices, normals (n, 3) metres; uv (n, 2), one unit a repeat of the texture, v downwards; faces (m, 3)."""

    vertices: np.ndarray
    normals: np.ndarray
    uv: np.ndarray
    faces: np.ndarray

    def at(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Mesh:
        """Moved."""
        return replace(self, vertices=self.vertices + np.array([x, y, z]))

    def turned(self, axis: str, degrees: float) -> Mesh:
        """Turned about the axis x, y or z through the origin."""
        matrix = rotation(axis, degrees)
        return replace(self, vertices=self.vertices @ matrix.T, normals=self.normals @ matrix.T)

    def scaled(self, x: float, y: float | None = None, z: float | None = None) -> Mesh:
        """Scaled about the origin, by one factor or by three."""
        factors = np.array([x, x if y is None else y, x if z is None else z])
        normals = self.normals / factors
        return replace(self, vertices=self.vertices * factors, normals=_unit(normals))

    def tiled(self, u: float, v: float) -> Mesh:
        """With the texture repeated so many times more."""
        return replace(self, uv=self.uv * np.array([u, v]))


def rotation(axis: str, degrees: float) -> np.ndarray:
    """(3, 3), right-handed."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


def join(meshes: Sequence[Mesh]) -> Mesh:
    """Several as one."""
    offsets = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.normals for mesh in meshes]),
        np.concatenate([mesh.uv for mesh in meshes]),
        np.concatenate([mesh.faces + offset for mesh, offset in zip(meshes, offsets, strict=False)]),
    )


def quad(corner: Vector, along: Vector, up: Vector, repeats: tuple[float, float] = (1, 1), cells: int = 1) -> Mesh:
    """A rectangle from `corner` along two edges; its front is where along x up points. The texture's top lies at up.

    cells: it is cut into so many rows and columns, since light is computed at the vertices.
    """
    corner, along, up = (np.asarray(value, float) for value in (corner, along, up))
    steps = np.linspace(0, 1, cells + 1)
    u, v = (grid.ravel() for grid in np.meshgrid(steps, steps))
    vertices = corner + u[:, None] * along + v[:, None] * up
    normal = _unit(np.cross(along, up))
    uv = np.stack([u * repeats[0], (1 - v) * repeats[1]], 1)
    i, j = (grid.ravel() for grid in np.meshgrid(np.arange(cells), np.arange(cells)))
    a = j * (cells + 1) + i
    b, c, d = a + 1, a + cells + 2, a + cells + 1
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    return Mesh(vertices, np.tile(normal, (len(vertices), 1)), uv, faces)


def box(x: float, y: float, z: float, texel: float | None = None) -> Mesh:
    """A box of these sizes about the origin. texel: metres a repeat of the texture; None: once a side."""

    def repeats(a: float, b: float) -> tuple[float, float]:
        return (1, 1) if texel is None else (a / texel, b / texel)

    hx, hy, hz = x / 2, y / 2, z / 2
    return join(
        [
            quad((-hx, -hy, -hz), (x, 0, 0), (0, 0, z), repeats(x, z)),
            quad((hx, hy, -hz), (-x, 0, 0), (0, 0, z), repeats(x, z)),
            quad((hx, -hy, -hz), (0, y, 0), (0, 0, z), repeats(y, z)),
            quad((-hx, hy, -hz), (0, -y, 0), (0, 0, z), repeats(y, z)),
            quad((-hx, -hy, hz), (x, 0, 0), (0, y, 0), repeats(x, y)),
            quad((-hx, hy, -hz), (x, 0, 0), (0, -y, 0), repeats(x, y)),
        ]
    )


def lathe(profile: Sequence[tuple[float, float]], slices: int = 20, repeats: tuple[float, float] = (1, 1)) -> Mesh:
    """The profile, (radius, z) pairs from the bottom up, turned about z; every piece of it has its own normals."""
    angle = np.linspace(0, 2 * np.pi, slices + 1)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1)
    lengths = np.hypot(*np.diff(np.asarray(profile, float), axis=0).T)
    along = np.concatenate([[0], np.cumsum(lengths)]) / max(lengths.sum(), 1e-9)
    pieces = []
    for (r0, z0), (r1, z1), v0, v1 in zip(profile[:-1], profile[1:], along[:-1], along[1:], strict=True):
        slope = _unit(np.array([z1 - z0, r0 - r1]))  # outwards, upwards
        normal = np.column_stack([ring * slope[0], np.full(slices + 1, slope[1])])
        low = np.column_stack([ring * r0, np.full(slices + 1, z0)])
        high = np.column_stack([ring * r1, np.full(slices + 1, z1)])
        u = angle / (2 * np.pi) * repeats[0]
        uv = np.concatenate([np.column_stack([u, np.full_like(u, (1 - v) * repeats[1])]) for v in (v0, v1)])
        a = np.arange(slices)
        b, c, d = a + 1, a + slices + 2, a + slices + 1
        faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
        pieces.append(Mesh(np.concatenate([low, high]), np.concatenate([normal, normal]), uv, faces))
    return join(pieces)


def cylinder(radius: float, length: float, slices: int = 20, repeats: tuple[float, float] = (1, 1)) -> Mesh:
    """A closed cylinder along z about the origin."""
    h = length / 2
    return lathe([(1e-4, -h), (radius, -h), (radius, h), (1e-4, h)], slices, repeats)


def ellipsoid(x: float, y: float, z: float, slices: int = 16) -> Mesh:
    """Half-axes; smooth."""
    tilt = np.linspace(-np.pi / 2, np.pi / 2, slices // 2 + 1)
    turn = np.linspace(0, 2 * np.pi, slices + 1)
    t, p = (grid.ravel() for grid in np.meshgrid(tilt, turn, indexing="ij"))
    unit = np.stack([np.cos(t) * np.cos(p), np.cos(t) * np.sin(p), np.sin(t)], 1)
    i, j = (grid.ravel() for grid in np.meshgrid(np.arange(slices // 2), np.arange(slices), indexing="ij"))
    a = i * (slices + 1) + j
    b, c, d = a + 1, a + slices + 2, a + slices + 1
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    uv = np.stack([p / (2 * np.pi), 0.5 - t / np.pi], 1)
    return Mesh(unit * [x, y, z], _unit(unit / [x, y, z]), uv, faces)


def rod(start: Vector, end: Vector, radius: float, slices: int = 8) -> Mesh:
    """A closed cylinder from one point to another."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    axis = end - start
    length = float(np.linalg.norm(axis))
    z = axis / length
    x = _unit(np.cross([0, 1, 0] if abs(z[1]) < 0.9 else [1, 0, 0], z))
    matrix = np.column_stack([x, np.cross(z, x), z])
    mesh = cylinder(radius, length, slices)
    return replace(mesh, vertices=mesh.vertices @ matrix.T + (start + end) / 2, normals=mesh.normals @ matrix.T)


def tube(points: np.ndarray, radius: float) -> Mesh:
    """Rods from each point (n, 3) to the next."""
    return join([rod(a, b, radius) for a, b in pairwise(points)])


def ring(radius: float, thickness: float, slices: int = 24) -> Mesh:
    """A torus about z; radius to the middle of the tube."""
    turn = np.linspace(0, 2 * np.pi, 9)  # eight sides
    return lathe([(radius + thickness * np.sin(a), -thickness * np.cos(a)) for a in turn], slices, (6, 1))


def extrude(outline: Sequence[tuple[float, float]], width: float, taper: float = 1.0) -> Mesh:
    """A convex or star-shaped outline (x, z), counter-clockwise seen from -y, drawn out along y about the origin.

    taper: the sides' width at the outline's top as a share of that at its bottom.
    """
    points = np.asarray(outline, float)
    low, high = points[:, 1].min(), points[:, 1].max()
    half = width / 2 * (1 + (taper - 1) * (points[:, 1] - low) / max(high - low, 1e-9))
    middle = points.mean(0)
    right, left = (np.column_stack([points[:, 0], sign * half, points[:, 1]]) for sign in (-1, 1))
    pieces = []
    for i in range(len(points)):
        j = (i + 1) % len(points)
        centre = np.array([middle[0], 0, middle[1]])
        pieces.append(_flat(np.array([right[i], left[i], left[j], right[j]])))
        pieces.append(_flat(np.array([right[i], right[j], centre - [0, half.mean(), 0]])))
        pieces.append(_flat(np.array([left[j], left[i], centre + [0, half.mean(), 0]])))
    return join(pieces)


def rock(rng: np.random.Generator, x: float, y: float, z: float, rough: float = 0.12, slices: int = 10) -> Mesh:
    """An ellipsoid of these half-axes, its corners moved by shares of them about `rough`, flat-shaded."""
    ball = ellipsoid(1, 1, 1, slices)
    places, index = np.unique(ball.vertices.round(6), axis=0, return_inverse=True)
    moved = places * (1 + rng.normal(0, rough, (len(places), 1))) * [x, y, z]
    corners = moved[index.reshape(-1)[ball.faces]]
    solid = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) > 1e-9
    return join([_flat(corner) for corner in corners[solid]])


def sheet(rng: np.random.Generator, x: float, y: float, crumple: float, cells: int = 7) -> Mesh:
    """A crumpled sheet about the origin, seen from both sides, each facet with a light of its own."""
    grid = np.linspace(-0.5, 0.5, cells + 1)
    points = np.stack(np.meshgrid(grid * x, grid * y), -1)
    points = points + rng.normal(0, 0.12 / cells, points.shape) * [x, y]
    height = rng.normal(0, crumple, points.shape[:2])
    points = np.concatenate([points, height[..., None]], -1)
    pieces = []
    for i in range(cells):
        for j in range(cells):
            a, b, c, d = points[i, j], points[i, j + 1], points[i + 1, j + 1], points[i + 1, j]
            for corners in (np.array([a, b, c]), np.array([a, c, d])):
                normal = _unit(np.cross(corners[1] - corners[0], corners[2] - corners[0]))
                pieces += [_flat(corners), _flat(corners[::-1] - 0.004 * normal)]
    return join(pieces)


def leaves(rng: np.random.Generator, count: int, size: float) -> Mesh:
    """A crown of so many leaf-like squares in the unit ball, lit as if it were round."""
    direction = _unit(rng.normal(size=(count, 3)))
    centre = direction * rng.uniform(0.55, 1.0, (count, 1))
    face = _unit(direction + 0.45 * rng.normal(size=(count, 3)))  # outwards, where they are seen from
    a = _unit(np.cross(face, rng.normal(size=(count, 3))))
    b = np.cross(face, a)
    corners = [centre + size * (i * a + j * b) for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    vertices = np.stack(corners, 1).reshape(-1, 3)
    normals = np.repeat(_unit(direction + 0.35 * rng.normal(size=(count, 3))), 4, 0)
    uv = np.repeat(rng.uniform(0, 1, (count, 2)), 4, 0) + np.tile(
        [[0, 0], [0.06, 0], [0.06, 0.06], [0, 0.06]], (count, 1)
    )
    first = 4 * np.arange(count)[:, None]
    return Mesh(vertices, normals, uv, np.concatenate([first + [0, 1, 2], first + [0, 2, 3]]))


def _flat(corners: np.ndarray) -> Mesh:
    """A flat polygon (n, 3), counter-clockwise, as a fan."""
    count = len(corners)
    normal = _unit(np.cross(corners[1] - corners[0], corners[2] - corners[0]))
    axis = int(np.abs(normal).argmax())
    uv = np.delete(corners, axis, 1)
    faces = np.array([[0, i, i + 1] for i in range(1, count - 1)])
    return Mesh(np.asarray(corners, float), np.tile(normal, (count, 1)), uv, faces)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
