"""`flowclas simulate`: bags that the replay reads and folders that a fit takes."""

import json
import os

import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags.rosbag2", reason="rosbags is not installed")
from scene_support import skip_without_rendering

from flowclas_ros.cli import main
from flowclas_ros.replay.cameras import Camera
from flowclas_ros.replay.frames import iter_frames, open_bag
from flowclas_ros.replay.masks import MaskTopic
from flowclas_ros.replay.recording import open_recording
from flowclas_ros.training import scenes

SMALL = ("--size", "96x72", "--frames", "3", "--seed", "1")
JPEG_ERROR = 6.0  # mean absolute difference of 8-bit values


@pytest.fixture(autouse=True)
def _rendering() -> None:
    skip_without_rendering()


def simulate(output, *options: str, scene: str = "orbit") -> int:
    return main(["simulate", "--scene", scene, "--output", str(output), *SMALL, *options])


def expected(scene: str = "orbit", anomalies: str = "test") -> list:
    return list(scenes.render(scene, 1, frames=3, width=96, height=72, anomalies=anomalies))


@pytest.mark.parametrize("scene", scenes.DOMAINS)
def test_the_bag_gives_back_frames_and_masks_through_the_replays_own_reading(tmp_path, scene):
    bag = tmp_path / "a.mcap"
    assert simulate(bag, "--anomalies", "test", scene=scene) == 0
    topic = "/camera/image_raw"
    truth = expected(scene)
    for frame, true in zip(iter_frames(bag, topic), truth, strict=True):
        np.testing.assert_array_equal(frame.image, true.image)
    with open_recording(bag, (Camera("", topic),)) as recording, open_bag(bag) as beside:
        masks = MaskTopic(beside, bag, "/ground_truth/mask")
        read = list(recording.read())
        found = [masks.of(recorded) for recorded in read if recorded.index is not None]
        assert {r.connection.topic for r in read} == {topic, "/camera/camera_info", "/tf"}
        assert masks.unused() == 0
    for mask, true in zip(found, truth, strict=True):
        np.testing.assert_array_equal(mask, true.mask)


def test_the_bag_holds_depth_intrinsics_pose_and_object_numbers(tmp_path):
    from rosbags.highlevel import AnyReader

    assert simulate(tmp_path / "a.mcap", "--anomalies", "test") == 0
    with AnyReader([tmp_path / "a.mcap"]) as reader:
        said = {c.topic: reader.deserialize(raw, c.msgtype) for c, _, raw in reader.messages()}  # the last of each
    true = expected()[-1]
    depth = said["/camera/depth"]
    assert depth.encoding == "16UC1" and depth.header.frame_id == "camera_optical_frame"
    near = true.depth < 65
    metres = depth.data.view(np.uint16).reshape(72, 96) / 1000
    np.testing.assert_allclose(metres[near], true.depth[near], atol=0.001)
    assert (metres[np.isinf(true.depth)] == 0).all()
    np.testing.assert_allclose(said["/camera/camera_info"].k.reshape(3, 3), true.camera_matrix)
    np.testing.assert_array_equal(said["/ground_truth/objects"].data.view(np.uint16).reshape(72, 96), true.objects)
    (transform,) = said["/tf"].transforms
    at = transform.transform.translation
    np.testing.assert_allclose([at.x, at.y, at.z], true.camera_pose[:3, 3])
    q = transform.transform.rotation
    turned = rotation_of(q.w, q.x, q.y, q.z)
    np.testing.assert_allclose(turned, true.camera_pose[:3, :3], atol=1e-9)


@pytest.mark.parametrize(("options", "picture"), [((), "image_raw"), (("--compressed",), "image_raw/compressed")])
def test_who_plays_the_bag_and_gets_a_picture_has_got_all_else_of_its_stamp(tmp_path, options, picture):
    """The transform at the picture's stamp above all, which a callback would look up in vain."""
    from rosbags.highlevel import AnyReader

    assert simulate(tmp_path / "a.mcap", *options) == 0
    with AnyReader([tmp_path / "a.mcap"]) as reader:
        played = [(stamp, connection.topic) for connection, stamp, _ in reader.messages()]
    last = dict(played)
    assert len(played) == 6 * 3 and set(last.values()) == {f"/camera/{picture}"}


