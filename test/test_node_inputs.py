"""What the detector takes in beside a plain image: compressed images, self masks, several cameras, /clock, depth."""

from __future__ import annotations

import io
import math
import time
from array import array
from contextlib import contextmanager

import numpy as np
import pytest
from node_support import (
    HEIGHT,
    LOAD_TIMEOUT,
    WIDTH,
    DetectorProcess,
    Peer,
    image_message,
    make_checkpoint,
    options,
    picture,
)

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("flowclas_ros.srv", reason="needs the generated messages (make, or colcon build)")

CLEAR, CAUTION, HAZARD, STALE, FAULT = range(5)
SCORE_TOLERANCE = 1e-4  # nats per dimension
DISTANCE = 2.0  # metres to the plane that the depth images show
FOCAL = 100.0  # pixels


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("model") / "small.safetensors")


@pytest.fixture(scope="module")
def direct(checkpoint):
    from flowclas_ros.detection.detector import Detector

    return Detector(checkpoint, device="cpu")


@contextmanager
def running(checkpoint, folder, *listened, **parameters):
    """An active detector and a peer that listens to it."""
    settings = {"checkpoint": checkpoint, "device": "cpu", "autostart": True, "max_age": 0.0, "forget_frames": 1}
    settings |= {"stale_after": 5.0}
    detector = DetectorProcess(folder / "detector.log", *options(**(settings | parameters)))
    peer = Peer()
    try:
        peer.listen(*listened, "/diagnostics")
        peer.until(lambda: peer.state() == "active", f"autostart, log: {detector.log}", LOAD_TIMEOUT)
        peer.folder = folder
        for name in listened:
            peer.until(lambda name=name: peer.node.count_publishers(f"/detector/{name}"), f"a publisher of {name}")
        yield peer
        assert detector.stop() == 0, detector.text
    finally:
        peer.close()
        detector.stop()


def offer(peer, kind, topic):
    """A publisher that the detector has found."""
    publisher = peer.node.create_publisher(kind, topic, 10)
    peer.until(lambda: publisher.get_subscription_count() > 0, f"the detector subscribing to {topic}")
    settle(peer)
    return publisher


def settle(peer, seconds=0.3):
    """Both sides of a match are not made in the same instant."""
    end = time.monotonic() + seconds
    peer.until(lambda: time.monotonic() > end, "settling")


def answers(peer, stamp, *names):
    def arrived():
        found = {name: next((m for m in peer.got[name] if m.header.stamp == stamp), None) for name in names}
        return found if all(found.values()) else None

    return peer.until(arrived, f"{', '.join(names)} of the frame sent")


def health(peer, words, name="/detector: health"):
    """Wait for a health status whose message holds `words`."""

    def found():
        statuses = [status for message in peer.got["/diagnostics"] for status in message.status]
        return next((status for status in statuses if status.name == name and words in status.message), None)

    return peer.until(found, f"'{words}' in the diagnostics")


def pixels_of(message, dtype=np.uint8):
    return np.frombuffer(message.data, dtype).reshape(message.height, message.width)


# ---------------------------------------------------------------- compressed images


def encoded(pixels, kind):
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"quality": 90} if kind == "JPEG" else {}))
    return buffer.getvalue()


def compressed(peer, data, text):
    from sensor_msgs.msg import CompressedImage

    message = CompressedImage(format=text, data=array("B", data))
    message.header.stamp, message.header.frame_id = peer.now(), "camera"
    return message


