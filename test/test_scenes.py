"""Rendered scenes: reproducible, with a ground truth that agrees with the picture and with geometry."""

import importlib
import subprocess
import sys

import cv2
import numpy as np
import pytest
from scene_support import frames, skip_without_rendering

from flowclas_ros.errors import FlowclasError
from flowclas_ros.training import scenes

DEPTH_TOLERANCE = 0.02  # relative, of a surface seen from two places, at most of its pixels


@pytest.fixture(autouse=True)
def _rendering() -> None:
    skip_without_rendering()


@pytest.mark.parametrize("domain", scenes.DOMAINS)
def test_a_seed_gives_the_same_pixels_again_and_another_seed_others(domain):
    first = frames(domain, 1, 8, "test")[:2]
    again = list(scenes.render(domain, 1, frames=2, width=160, height=120, fps=0.5, anomalies="test"))
    for one, other in zip(first, again, strict=True):
        for name in ("image", "mask", "depth", "objects", "camera_matrix", "camera_pose"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert (first[0].image != frames(domain, 2, 2, "none", 4.0)[0].image).mean() > 0.5


@pytest.mark.parametrize("domain", scenes.DOMAINS)
def test_frames_have_the_promised_types_and_stamps(domain):
    for index, frame in enumerate(frames(domain, 1, 8, "test")):
        assert frame.stamp == 2 * index
        kinds = {"image": np.uint8, "mask": np.uint8, "depth": np.float32, "objects": np.uint16}
        for name, kind in kinds.items():
            assert getattr(frame, name).dtype == kind and getattr(frame, name).shape[:2] == (120, 160), name
        assert set(np.unique(frame.mask)) <= {0, 1, 255}
        assert frame.image.std() > 10, "a picture, not a plain colour"
        np.testing.assert_allclose(frame.camera_pose[:3, :3] @ frame.camera_pose[:3, :3].T, np.eye(3), atol=1e-9)


@pytest.mark.parametrize("domain", scenes.DOMAINS)
def test_mask_is_the_objects_and_one_pixel_around_them(domain):
    seen = 0
    for frame in frames(domain, 1, 8, "test"):
        assert (frame.objects[frame.mask == 1] > 0).all()
        assert (frame.mask[frame.objects > 0] != 0).all()
        near = cv2.dilate((frame.objects > 0).astype(np.uint8), np.ones((3, 3), np.uint8))
        assert (near[frame.mask == 255] == 1).all()
        seen += int((frame.mask == 1).any())
    assert seen >= 4, "most frames of a test sequence show an anomaly"


@pytest.mark.parametrize("domain", scenes.DOMAINS)
def test_a_normal_scene_has_no_anomaly_and_is_otherwise_the_same_world(domain):
    normal, strange = frames(domain, 1, 8, "none")[0], frames(domain, 1, 8, "test")[0]
    assert not normal.mask.any() and not normal.objects.any()
    same = cv2.erode((strange.mask == 0).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    np.testing.assert_array_equal(normal.camera_pose, strange.camera_pose)
    # their shadows fall elsewhere too, so depth is compared and not colour
    assert np.isclose(normal.depth, strange.depth, rtol=0, atol=1e-3)[same].mean() > 0.99


@pytest.mark.parametrize("domain", scenes.DOMAINS)
def test_ground_truth_covers_what_the_anomaly_changes_in_the_picture(domain):
    """Where the two worlds differ most, there is an object: its shadow and reflections change less."""
    inside, outside = [], []
    for normal, strange in zip(frames(domain, 1, 8, "none"), frames(domain, 1, 8, "test"), strict=True):
        change = np.abs(normal.image.astype(int) - strange.image).max(2)
        inside.append(change[strange.mask == 1])
        outside.append(change[strange.mask == 0])
    assert np.median(np.concatenate(inside)) > 2 * np.median(np.concatenate(outside))


@pytest.mark.parametrize("domain", scenes.DOMAINS)
def test_depth_and_pose_place_a_point_where_the_next_frame_sees_it(domain):
    first, second = frames(domain, 2, 2, "none", 4.0)
    v, u = np.mgrid[4:116:3, 4:156:3].reshape(2, -1)
    depth = first.depth[v, u].astype(float)
    known = np.isfinite(depth)
    rays = np.linalg.inv(first.camera_matrix) @ np.stack([u, v, np.ones_like(u)])[:, known]
    world = first.camera_pose @ np.vstack([rays * depth[known], np.ones(known.sum())])
    seen = (np.linalg.inv(second.camera_pose) @ world)[:3]
    pixel = second.camera_matrix @ (seen / seen[2])
    column, row = np.rint(pixel[:2]).astype(int)
    inside = (seen[2] > 0.5) & (column >= 0) & (column < 160) & (row >= 0) & (row < 120)
    there = second.depth[row[inside], column[inside]]
    close = np.abs(there / seen[2][inside] - 1) < DEPTH_TOLERANCE
    assert inside.sum() > 200
    # the rest is hidden in one of the two pictures, moves, or lies at an edge
    assert close.mean() > 0.7


@pytest.mark.parametrize("domain", scenes.DOMAINS)
def test_kinds_to_fit_on_to_choose_by_and_to_test_on_are_disjoint_and_many(domain):
    objects = importlib.import_module(f"flowclas_ros.training.scenes.{domain}_objects")
    names = [*objects.FIT, *objects.VAL, *objects.TEST]
    makers = [*objects.FIT.values(), *objects.VAL.values(), *objects.TEST.values()]
    assert len(set(names)) == len(set(makers)) == len(makers) >= 24


def test_offcuts_are_of_the_stations_materials_and_no_shards():
    from flowclas_ros.training.scenes import orbit_objects

    assert "offcut block" in orbit_objects.OFFCUTS and "offcut flake" not in orbit_objects.OFFCUTS
    for make in orbit_objects.OFFCUTS.values():
        assert {look for _, look in make(np.random.default_rng(0))} <= set(orbit_objects.STATION)
    flakes = [orbit_objects.FIT["flake"](np.random.default_rng(seed)) for seed in range(200)]
    assert orbit_objects.SHARD.texture not in {look.texture for flake in flakes for _, look in flake}


@pytest.mark.parametrize("kinds", scenes.ANOMALIES[1:])
def test_only_the_kinds_asked_for_are_made(monkeypatch, kinds):
    from flowclas_ros.training.scenes import orbit_objects

    def forbidden(rng):
        raise AssertionError("a kind that was not asked for")

    for others in {"FIT", "VAL", "TEST"} - {kinds.upper()}:
        monkeypatch.setattr(orbit_objects, others, {name: forbidden for name in getattr(orbit_objects, others)})
    assert len(scenes.cutouts("orbit", 0, 4, kinds=kinds)) == 4
    next(scenes.render("orbit", 5, frames=1, width=64, height=48, anomalies=kinds))


@pytest.mark.parametrize("domain", scenes.DOMAINS)
def test_cutouts_are_objects_on_transparent_ground(domain):
    objects = importlib.import_module(f"flowclas_ros.training.scenes.{domain}_objects")
    cutouts = scenes.cutouts(domain, 1, len(objects.FIT), kinds="fit")
    assert len(cutouts) == len(objects.FIT)
    for cutout in cutouts:
        alpha = cutout[..., 3]
        assert cutout.dtype == np.uint8 and cutout.ndim == 3 and cutout.shape[2] == 4
        assert (alpha == 255).sum() > 100 and max(alpha.shape) > 60, "an object of a usable size"
        assert alpha[0].any() and alpha[-1].any() and alpha[:, 0].any() and alpha[:, -1].any(), "cropped to its box"
        assert cutout[alpha == 255, :3].std() > 3, "lit and textured"
    np.testing.assert_array_equal(cutouts[2], scenes.cutouts(domain, 1, len(objects.FIT), kinds="fit")[2])


def test_objects_tumble_in_orbit_and_fall_on_the_road():
    before, after = frames("orbit", 1, 8, "test")[0:2]
    assert (before.objects != after.objects).any()
    from flowclas_ros.training.scenes import road, road_objects
    from flowclas_ros.training.scenes.stage import Stage

    stage = Stage(road.build(2, (64, 48), 5.0, road_objects.TEST), -1.5)
    lying = [(f, q) for f, q, _ in stage._free if f.time == -1.5]
    stage.advance(0.0)
    heights = [stage.data.qpos[q + 2] for _, q in lying]
    assert lying and all(-0.3 < height < 1.0 for height in heights), "they rest on the ground, neither sunk nor hanging"
    speeds = np.abs(stage.data.qvel).reshape(-1, 6)
    stage.advance(1.5)
    assert np.median(np.abs(stage.data.qvel).reshape(-1, 6)[: len(lying), :3]) < 0.2, (
        f"and come to rest ({speeds.max()})"
    )


def seen(world, *poses):
    """The world's pictures (48, 64, 3), 0..1, from camera poses."""
    from flowclas_ros.training.scenes.engine import Renderer

    model, data = world.compile()
    world.mj.mj_forward(model, data)
    renderer = Renderer(model, 64, 48, 50.0, 0.2, 40.0)
    try:
        pictures = []
        for pose in poses:
            renderer.update(data, pose)
            pictures.append(renderer.colour()[0] / 255)
        return pictures
    finally:
        renderer.close()


def test_fill_light_reaches_what_the_sun_does_not():
    from flowclas_ros.training.scenes import mesh
    from flowclas_ros.training.scenes.stage import looking
    from flowclas_ros.training.scenes.world import Look, World

    world = World(0, (64, 48), gravity=0.0, extent=10.0)
    grey = Look("grey", None, (0.5, 0.5, 0.5), specular=0.0)
    world.fixed([(mesh.box(8, 8, 0.1), grey), (mesh.box(1, 1, 0.1).at(z=2), grey)])
    world.sun(np.array([0.0, 1.0, -1.0]), (0.9, 0.9, 0.9), reach=20.0)
    world.fill((0, 0, 1), (0.3, 0.3, 0.3), ambient=(0.2, 0.2, 0.2))  # from below: none of it but the ambient part here
    pose = looking(np.array([0.0, 2.0, 1.5]), np.array([0.0, 2.0, 0.0]), up=(0, 1, 0))
    (colour,) = seen(world, pose)
    shadow, lit = float(colour[24, 32].mean()), float(np.median(colour))
    assert shadow == pytest.approx(0.5 * 0.2, abs=0.01) and lit > 3 * shadow


def test_the_lamp_shines_where_the_camera_looks():
    from flowclas_ros.training.scenes import mesh
    from flowclas_ros.training.scenes.stage import looking
    from flowclas_ros.training.scenes.world import Look, World

    world = World(0, (64, 48), gravity=0.0, extent=10.0)
    world.fixed([(mesh.box(8, 8, 8), Look("grey", None, (0.5, 0.5, 0.5), specular=0.0))])
    world.lamp(0.4)
    ways = np.array([(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0)]) * 6.0
    for picture in seen(world, *(looking(way, np.zeros(3)) for way in ways)):
        assert picture[24, 32] == pytest.approx(0.5 * 0.4, abs=0.01)


def test_a_new_scene_begins_after_twenty_seconds_and_stamps_go_on():
    film = frames("orbit", 1, 3, "none", 0.1)  # two frames a scene
    assert [frame.stamp for frame in film] == [0, 10, 20]
    assert (film[1].image != film[2].image).mean() > 0.5


def test_an_objects_number_is_never_anothers_in_a_later_scene():
    film = frames("orbit", 1, 4, "test", 0.1)  # two frames a scene
    first, second = ({*np.unique([film[i].objects, film[i + 1].objects])} - {0} for i in (0, 2))
    assert first and second and max(first) < min(second)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"domain": "sea"}, "scene 'sea' is not one of orbit, road"),
        ({"anomalies": "all"}, "anomalies 'all' is not one of none, fit, val, test"),
        ({"frames": 0}, "0 frames"),
        ({"seed": -1}, "seed -1"),
        ({"width": 9000}, "9000x240"),
        ({"fps": 0.0}, "0.0 frames a second"),
    ],
)
def test_bad_arguments_are_named_at_once(change, words):
    arguments = {"domain": "orbit", "seed": 0, "frames": 1, **change}
    with pytest.raises(FlowclasError, match=words):
        scenes.render(arguments.pop("domain"), arguments.pop("seed"), **arguments)


def test_without_mujoco_or_graphics_the_error_names_the_way_out():
    program = (
        "import sys, ctypes.util\n"
        "{trouble}\n"
        "from flowclas_ros.errors import FlowclasError\n"
        "from flowclas_ros.training.scenes import engine\n"
        "try: engine.load()\n"
        "except FlowclasError as error: print(error)\n"
    )
    for trouble, words in (
        ("sys.modules['mujoco'] = None", "pip install 'flowclas_ros[sim]'"),
        ("ctypes.util.find_library = lambda name: None", "libosmesa6"),
    ):
        bare = subprocess.run(
            [
                "env",
                "-u",
                "MUJOCO_GL",
                "-u",
                "DISPLAY",
                "-u",
                "WAYLAND_DISPLAY",
                sys.executable,
                "-c",
                program.format(trouble=trouble),
            ],
            capture_output=True,
            text=True,
        )
        assert words in bare.stdout, bare.stderr


def test_torch_can_be_imported_after_the_first_picture():
    """The LLVM of Mesa's software renderer and the one inside torch's compiler, in one process: it crashed."""
    program = (
        "from flowclas_ros.training import scenes\n"
        "next(scenes.render('orbit', 0, frames=1, width=32, height=24))\n"
        "import torchvision\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