def rotation_of(w: float, x: float, y: float, z: float) -> np.ndarray:
    """(3, 3) of a unit quaternion."""
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def test_a_compressed_bag_is_smaller_and_nearly_the_same(tmp_path):
    assert simulate(tmp_path / "raw.mcap") == 0
    assert simulate(tmp_path / "jpeg.mcap", "--compressed", "--no-depth") == 0
    assert (tmp_path / "jpeg.mcap").stat().st_size < (tmp_path / "raw.mcap").stat().st_size / 2
    for frame, true in zip(
        iter_frames(tmp_path / "jpeg.mcap", "/camera/image_raw/compressed"), expected(anomalies="none"), strict=True
    ):
        assert np.abs(frame.image.astype(int) - true.image).mean() < JPEG_ERROR


def test_the_same_seed_gives_the_same_bag(tmp_path):
    for name in "ab":
        assert simulate(tmp_path / f"{name}.mcap") == 0
    assert (tmp_path / "a.mcap").read_bytes() == (tmp_path / "b.mcap").read_bytes()


def test_the_folder_is_what_a_fit_and_an_evaluation_read(tmp_path):
    from flowclas_ros.training.benchmarks import pair_folders
    from flowclas_ros.training.data import InlierDataset, list_frames
    from flowclas_ros.training.data_config import DataConfig, OutlierConfig
    from flowclas_ros.training.outliers import open_outliers

    folder = tmp_path / "made"
    assert simulate(folder, "--format", "folder", "--anomalies", "fit", "--fps", "0.1", scene="road") == 0
    config = DataConfig(train=[str(folder / "images")], outliers=OutlierConfig(cutouts=str(folder / "cutouts")))
    found = list_frames(config.train, config)
    assert len({frame.scene for frame in found}) == 2, "a scene every 20 seconds"
    truth = list(scenes.render("road", 1, frames=3, width=96, height=72, fps=0.1, anomalies="fit"))
    np.testing.assert_array_equal(InlierDataset(found)[2]["image"].permute(1, 2, 0).numpy(), truth[2].image)
    objects = open_outliers(config.outliers)
    assert objects.cutout(len(objects) - 1).shape[2] == 4
    assert len(pair_folders(folder / "images", folder / "masks")) == 3
    numbers = cv2.imread(str(folder / "objects" / "scene_0001" / "000002.png"), cv2.IMREAD_UNCHANGED)
    assert numbers.dtype == np.uint16
    np.testing.assert_array_equal(numbers, truth[2].objects)
    cameras = json.loads((folder / "cameras.json").read_text())
    np.testing.assert_allclose(cameras["scene_0001/000002"]["world_from_optical"], truth[2].camera_pose)


def test_what_exists_is_kept_and_what_breaks_off_leaves_nothing(tmp_path, capsys, monkeypatch):
    (tmp_path / "a.mcap").write_text("mine")
    assert simulate(tmp_path / "a.mcap") == 2
    assert "exists" in capsys.readouterr().err and (tmp_path / "a.mcap").read_text() == "mine"
    assert simulate(tmp_path / "bag") == 2
    assert ".mcap" in capsys.readouterr().err
    assert simulate(tmp_path / "c", "--format", "folder", "--compressed") == 2
    assert "--compressed is for a bag" in capsys.readouterr().err

    first = expected()[0]

    def broken(*arguments, **options):
        yield first
        raise KeyboardInterrupt

    monkeypatch.setattr(scenes, "render", broken)
    assert simulate(tmp_path / "b.mcap") == 130
    assert simulate(tmp_path / "c", "--format", "folder") == 130
    assert [path.name for path in tmp_path.iterdir()] == ["a.mcap"]


def test_what_a_killed_run_of_the_same_process_id_left_behind_is_swept_away(tmp_path):
    (tmp_path / f".a.mcap.{os.getpid()}.bag" / "scene").mkdir(parents=True)
    left = tmp_path / f".made.{os.getpid()}.tmp" / "images" / "scene_0000" / "000099.png"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    assert simulate(tmp_path / "a.mcap") == 0
    assert simulate(tmp_path / "made", "--format", "folder") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"a.mcap", "made"}
    assert len(list((tmp_path / "made" / "images").rglob("*.png"))) == 3


def test_a_size_that_is_none_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["simulate", "--scene", "orbit", "--output", str(tmp_path / "a.mcap"), "--size", "big"])
    assert "'big' is not a width and a height" in capsys.readouterr().err