def test_compressed_images_score_like_their_decoded_pictures_and_broken_ones_are_counted(checkpoint, direct, tmp_path):
    from PIL import Image
    from sensor_msgs.msg import CompressedImage

    with running(checkpoint, tmp_path, "score", "state", transport="compressed") as peer:
        camera = offer(peer, CompressedImage, "/image/compressed")
        for kind, text in (("PNG", "rgb8; png compressed bgr8"), ("JPEG", "rgb8; jpeg compressed bgr8")):
            data = encoded(picture(3, True), kind)
            message = compressed(peer, data, text)
            camera.publish(message)
            got = answers(peer, message.header.stamp, "score", "state")
            expected = direct.detect(np.asarray(Image.open(io.BytesIO(data)))).score
            np.testing.assert_allclose(pixels_of(got["score"], np.float32), expected, atol=SCORE_TOLERANCE)
            assert got["score"].header == message.header
        before = got["state"]
        for broken in (data[: len(data) // 2], b"no picture", b""):
            camera.publish(compressed(peer, broken, "rgb8; jpeg compressed bgr8"))
            words = "compressed image of format"
            fault = peer.until(lambda words=words: peer.last_state(FAULT, words), "FAULT for a broken JPEG")
            peer.got["state"].clear()
        peer.until(lambda: peer.got["state"] and peer.got["state"][-1].frames_dropped == before.frames_dropped + 3, "3")
        assert fault.frames_processed == before.frames_processed
        message = compressed(peer, data, "jpeg")
        camera.publish(message)
        assert answers(peer, message.header.stamp, "state")["state"].level == HAZARD


# ---------------------------------------------------------------- self mask


def arm():
    """A mask over where the anomaly stands, and what the features smear of it."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[16:80, 32:96] = 255
    return mask


def test_a_live_self_mask_is_never_a_hazard_and_one_of_another_view_is_not_used(checkpoint, tmp_path):
    from sensor_msgs.msg import Image

    with running(checkpoint, tmp_path, "mask", "state", self_mask="topic") as peer:
        peer.connected()

        def seen():
            return peer.exchange(image_message(picture(3, True), stamp=peer.now()), "mask", "state")

        assert seen()["state"].level == HAZARD  # no mask has come: nothing is masked
        health(peer, "no self mask has come")
        masks = offer(peer, Image, "/self_mask")
        for mask in (arm(), arm()[::2, ::2]):  # of the frame's size, and of half of it
            masks.publish(image_message(mask, "mono8"))
            settle(peer)
            got = seen()
            assert got["state"].level == CLEAR and not pixels_of(got["mask"])[16:80, 32:96].any()
        masks.publish(image_message(arm()[:50], "mono8"))
        settle(peer)
        assert seen()["state"].level == HAZARD
        health(peer, "differ in aspect")
        masks.publish(image_message(np.full((HEIGHT, WIDTH), 255, np.uint8), "mono8"))
        settle(peer)
        peer.send(image_message(picture(3, True), stamp=peer.now()))
        peer.until(lambda: peer.last_state(FAULT, "nothing is left to search"), "FAULT, not CLEAR")
        masks.publish(image_message(arm(), "mono8"))
        peer.set("stale_after", 0.5)
        settle(peer, 1.0)
        assert seen()["state"].level == HAZARD  # the arm is elsewhere by now
        health(peer, "no self mask for")


# ---------------------------------------------------------------- several cameras


def test_two_cameras_in_one_node_each_get_their_own_answers(checkpoint, direct, tmp_path):
    from PIL import Image as Picture
    from sensor_msgs.msg import Image

    Picture.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(tmp_path / "front.png")
    Picture.fromarray(arm()).save(tmp_path / "left.png")
    names = [f"{camera}/{name}" for camera in ("front", "left") for name in ("score", "state", "hazards")]
    mask = f"{tmp_path}/{{camera}}.png"
    with running(checkpoint, tmp_path, *names, cameras=["front", "left"], self_mask=mask) as peer:
        cameras = {name: offer(peer, Image, f"/{name}/image") for name in ("front", "left")}
        for turn in range(3):
            sent = {}
            for name, camera in cameras.items():
                pixels = picture(len(name) + turn, True)
                pixels = pixels[:, : WIDTH - 16] if turn == 2 and name == "left" else pixels  # sizes may differ
                sent[name] = image_message(pixels, stamp=peer.now(), frame_id=f"{name}_optical")
                camera.publish(sent[name])
                if turn < 2:
                    expected = direct.detect(pixels).score
            for name, message in sent.items():
                got = answers(peer, message.header.stamp, f"{name}/score", f"{name}/state", f"{name}/hazards")
                assert {answer.header.frame_id for answer in got.values()} == {f"{name}_optical"}
                assert got[f"{name}/score"].width == message.width
                if turn < 2:
                    assert got[f"{name}/state"].level == (HAZARD if name == "front" else CLEAR)
            if turn < 2:
                np.testing.assert_allclose(pixels_of(got["left/score"], np.float32), expected, atol=SCORE_TOLERANCE)
        cameras["left"].publish(image_message(picture(1), "no_such_encoding", peer.now()))
        peer.until(lambda: peer.got["left/state"][-1].level == FAULT, "FAULT of the left camera")
        assert peer.got["front/state"][-1].level == HAZARD  # which is no matter of the front one's
        health(peer, "no_such_encoding", "/detector/left: health")
        health(peer, "in time", "/detector/front: health")


# ---------------------------------------------------------------- time


def test_time_that_steps_back_as_a_bag_that_starts_again_begins_anew(checkpoint, tmp_path):
    from rosgraph_msgs.msg import Clock

    with running(
        checkpoint, tmp_path, "hazards", "state", use_sim_time=True, max_age=5.0, confirm_frames=2, forget_frames=3
    ) as peer:
        clock = offer(peer, Clock, "/clock")
        peer.connected()

        def at(seconds, anomaly=True):
            message = Clock()
            message.clock.sec, message.clock.nanosec = int(seconds), int(seconds % 1 * 1e9)
            clock.publish(message)
            settle(peer, 0.2)
            return peer.exchange(image_message(picture(3, anomaly), stamp=message.clock), "hazards", "state")

        assert [len(at(100 + step / 10)["hazards"].hazards) > 0 for step in range(3)] == [False, True, True]
        first = {hazard.id for hazard in peer.got["hazards"][-1].hazards}
        again = [at(10 + step / 10) for step in range(2)]
        assert not again[0]["hazards"].hazards  # what was confirmed before is no longer
        second = {hazard.id for hazard in again[1]["hazards"].hazards}
        assert second and not first & second
        assert abs(again[1]["state"].latency) < 5  # by the clock that stepped back


def test_a_camera_that_restarts_is_heard_again(checkpoint, tmp_path):
    with running(checkpoint, tmp_path, "state", stale_after=1.0) as peer:
        peer.connected()
        assert peer.exchange(image_message(picture(3), stamp=peer.now()), "state")["state"].level == CLEAR
        peer.stop_camera()
        peer.until(lambda: peer.last_state(STALE, "nobody publishes /image"), "STALE that says why")
        peer.start_camera()
        peer.connected()
        small = picture(3)[:64]  # and with another size
        assert peer.exchange(image_message(small, stamp=peer.now()), "state")["state"].level != STALE


# ---------------------------------------------------------------- depth


def camera_info(stamp):
    from sensor_msgs.msg import CameraInfo

    info = CameraInfo(width=WIDTH, height=HEIGHT)
    info.header.stamp, info.header.frame_id = stamp, "camera"
    cx, cy = (WIDTH - 1) / 2, (HEIGHT - 1) / 2
    info.k = [FOCAL, 0.0, cx, 0.0, FOCAL, cy, 0.0, 0.0, 1.0]
    info.p = [FOCAL, 0.0, cx, 0.0, 0.0, FOCAL, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    return info


def test_depth_gives_positions_and_without_it_the_hazards_still_come(checkpoint, tmp_path):
    from sensor_msgs.msg import CameraInfo, Image

    topics = ("hazards", "points", "markers", "state", "camera_info")
    with running(checkpoint, tmp_path, *topics, depth=True, depth_wait=0.5, output_scale=0.5) as peer:
        depths, infos = offer(peer, Image, "/depth"), offer(peer, CameraInfo, "/camera_info")
        peer.connected()
        peer.got["/diagnostics"].clear()

        def seen(depth, late=0, info=True):
            stamp = peer.now()
            if info:
                infos.publish(camera_info(stamp))
            settle(peer, 0.1)
            if depth is not None:
                encoding = "16UC1" if depth.dtype == np.uint16 else "32FC1"
                message = image_message(depth, encoding, stamp)
                message.header.stamp.sec -= late
                depths.publish(message)
                message.header.stamp.sec += late
            peer.send(image_message(picture(3, True), stamp=stamp))
            return answers(peer, stamp, "hazards", "state")

        metres = np.full((HEIGHT, WIDTH), DISTANCE, np.float32)
        for depth in (metres, (metres * 1000).astype(np.uint16), metres[::2, ::2]):
            got = seen(depth)
            strongest = got["hazards"].hazards[0]
            assert strongest.has_position and strongest.position.z == pytest.approx(DISTANCE, abs=1e-3)
            pixel = DISTANCE / FOCAL  # metres that one pixel covers there
            expected = (strongest.bbox.x_offset + (strongest.bbox.width - 1) / 2 - (WIDTH - 1) / 2) * pixel
            assert strongest.size.x == pytest.approx((strongest.bbox.width - 1) * pixel, abs=pixel)
            assert abs(strongest.position.x - expected) < strongest.size.x  # the median lies within
            assert got["state"].nearest_range == pytest.approx(DISTANCE, rel=0.2)
            cloud = answers(peer, got["hazards"].header.stamp, "points")["points"]
            assert cloud.width == sum(hazard.area for hazard in got["hazards"].hazards)
            info = answers(peer, got["hazards"].header.stamp, "camera_info")["camera_info"]
            assert (info.width, info.height, info.k[0]) == (WIDTH // 2, HEIGHT // 2, FOCAL / 2)
        peer.until(lambda: any(len(markers.markers) > 1 for markers in peer.got["markers"]), "markers")
        for depth, late, words in (
            (np.full_like(metres, math.nan), 0, "no valid pixel"),
            (metres[:40], 0, "differ in aspect"),
            (metres, 3, "no depth within 20 ms"),
            (None, 0, "no depth"),
        ):
            got = seen(depth, late)
            assert got["state"].level == HAZARD and got["hazards"].hazards
            assert not any(hazard.has_position for hazard in got["hazards"].hazards)
            assert math.isnan(got["state"].nearest_range)
            assert "without a position" in got["state"].message and words in got["state"].message
        health(peer, "without a position")
        assert seen(metres)["hazards"].hazards[0].has_position  # and it recovers
