"""The running detector, frame by frame: headers, encodings, levels, faults, age and silence, over real DDS."""

from __future__ import annotations

from array import array

import cv2
import numpy as np
import pytest
from node_support import HEIGHT, OUTPUTS, WIDTH, detector_graph, image_message, options, picture

pytestmark = pytest.mark.alone

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("flowclas_ros.msg", reason="needs the generated messages (make, or colcon build)")

CLEAR, CAUTION, HAZARD, STALE, FAULT = range(5)
STALE_AFTER = 3.0  # seconds; far above what a busy machine takes between two frames that a test sends
SCORE_TOLERANCE = 1e-4  # nats per dimension; both sides run the same float32 model, threads may sum in other orders


@pytest.fixture(scope="module")
def direct(checkpoint):
    """The same detector without ROS."""
    from flowclas_ros.detection.detector import Detector

    return Detector(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def graph(checkpoint, tmp_path_factory):
    """A detector that starts itself, and a peer that listens to all it says."""
    arguments = options(
        checkpoint=checkpoint,
        device="cpu",
        autostart=True,
        max_age=0.0,
        stale_after=STALE_AFTER,
        forget_frames=1,  # each test's frames stand for themselves
    )
    log = tmp_path_factory.mktemp("log")
    with detector_graph(log, *arguments, listened=(*OUTPUTS, "state", "/diagnostics")) as found:
        yield found


@pytest.fixture
def peer(graph):
    return graph.peer.forget()


def pixels_of(message, dtype=np.uint8):
    return np.frombuffer(message.data, dtype).reshape(message.height, message.width, -1).squeeze()


def stamped(peer, pixels, encoding="rgb8"):
    return image_message(pixels, encoding, peer.now())


def state_of(peer, stamp):
    return peer.until(lambda: next((s for s in peer.got["state"] if s.header.stamp == stamp), None), "state")


def test_every_output_carries_the_header_and_the_detectors_answer(peer, direct):
    rgb = picture(30, anomaly=True)
    message = stamped(peer, rgb)
    message.header.frame_id = "front/optical"
    got = peer.exchange(message, *OUTPUTS, "state")
    expected = direct.detect(rgb)
    assert all(output.header == message.header for output in got.values())
    assert {name: got[name].encoding for name in OUTPUTS} == {
        "mask": "mono8",
        "heatmap": "mono8",
        "score": "32FC1",
        "overlay": "bgr8",
    }
    assert all((got[name].height, got[name].width) == (HEIGHT, WIDTH) for name in OUTPUTS)
    np.testing.assert_allclose(pixels_of(got["score"], np.float32), expected.score, atol=SCORE_TOLERANCE)
    np.testing.assert_array_equal(np.unique(pixels_of(got["mask"])), [0, 255])
    assert (pixels_of(got["mask"]) > 0).mean() == pytest.approx(expected.mask.mean(), abs=1e-3)
    np.testing.assert_allclose(pixels_of(got["heatmap"]), expected.heat * 255, atol=1)
    state = got["state"]
    assert (state.level, state.hazard_count) == (HAZARD, len(expected.regions))
    assert state.threshold == pytest.approx(expected.threshold)
    assert state.peak_score == pytest.approx(float(expected.score.max()), abs=SCORE_TOLERANCE)
    assert state.checkpoint_name == "small" and len(state.checkpoint_sha256) == 64
    assert state.latency > 0


def test_a_scene_like_the_calibrations_is_clear(peer):
    assert peer.exchange(stamped(peer, picture(31)), "state")["state"].level == CLEAR


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "mono8", "mono16", "16UC1", "32FC1"])
def test_every_plain_encoding_scores_like_the_picture_from_a_file(peer, direct, tmp_path, encoding):
    rgb = picture(32, anomaly=True)
    colour = encoding in ("rgb8", "bgr8", "rgba8", "bgra8")
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    opaque = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
    sent = {
        "rgb8": rgb,
        "bgr8": rgb[..., ::-1],
        "rgba8": np.dstack([rgb, opaque]),
        "bgra8": np.dstack([rgb[..., ::-1], opaque]),
        "mono8": grey,
        "mono16": grey.astype(np.uint16) * 257,
        "16UC1": grey.astype(np.uint16) * 257,
        "32FC1": grey.astype(np.float32) / 255,
    }[encoding]
    cv2.imwrite(str(tmp_path / "picture.png"), rgb[..., ::-1] if colour else grey)
    read = cv2.cvtColor(cv2.imread(str(tmp_path / "picture.png"), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    got = peer.exchange(stamped(peer, sent, encoding), "score")["score"]
    np.testing.assert_allclose(pixels_of(got, np.float32), direct.detect(read).score, atol=SCORE_TOLERANCE)


def test_padded_rows_and_big_endian_pixels_score_alike(peer, direct):
    grey = picture(33, anomaly=True)[..., 0]
    big = (grey.astype(np.uint16) * 257).astype(">u2")
    message = stamped(peer, grey, "mono16")
    message.is_bigendian, message.step = 1, WIDTH * 2 + 6
    rows = np.hstack([big.view(np.uint8).reshape(HEIGHT, -1), np.full((HEIGHT, 6), 0xA5, np.uint8)])
    message.data = array("B", rows.tobytes())
    got = peer.exchange(message, "score")["score"]
    expected = direct.detect(np.repeat(grey[..., None], 3, axis=2)).score
    np.testing.assert_allclose(pixels_of(got, np.float32), expected, atol=SCORE_TOLERANCE)


@pytest.mark.parametrize(
    "encoding, to_rgb",
    [
        ("bayer_rggb8", "COLOR_BayerRGGB2RGB"),
        ("bayer_bggr8", "COLOR_BayerBGGR2RGB"),
        ("bayer_gbrg8", "COLOR_BayerGBRG2RGB"),
        ("bayer_grbg8", "COLOR_BayerGRBG2RGB"),
        ("bayer_rggb16", "COLOR_BayerRGGB2RGB"),
        ("yuv422", "COLOR_YUV2RGB_UYVY"),
        ("yuv422_yuy2", "COLOR_YUV2RGB_YUYV"),
    ],
)
def test_bayer_and_yuv_score_like_their_decoded_pictures(peer, direct, encoding, to_rgb):
    # any bytes are a picture in these encodings; smooth ones make it a scene
    raw = np.ascontiguousarray(picture(41)[..., 0] if encoding.startswith("bayer") else picture(41)[..., :2])
    decoded = cv2.cvtColor(raw, getattr(cv2, to_rgb))
    sent = raw.astype(np.uint16) * 256 if encoding.endswith("16") else raw
    got = peer.exchange(stamped(peer, sent, encoding), "score")["score"]
    np.testing.assert_allclose(pixels_of(got, np.float32), direct.detect(decoded).score, atol=SCORE_TOLERANCE)


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda message: setattr(message, "data", message.data[:-1]), "image data has"),
        (lambda message: setattr(message, "encoding", "no_such_encoding"), "no_such_encoding"),
    ],
)
def test_a_broken_frame_raises_fault_with_its_reason_and_the_next_frame_works(peer, spoil, words):
    before = peer.exchange(stamped(peer, picture(34)), "state")["state"]
    broken = stamped(peer, picture(34))
    spoil(broken)
    peer.send(broken)
    fault = peer.until(lambda: peer.last_state(FAULT, words), "FAULT")
    assert fault.header.stamp == before.header.stamp  # the last frame that was searched
    assert fault.frames_dropped == before.frames_dropped + 1
    after = peer.exchange(stamped(peer, picture(34)), "state")["state"]
    assert (after.level, after.frames_processed) == (CLEAR, before.frames_processed + 1)


