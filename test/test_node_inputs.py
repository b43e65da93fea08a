"""What the detector takes in beside a plain image: compressed images, self masks, several cameras, /clock."""

from __future__ import annotations

import io
from array import array

import numpy as np
import pytest
from node_running import Bench, answers, health, offer, pixels_of, settle
from node_support import HEIGHT, WIDTH, image_message, picture, ros_context

pytestmark = pytest.mark.alone

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("flowclas_ros.srv", reason="needs the generated messages (make, or colcon build)")

CLEAR, CAUTION, HAZARD, STALE, FAULT = range(5)
SCORE_TOLERANCE = 1e-4  # nats per dimension


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    found = Bench(tmp_path_factory.mktemp("bench"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def direct(bench):
    from flowclas_ros.detection.detector import Detector

    return Detector(bench.checkpoint, device="cpu")


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


def test_compressed_images_score_like_their_decoded_pictures_and_broken_ones_are_counted(bench, direct):
    from PIL import Image
    from sensor_msgs.msg import CompressedImage

    with bench.running("score", "state", transport="compressed") as peer:
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


def test_a_live_self_mask_is_never_a_hazard_and_one_of_another_view_is_not_used(bench):
    from sensor_msgs.msg import Image

    with bench.running("mask", "state", self_mask="topic") as peer:
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
        health(peer, "s off the frame (stale")


@pytest.mark.parametrize("kind", ["16 bit", "palette", "colour"])
def test_a_self_mask_file_masks_whatever_is_not_zero(tmp_path, kind):
    from PIL import Image as Picture

    from flowclas_ros.node.self_mask import SelfMask

    pixels = np.zeros((6, 8), np.uint16)
    pixels[:3] = 1
    saved = Picture.fromarray(pixels)
    if kind == "palette":
        saved = Picture.fromarray(pixels.astype(np.uint8)).convert("P")
        saved.putpalette([0, 0, 0] * 256)
    elif kind == "colour":
        saved = Picture.fromarray(np.stack([pixels.astype(np.uint8)] * 3, axis=2))
    saved.save(tmp_path / "mask.png")
    mask, remark = SelfMask.from_setting(str(tmp_path / "mask.png"), "").of((6, 8), 1.0)
    assert (mask == (pixels > 0)).all() and not remark


# ---------------------------------------------------------------- several cameras


def test_names_that_are_remapped_to_one_another_are_remapped_once():
    import rclpy

    from flowclas_ros.node.inputs import Inputs
    from flowclas_ros.node.parameters import Settings

    swapped = [f"{a}/{name}:=/{b}/{name}" for a, b in (("left", "right"), ("right", "left"))
               for name in ("image", "camera_info")]  # fmt: skip
    with ros_context() as context:
        arguments = ["--ros-args", *(word for rule in swapped for word in ("-r", rule))]
        node = rclpy.create_node("detector", context=context, cli_args=arguments)
        inputs = Inputs(node, "left", lambda *_: None, lambda: True, lambda _: None)
        inputs.open(Settings(), None)
        assert {subscription.topic_name for subscription in inputs._subscriptions} == {
            "/right/image",
            "/right/camera_info",
        }
        assert inputs.topic == "/right/image"
        node.destroy_node()


def test_two_cameras_in_one_node_each_get_their_own_answers(bench, direct, tmp_path):
    from PIL import Image as Picture
    from sensor_msgs.msg import Image

    Picture.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(tmp_path / "front.png")
    Picture.fromarray(arm()).save(tmp_path / "left.png")
    names = [f"{camera}/{name}" for camera in ("front", "left") for name in ("score", "state", "hazards")]
    mask = f"{tmp_path}/{{camera}}.png"
    with bench.running(*names, cameras=["front", "left"], self_mask=mask) as peer:
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


def test_time_that_steps_back_as_a_bag_that_starts_again_begins_anew(bench):
    from rosgraph_msgs.msg import Clock

    with bench.running("hazards", "state", use_sim_time=True, max_age=5.0, confirm_frames=2, forget_frames=3) as peer:
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


def test_a_camera_that_restarts_is_heard_again(bench):
    with bench.running("state", stale_after=1.0) as peer:
        peer.connected()
        assert peer.exchange(image_message(picture(3), stamp=peer.now()), "state")["state"].level == CLEAR
        peer.stop_camera()
        peer.until(lambda: peer.last_state(STALE, "nobody publishes /image"), "STALE that says why")
        peer.start_camera()
        peer.connected()
        small = picture(3)[:64]  # and with another size
        assert peer.exchange(image_message(small, stamp=peer.now()), "state")["state"].level != STALE
