"""What changes while the detector runs: pause, checkpoint, parameters; in a process of its own over real DDS."""

from __future__ import annotations

import itertools
import time
from types import SimpleNamespace

import numpy as np
import pytest
from node_running import health, pixels_of, settle
from node_support import ANSWER_TIMEOUT, LOAD_TIMEOUT, detector_graph, image_message, make_checkpoint, options, picture

pytestmark = pytest.mark.alone

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("flowclas_ros.srv", reason="needs the generated messages (make, or colcon build)")

CLEAR, CAUTION, HAZARD, STALE, FAULT = range(5)
LISTENED = ("mask", "score", "heatmap", "hazards", "state")
RATE = 25.0  # frames a second while a checkpoint is swapped
QUEUE = 200  # frames and results that the middleware may hold, so that it loses none and the counts must add up
MOST_SILENT = 3.0  # seconds without a result during a swap; loading takes a core, and others may use the rest


@pytest.fixture(scope="module")
def models(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    second, damaged = make_checkpoint(folder / "second.safetensors"), folder / "damaged.safetensors"
    damaged.write_bytes(checkpoint.read_bytes()[:2000])
    return SimpleNamespace(first=str(checkpoint), second=str(second), damaged=str(damaged))


@pytest.fixture(scope="module")
def graph(models, tmp_path_factory):
    """An active detector whose queues, by overrides in a parameter file, hold all that a test sends."""
    folder = tmp_path_factory.mktemp("detector")
    (folder / "qos.yaml").write_text(
        f"""/**:
  ros__parameters:
    qos_overrides:
      /image: {{subscription: {{reliability: reliable, depth: {QUEUE}}}}}
      /detector/hazards: {{publisher: {{depth: {QUEUE}}}}}
"""
    )
    arguments = options(
        checkpoint=models.first, device="cpu", autostart=True, max_age=0.0, forget_frames=1, stale_after=5.0
    )
    with detector_graph(
        folder, *arguments, "--params-file", str(folder / "qos.yaml"), listened=(*LISTENED, "/diagnostics")
    ) as found:
        yield found


@pytest.fixture
def peer(graph):
    return graph.peer.forget()


@pytest.fixture
def restored(peer):
    """Sets parameters and takes them back afterwards."""
    from rclpy.parameter import parameter_value_to_python

    before = {}

    def change(**values):
        for name, found in zip(values, peer.get(*values), strict=True):
            before.setdefault(name, parameter_value_to_python(found))  # the value before the first change
        return peer.set_together(**values)

    yield change
    assert peer.set_together(**before).successful


def frame(peer, seed=1, anomaly=False):
    return image_message(picture(seed, anomaly), stamp=peer.now())


def load(peer, path):
    from flowclas_ros.srv import LoadCheckpoint

    return peer.ask("load_checkpoint", LoadCheckpoint, LoadCheckpoint.Request(path=path))


# ---------------------------------------------------------------- pause


def test_a_paused_detector_says_so_and_never_clear_and_goes_on_when_enabled(peer):
    assert peer.exchange(frame(peer), "state")["state"].level == CLEAR
    assert peer.enable(False).success
    paused = peer.until(lambda: peer.last_state(STALE, "paused"), "the pause in the state")
    peer.forget()
    end = time.monotonic() + 1.0
    peer.until(lambda: peer.send(frame(peer)) and time.monotonic() > end, "a second of frames")
    last = peer.until(lambda: peer.last_state(STALE, "paused"), "the pause in the state")
    assert {state.level for state in peer.got["state"]} == {STALE} and not peer.got["mask"]
    assert last.frames_processed == paused.frames_processed and last.frames_dropped > paused.frames_dropped
    assert peer.enable(True).success
    peer.until(lambda: peer.last_state(STALE, "no result"), "a state after the pause")
    assert {state.level for state in peer.got["state"]} == {STALE}, "the view before the pause is no answer"
    assert peer.exchange(frame(peer), "state", "mask")["state"].level == CLEAR


# ---------------------------------------------------------------- checkpoint


def stream_until(peer, done, timeout=LOAD_TIMEOUT):
    """Frames at RATE until `done()`; the stamps sent."""
    sent, start = [], time.monotonic()
    while not done():
        assert time.monotonic() - start < timeout
        sent.append(peer.send(frame(peer, len(sent) % 5, anomaly=True)))
        due = start + len(sent) / RATE
        peer.until(lambda due=due: time.monotonic() >= due, "the next frame's time")
    return sent


def test_a_checkpoint_swapped_under_load_loses_no_frame(peer, models):
    before = peer.exchange(frame(peer), "state")["state"]
    peer.got["hazards"].clear()
    sent = stream_until(peer, lambda: len(peer.got["hazards"]) > 5)
    answer = load(peer, models.second)
    sent += stream_until(peer, answer.done)
    result = answer.result()
    end = time.monotonic() + 0.5
    sent += stream_until(peer, lambda: time.monotonic() > end)

    def settled():
        states = [state for state in peer.got["state"] if state.header.stamp == sent[-1]]
        return states[-1] if states else None

    last = peer.until(settled, "the last frame's state")
    assert result.success and result.name == "second" and last.checkpoint_name == "second"
    assert result.sha256 == last.checkpoint_sha256 != before.checkpoint_sha256
    received = last.frames_received - before.frames_received
    processed = last.frames_processed - before.frames_processed
    dropped = last.frames_dropped - before.frames_dropped
    assert received == len(sent) == processed + dropped
    peer.until(lambda: len(peer.got["hazards"]) >= processed, "the hazards of every frame processed")
    stamps = [message.header.stamp for message in peer.got["hazards"]]
    assert len(stamps) == processed
    order = [sent.index(stamp) for stamp in stamps]
    assert order == sorted(order)
    seconds = np.array([stamp.sec + stamp.nanosec * 1e-9 for stamp in stamps])
    assert np.diff(seconds).max() < MOST_SILENT
    names = [name for name, _ in itertools.groupby(state.checkpoint_name for state in peer.got["state"])]
    assert names == [before.checkpoint_name, "second"]  # and never back
    assert {state.level for state in peer.got["state"][1:]} == {HAZARD}


@pytest.mark.parametrize(
    "kind, words", [("damaged", "truncated or damaged"), ("missing", "does not exist"), ("", "path is empty")]
)
def test_a_bad_checkpoint_keeps_the_old_one(peer, models, kind, words):
    path = {"damaged": models.damaged, "missing": "/nowhere/at/all.safetensors", "": ""}[kind]
    before = peer.exchange(frame(peer), "state")["state"]
    answer = load(peer, path)
    peer.until(answer.done, "the refusal", ANSWER_TIMEOUT)
    result = answer.result()
    assert not result.success and words in result.message and "the one in use stays" in result.message
    after = peer.exchange(frame(peer), "state")["state"]
    assert after.checkpoint_sha256 == before.checkpoint_sha256 == result.sha256
    assert after.level == CLEAR


def test_the_parameter_tells_the_checkpoint_in_use(peer, models):
    answer = load(peer, models.first)
    peer.until(answer.done, "the swap", LOAD_TIMEOUT)
    assert answer.result().success
    assert peer.get("checkpoint")[0].string_value == models.first


# ---------------------------------------------------------------- parameters


def test_the_threshold_changes_between_two_frames(peer, restored):
    assert peer.exchange(frame(peer, anomaly=True), "state")["state"].level == HAZARD
    assert restored(threshold=1e6).successful
    state = peer.exchange(frame(peer, anomaly=True), "state")["state"]
    assert (state.level, state.threshold) == (CLEAR, 1e6) and not state.threshold_guaranteed
    assert np.isnan(state.false_alarm_rate)
    assert peer.set("threshold", float("nan")).successful
    assert peer.exchange(frame(peer, anomaly=True), "state")["state"].level == HAZARD


def test_a_higher_false_alarm_rate_lowers_the_threshold(peer, restored):
    before = peer.exchange(frame(peer), "state")["state"]
    assert restored(false_alarm_rate=0.3).successful
    after = peer.exchange(frame(peer), "state")["state"]
    assert after.threshold < before.threshold and after.false_alarm_rate == pytest.approx(0.3)


def test_min_area_changes_live(peer, restored):
    assert restored(min_area=96 * 128).successful
    state = peer.exchange(frame(peer, anomaly=True), "state")["state"]
    assert (state.level, state.hazard_count) == (CAUTION, 0)


def test_outside_the_region_of_interest_nothing_is_a_hazard(peer, restored):
    # the anomaly stands at columns 48 to 80 of 128; the random features around it reach a little further
    assert restored(region_of_interest=[0.8, 0.0, 1.0, 1.0]).successful
    got = peer.exchange(frame(peer, anomaly=True), "mask", "heatmap", "state")
    assert not pixels_of(got["mask"])[:, :102].any() and not pixels_of(got["heatmap"])[:, :102].any()
    assert pixels_of(got["heatmap"])[:, 103:].any()
    assert got["state"].level == CLEAR


def test_a_hazard_is_listed_once_confirmed_keeps_its_id_and_is_held_when_missed(peer, restored):
    assert restored(confirm_frames=3, forget_frames=2).successful
    got = [peer.exchange(frame(peer, 3, True), "hazards", "state") for _ in range(4)]
    assert [bool(one["hazards"].hazards) for one in got] == [False, False, True, True]
    assert [one["state"].level for one in got] == [CAUTION, CAUTION, HAZARD, HAZARD]
    ids = [sorted(hazard.id for hazard in one["hazards"].hazards) for one in got[2:]]
    assert ids[0] == ids[1] and ids[0][0] > 0
    missed = [peer.exchange(frame(peer, 3), "hazards", "state") for _ in range(2)]
    assert [one["state"].level for one in missed] == [HAZARD, CLEAR]
    assert [hazard.frames_missed for hazard in missed[0]["hazards"].hazards] == [1] * len(ids[0])


def test_smoothing_delays_a_change(peer, restored):
    sharp = peer.exchange(frame(peer, 4, True), "score")["score"]
    assert restored(smoothing=60.0).successful
    peer.exchange(frame(peer, 4), "score")
    smooth = peer.exchange(frame(peer, 4, True), "score")["score"]
    assert pixels_of(smooth, np.float32).max() < pixels_of(sharp, np.float32).max()


def test_the_outputs_shrink_and_the_hazards_stay_in_pixels_of_the_input(peer, restored):
    whole = peer.exchange(frame(peer, 5, True), "hazards", "mask")
    assert restored(output_scale=0.5).successful
    half = peer.exchange(frame(peer, 5, True), "hazards", "mask", "score", "heatmap")
    assert {(half[name].height, half[name].width) for name in ("mask", "score", "heatmap")} == {(48, 64)}
    set_half, set_whole = pixels_of(half["mask"]) > 0, pixels_of(whole["mask"]) > 0
    np.testing.assert_array_equal(set_half, set_whole.reshape(48, 2, 64, 2).any(axis=(1, 3)))  # no pixel is lost
    assert [h.bbox for h in half["hazards"].hazards] == [h.bbox for h in whole["hazards"].hazards]


def test_only_the_outputs_that_publish_names_are_sent_and_the_state_always(peer, restored):
    outputs = ("mask", "score", "heatmap", "hazards")
    peer.exchange(frame(peer), *outputs)
    for named in (["mask", "hazards"], [""]):
        assert restored(publish=named).successful
        peer.forget()
        # the state is published last of a frame: what has not come by then does not come
        got = peer.exchange(frame(peer, anomaly=True), *(name for name in named if name), "state")
        assert got["state"].level == HAZARD
        settle(peer)
        assert {name for name in outputs if peer.got[name]} == {name for name in named if name}
    assert peer.set("publish", list(outputs)).successful
    peer.exchange(frame(peer), *outputs)


def test_a_subscriber_that_asks_for_more_than_the_outputs_offer_is_named_in_the_diagnostics_until_it_leaves(peer):
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from sensor_msgs.msg import Image

    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    subscription = peer.node.create_subscription(Image, "/detector/overlay", lambda message: None, latched)
    try:
        peer.exchange(frame(peer), "state")
        status = health(peer, "a subscriber of /detector/overlay asks for an incompatible DURABILITY")
        assert status.level == b"\x01" and status.hardware_id == "cpu"
        values = {pair.key for pair in status.values}
        assert {"device", "latency (s)", "frames dropped", "preprocess (s)", "infer (s)", "tracking (s)"} <= values
        peer.forget()
        assert peer.change("deactivate") and peer.change("activate")
        peer.exchange(frame(peer), "state")
        health(peer, "incompatible DURABILITY")  # said again, as it still holds
    finally:
        peer.node.destroy_subscription(subscription)
    peer.forget()
    peer.exchange(frame(peer), "state")
    assert health(peer, "frames are searched in time").level == b"\x00"


def test_precision_changes_live_and_a_device_that_is_absent_is_refused(peer, restored):
    result = peer.set("device", "cuda:77")
    assert not result.successful and "cuda:77" in result.reason
    result = peer.set("precision", "fp16")
    assert not result.successful and "needs a CUDA device" in result.reason
    before = peer.exchange(frame(peer, 6), "score")["score"]
    assert restored(precision="bf16").successful
    after = peer.exchange(frame(peer, 6), "score")["score"]
    assert (pixels_of(before, np.float32) != pixels_of(after, np.float32)).any()


@pytest.mark.parametrize(
    "values, words",
    [
        ({"min_area": 7, "region_of_interest": [0.5, 0.0, 0.4, 1.0]}, "region_of_interest"),
        ({"region_of_interest": [0.0, 1.0], "min_area": 7}, "four shares"),
        ({"min_area": 7, "max_age": -1.0}, "max_age"),
        ({"min_area": 7, "false_alarm_rate": 0.0}, "false_alarm_rate 0 is not between 0 and 1"),
        ({"min_area": 7, "threshold": float("inf")}, "threshold inf"),
        ({"min_area": 7, "threshold": 1e300}, "threshold 1e+300 is not a score"),
        ({"min_area": 7, "cameras": ["front"]}, "cameras takes effect when the node configures"),
        ({"min_area": 7, "output_scale": 2.0}, "output_scale"),
        ({"min_area": 7, "publish": ["mask", "maks"]}, "publish: 'maks' is none of score, heatmap"),
        ({"min_area": 7, "publish": ["state"]}, "the state always is published"),
    ],
)
def test_of_parameters_set_together_one_that_is_refused_changes_nothing(peer, values, words):
    before = str(peer.get(*values))  # NaN is not equal to itself
    result = peer.set_together(**values)
    assert not result.successful and words in result.reason
    assert str(peer.get(*values)) == before