def test_a_frame_of_another_size_is_searched_at_its_own_size(peer):
    got = peer.exchange(stamped(peer, picture(35)[:70, :91]), "mask")["mask"]
    assert (got.height, got.width) == (70, 91)


def test_a_frame_older_than_max_age_is_dropped_and_counted(peer):
    assert peer.set("max_age", 5.0).successful
    try:
        before = peer.exchange(stamped(peer, picture(36)), "state")["state"]
        old = stamped(peer, picture(36, anomaly=True))
        old.header.stamp.sec -= 3600
        peer.send(old)
        after = peer.exchange(stamped(peer, picture(36)), "state")["state"]
        assert after.frames_dropped == before.frames_dropped + 1
        assert all(message.header.stamp != old.header.stamp for message in peer.got["mask"])
    finally:
        peer.set("max_age", 0.0)


@pytest.mark.parametrize("seconds", [None, 3600])
def test_a_frame_without_a_stamp_or_from_the_future_is_searched(peer, seconds):
    assert peer.set("max_age", 5.0).successful
    try:
        message = stamped(peer, picture(37))
        message.header.stamp.sec = message.header.stamp.sec + seconds if seconds else 0
        message.header.stamp.nanosec = message.header.stamp.nanosec if seconds else 0
        state = peer.exchange(message, "state")["state"]
        assert state.level == CLEAR
        assert state.latency < 0 if seconds else np.isnan(state.latency)
    finally:
        peer.set("max_age", 0.0)


def test_frames_that_all_come_too_late_end_in_stale_that_says_why(peer):
    peer.exchange(stamped(peer, picture(38)), "state")
    peer.set("max_age", 5.0)
    try:

        def late():
            message = stamped(peer, picture(38))
            message.header.stamp.sec -= 3600
            peer.send(message)
            return peer.last_state(STALE, "after their stamp (max_age 5 s)")

        peer.until(late, "STALE for late frames")
    finally:
        peer.set("max_age", 0.0)


def test_a_stalled_camera_turns_stale_and_recovers(peer):
    stamp = peer.exchange(stamped(peer, picture(39)), "state")["state"].header.stamp
    stale = peer.until(lambda: peer.last_state(STALE, "no frame for"), "STALE")
    assert stale.header.stamp == stamp and "/image" in stale.message
    peer.exchange(stamped(peer, picture(39)), "state")
    assert peer.got["state"][-1].level == CLEAR


def test_diagnostics_keep_health_and_hazard_apart(peer):
    def statuses():
        peer.send(stamped(peer, picture(40, anomaly=True)))
        for array_ in peer.got["/diagnostics"]:
            by_name = {status.name: status for status in array_.status}
            if by_name["/detector: hazard"].level == b"\x02":
                return by_name
        return None

    found = peer.until(statuses, "/diagnostics with a hazard")
    assert found["/detector: health"].level == b"\x00"
    values = {pair.key: pair.value for pair in found["/detector: health"].values}
    assert values["device"] == "cpu" and "infer (s)" in values
