"""Meshes are seen from outside: an inside-out face is not drawn, and one looks through it into the thing."""

from collections import Counter

import numpy as np
import pytest

from flowclas_ros.training.scenes import mesh as m
from flowclas_ros.training.scenes import orbit_objects, road_objects, vehicles

SHAPES = {
    "box": m.box(1, 2, 3),
    "cylinder": m.cylinder(1, 2),
    "ellipsoid": m.ellipsoid(1, 2, 3),
    "rod": m.rod((0, 0, 0), (1, 1, 1), 0.1),
    "ring": m.ring(1, 0.2),
    "extrude": m.extrude([(0, 0), (2, 0), (2, 1), (0, 1)], 1, 0.8),
    "rock": m.rock(np.random.default_rng(0), 1, 1, 1),
}
THINGS = {**orbit_objects.FIT, **orbit_objects.VAL, **orbit_objects.TEST}
THINGS |= {**road_objects.FIT, **road_objects.VAL, **road_objects.TEST}
THINGS |= {f.__name__: lambda rng, f=f: f(rng, False) for f in (vehicles.car, vehicles.van, vehicles.lorry)}
OPEN = ("foil_sheet",)  # at its rim
WELD = 3  # decimals: a lathe's tip is a hole of 0.1 mm


def volume(mesh):
    """Signed, by the divergence theorem: negative for a mesh that is inside out."""
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    return np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6


def edges(mesh):
    """How often each directed edge is there, vertices at the same place taken as one."""
    _, index = np.unique(mesh.vertices.round(WELD), axis=0, return_inverse=True)
    faces = index.reshape(-1)[mesh.faces]
    faces = faces[(faces != np.roll(faces, 1, axis=1)).all(1)]
    return Counter(map(tuple, np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).tolist()))


def is_closed(mesh):
    counts = Counter()
    for (a, b), count in edges(mesh).items():
        counts[min(a, b), max(a, b)] += count
    return all(count == 2 for count in counts.values())


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_closed_and_seen_from_outside(name):
    assert is_closed(SHAPES[name])
    assert volume(SHAPES[name]) > 0
    assert set(edges(SHAPES[name]).values()) == {1}, "no neighbouring faces are wound against each other"


@pytest.mark.parametrize("name", THINGS)
def test_closed_parts_of_things_are_seen_from_outside(name):
    closed = 0
    for seed in range(4):
        for mesh, look in THINGS[name](np.random.default_rng(seed)):
            if is_closed(mesh):
                closed += 1
                assert volume(mesh) > 0, look.name
    assert closed or name in OPEN


@pytest.mark.parametrize("name", THINGS)
def test_normals_point_where_faces_are_seen_from(name):
    for mesh, look in THINGS[name](np.random.default_rng(0)):
        a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
        along = np.einsum("ij,ij->i", np.cross(b - a, c - a), mesh.normals[mesh.faces].sum(1))
        assert (along >= -1e-9).all(), look.name
