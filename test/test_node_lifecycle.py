"""The detector's lifecycle, parameters, overload and QoS, in a process of its own over real DDS."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from node_support import (
    ANSWER_TIMEOUT,
    LOAD_TIMEOUT,
    OUTPUTS,
    START_TIMEOUT,
    Peer,
    detector_graph,
    image_message,
    make_checkpoint,
    options,
    picture,
)

pytestmark = pytest.mark.alone

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("flowclas_ros.msg", reason="needs the generated messages (make, or colcon build)")

ROUND_TRIPS = 5
FLOOD = 100  # frames
SLOW_SIDE = 800  # pixels of the short side that the slow model enlarges every frame to


@pytest.fixture(scope="module")
def models(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    damaged = folder / "damaged.safetensors"
    damaged.write_bytes(checkpoint.read_bytes()[:1000])
    return SimpleNamespace(
        small=str(checkpoint),
        damaged=str(damaged),
        missing=str(folder / "missing.safetensors"),
        slow=str(make_checkpoint(folder / "slow.safetensors", short_side=SLOW_SIDE)),
    )


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """An unconfigured detector under another name and namespace, and a peer."""
    names = [word for rule in ("__ns:=/robot", "__node:=eyes", "image:=/cam/image_raw") for word in ("-r", rule)]
    with detector_graph(
        tmp_path_factory.mktemp("log"),
        *names,
        *options(device="cpu", max_age=0.0, stale_after=30.0),
        awaited="unconfigured",
        listened=(*OUTPUTS, "state"),
        target="/robot/eyes",
        topic="/cam/image_raw",
    ) as found:
        yield found


@pytest.fixture
def peer(graph):
    """The peer, before a detector that is unconfigured, as it is again afterwards."""
    yield graph.peer.forget()
    for transition, state in (("deactivate", "active"), ("cleanup", "inactive")):
        if graph.peer.state() == state:
            assert graph.peer.change(transition)


def start(peer, checkpoint):
    assert peer.set("checkpoint", checkpoint).successful
    assert peer.change("configure") and peer.change("activate")
    peer.connected(*OUTPUTS, "state")


@pytest.mark.parametrize("kind, words", [("missing", "does not exist"), ("damaged", "truncated or damaged")])
def test_a_bad_checkpoint_refuses_to_configure_says_why_and_can_be_corrected(graph, peer, models, kind, words):
    assert peer.set("checkpoint", getattr(models, kind)).successful
    assert not peer.change("configure")
    assert peer.state() == "unconfigured"
    reason = [line for line in graph.detector.text.splitlines() if "not configured" in line][-1]
    assert words in reason and getattr(models, kind) in reason
    start(peer, models.small)
    assert peer.exchange(image_message(picture(50), stamp=peer.now()), "state")["state"].level == 0


def test_a_transition_that_the_state_does_not_have_is_refused_and_harms_nothing(graph, peer, models):
    assert not peer.change("activate") and peer.state() == "unconfigured"
    start(peer, models.small)
    assert not peer.change("activate") and not peer.change("configure") and peer.state() == "active"
    assert peer.exchange(image_message(picture(51), stamp=peer.now()), "state")["state"].level == 0
    assert "transition 3 refused" in graph.detector.text


def test_round_trips_leave_no_publisher_and_no_thread(graph, peer, models):
    threads = []
    for turn in range(ROUND_TRIPS):
        start(peer, models.small)
        peer.exchange(image_message(picture(turn), stamp=peer.now()), *OUTPUTS)
        assert peer.change("deactivate")
        peer.until(lambda: peer.camera.get_subscription_count() == 0, "the image's subscription going")
        last = peer.until(lambda: peer.last_state(3, "deactivated"), "the farewell")
        assert last.frames_processed == 1
        assert peer.change("cleanup")
        peer.until(
            lambda: not any(peer.node.count_publishers(f"{peer.target}/{name}") for name in (*OUTPUTS, "state")),
            "the outputs going",
        )
        threads.append(graph.detector.threads())
    assert threads[-1] == threads[0]


def test_an_inactive_detector_does_not_look(peer, models):
    peer.set("checkpoint", models.small)
    assert peer.change("configure")
    end = time.monotonic() + 1.0
    peer.until(lambda: peer.send(image_message(picture(1), stamp=peer.now())) and time.monotonic() > end, "a second")
    assert not peer.got["mask"] and not peer.got["state"]
    refused = peer.enable(True)
    assert not refused.success and "activate it" in refused.message


def test_before_it_is_configured_no_checkpoint_is_loaded(peer, models):
    from flowclas_ros.srv import LoadCheckpoint

    answer = peer.call("load_checkpoint", LoadCheckpoint, LoadCheckpoint.Request(path=models.small))
    assert not answer.success and "not configured" in answer.message


@pytest.mark.parametrize(
    "name, value",
    [
        ("false_alarm_rate", 1.5),
        ("min_area", 0),
        ("max_age", -1.0),
        ("precision", "fp8"),
        ("qos", "best"),
        ("checkpoint", 3),
    ],
)
def test_a_parameter_out_of_range_is_refused_and_changes_nothing(peer, name, value):
    from rcl_interfaces.srv import GetParameters

    def current():
        return peer.call("get_parameters", GetParameters, GetParameters.Request(names=[name])).values

    before = current()
    result = peer.set(name, value)
    assert not result.successful and result.reason
    assert current() == before


def test_a_parameter_read_at_configure_is_refused_while_configured(peer, models):
    start(peer, models.small)
    result = peer.set("transport", "compressed")
    assert not result.successful and "transport takes effect when the node configures" in result.reason
    assert peer.set("stale_after", 20.0).successful


def test_fast_input_into_a_slow_model_keeps_the_newest_frame_and_counts_the_rest(peer, models):
    start(peer, models.slow)
    sent = []

    def flood():
        sent.append(peer.send(image_message(picture(60), stamp=peer.now())))
        return len(sent) == FLOOD

    peer.until(flood, "the flood")
    last = peer.until(
        lambda: next((s for s in peer.got["state"] if s.header.stamp == sent[-1]), None),
        "the newest frame's result",
        LOAD_TIMEOUT,
    )
    assert last.frames_processed < last.frames_received  # else the model was not slow
    assert last.frames_received == last.frames_processed + last.frames_dropped
    seen = [message.header.stamp for message in peer.got["mask"]]
    order = [sent.index(stamp) for stamp in seen]
    assert order == sorted(order) and order[-1] == FLOOD - 1


def test_an_incompatible_publisher_is_named_in_the_state(graph, peer, models):
    peer.set("qos", "reliable")
    camera = Peer(peer.target, "/cam/image_raw", reliable=False)
    try:
        peer.set("checkpoint", models.small)
        assert peer.change("configure") and peer.change("activate")
        state = peer.until(lambda: peer.last_state(3, "RELIABILITY"), "the mismatch in the state")
        assert "/cam/image_raw" in state.message and "set qos to sensor_data" in state.message
        assert "incompatible" in graph.detector.text
    finally:
        camera.close()
        peer.change("deactivate")
        peer.change("cleanup")
        peer.set("qos", "sensor_data")


def test_a_topic_that_nobody_publishes_is_named_in_the_state_and_the_log_with_the_transport_that_is_there(
    graph, peer, models
):
    from sensor_msgs.msg import CompressedImage

    peer.set("checkpoint", models.small)
    peer.stop_camera()
    other = peer.node.create_publisher(CompressedImage, "/cam/image_raw/compressed", 1)
    told = "nobody publishes /cam/image_raw, but /cam/image_raw/compressed is there (transport: compressed)"
    try:
        assert peer.change("configure") and peer.change("activate")
        state = peer.until(lambda: peer.last_state(3, told), "STALE that says why")
        assert np.isnan(state.latency) and not state.header.frame_id
        peer.until(lambda: told in graph.detector.text, "the same in the log")
    finally:
        peer.node.destroy_publisher(other)
        peer.start_camera()


@pytest.mark.parametrize(
    "override, words",
    [
        ("false_alarm_rate:=7.0", "false_alarm_rate"),
        ("precision:=fp8", "precision 'fp8' is none of fp32, bf16, fp16"),
        ("min_area:=many", "min_area"),
        ("publish:=[]", 'publish: an empty list has no type in ROS, give [""]'),
        ("region_of_interest:=[0, 0.0, 1.0, 1.0]", "region_of_interest"),
        ("no parameter", "no parameter"),
    ],
)
def test_a_bad_override_ends_the_process_with_one_line(override, words):
    ended = subprocess.run(
        [sys.executable, "-m", "flowclas_ros.node.detector_node", "--ros-args", "-p", override],
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT + ANSWER_TIMEOUT,
        env=os.environ,
    )
    assert ended.returncode == 2
    assert words in ended.stderr and "Traceback" not in ended.stderr and ended.stderr.count("error: ") == 1
