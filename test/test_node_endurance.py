"""What must not add up or be paid for: round trips, a flood of frames, two nodes in one process, unheard topics."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from node_support import (
    LOAD_TIMEOUT,
    OUTPUTS,
    START_TIMEOUT,
    DetectorProcess,
    Peer,
    image_message,
    make_checkpoint,
    options,
    picture,
    ros_context,
)

pytestmark = pytest.mark.alone

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("flowclas_ros.srv", reason="needs the generated messages (make, or colcon build)")

ROUND_TRIPS = 50
UNCONFIGURED = {"/detector/transition_event": 1, "/parameter_events": 2, "/rosout": 2}  # two of them the peer's too
SETTLED = 10  # round trips after which allocators and caches have found their size
MOST_GROWTH = 30.0  # MB over the other 40; the model, 7 MB, kept with every trip would be 280
SLOW_SIDE = 700  # pixels of the short side that the slow model enlarges every frame to
FLOOD_RATE, FLOOD_SECONDS = 100.0, 4.0
# A frame waits for the one in hand and then takes its own time; a queue would add a model's time with every frame.
MOST_MODEL_TIMES = 4.0
SLACK = 0.5  # seconds for the transport, on a busy machine


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("model") / "slow.safetensors", short_side=SLOW_SIDE)


@pytest.fixture
def detector(tmp_path):
    """Starts one with parameters, and ends it."""
    started = []

    def start(**parameters):
        started.append(DetectorProcess(tmp_path / "detector.log", *options(device="cpu", max_age=0.0, **parameters)))
        return started[-1]

    yield start
    for process in started:
        assert process.stop() == 0, process.text


@pytest.fixture
def peer():
    found = Peer()
    yield found
    found.close()


def publishers(peer):
    """Topics that the detector offers, with how many times it does."""
    names = peer.node.get_publisher_names_and_types_by_node("detector", "/")
    return {name: peer.node.count_publishers(name) for name, _ in names}


def test_fifty_round_trips_leak_no_memory_no_thread_and_no_publisher(detector, peer, checkpoint):
    process = detector(checkpoint=str(checkpoint))
    peer.until(lambda: peer.state() == "unconfigured", "the detector's services", START_TIMEOUT)
    memory, threads = [], []
    for turn in range(ROUND_TRIPS):
        assert peer.change("configure") and peer.change("activate")
        if turn % SETTLED == 0:  # the wait for discovery is most of a round trip's time
            peer.connected()
            peer.send(image_message(picture(turn), stamp=peer.now()))
        assert peer.change("deactivate") and peer.change("cleanup")
        memory.append(process.memory())
        threads.append(len(process.threads()))
    peer.until(lambda: publishers(peer) == UNCONFIGURED, "the publishers of an unconfigured node and no more")
    print(f"resident memory {memory[0]:.0f}, {memory[SETTLED]:.0f} ... {memory[-1]:.0f} MB")
    assert memory[-1] - memory[SETTLED] < MOST_GROWTH, memory
    peer.until(lambda: len(process.threads()) <= threads[SETTLED], f"no more threads than before {threads}")


def test_a_hundred_frames_a_second_into_a_slow_model_keep_the_latency_flat_and_drops_are_counted(detector, peer, slow):
    detector(checkpoint=str(slow), autostart=True, qos="reliable", qos_depth=100)
    peer.listen("state", "mask")
    peer.until(lambda: peer.state() == "active", "autostart", LOAD_TIMEOUT)
    peer.connected("state", "mask")
    message, sent, start = image_message(picture(1)), [], time.monotonic()
    while len(sent) < FLOOD_RATE * FLOOD_SECONDS:
        message.header.stamp = peer.now()
        sent.append(peer.send(message))
        peer.until(lambda: time.monotonic() >= start + len(sent) / FLOOD_RATE, "the next frame's time")
    last = peer.until(
        lambda: next((state for state in peer.got["state"] if state.header.stamp == sent[-1]), None),
        "the newest frame's state",
        LOAD_TIMEOUT,
    )
    states = [state for state in peer.got["state"] if state.header.stamp.sec]
    model_time = float(np.median([state.model_time for state in states]))
    assert last.frames_dropped > last.frames_processed > 3, "the model was not slow"
    assert last.frames_received == len(sent) == last.frames_processed + last.frames_dropped
    assert max(state.latency for state in states) < MOST_MODEL_TIMES * model_time + SLACK


# ---------------------------------------------------------------- in this process


@pytest.fixture
def spun():
    """Nodes in one context of this process, on one executor in a thread."""
    from rclpy.executors import SingleThreadedExecutor

    nodes = []

    def start(name, checkpoint, **parameters):
        from rclpy.parameter import Parameter

        from flowclas_ros.node.detector_node import DetectorNode

        values = {"checkpoint": str(checkpoint), "device": "cpu", "max_age": 0.0, "stale_after": 5.0, **parameters}
        overrides = [Parameter(key, value=value) for key, value in values.items()]
        node = DetectorNode(name, context=context, parameter_overrides=overrides)
        nodes.append(node)
        executor.add_node(node)
        return node

    with ros_context() as context:
        executor = SingleThreadedExecutor(context=context)
        thread = threading.Thread(target=executor.spin, daemon=True)
        yield SimpleNamespace(start=start, run=thread.start)
        executor.shutdown()
        thread.join(10)
        for node in nodes:
            node.give_back()
            node.destroy_node()


def test_two_nodes_in_one_process_work_side_by_side(spun, checkpoint):
    names = ("first", "second")
    for name in names:
        spun.start(name, checkpoint, threshold=1e6 if name == "second" else float("nan"))
    spun.run()
    peers = {name: Peer(f"/{name}") for name in names}
    try:
        for peer in peers.values():
            assert peer.change("configure") and peer.change("activate")
            peer.listen("mask", "state")
            peer.connected("mask", "state")
        levels = {
            name: peer.exchange(image_message(picture(3, True), stamp=peer.now()), "mask", "state")["state"].level
            for name, peer in peers.items()
        }
        assert levels == {"first": 2, "second": 0}
        assert peers["first"].change("deactivate") and peers["first"].change("cleanup")
        message = image_message(picture(3, True), stamp=peers["second"].now())
        assert peers["second"].exchange(message, "state")["state"].level == 0  # goes on without the other
    finally:
        for peer in peers.values():
            peer.close()


def test_a_device_that_hangs_ends_in_error_processing_and_the_node_can_be_started_anew(
    spun, slow, checkpoint, monkeypatch
):
    from flowclas_ros.node import detector_node

    node = spun.start("detector", slow)
    spun.run()
    peer = Peer()
    try:
        peer.listen("state", "mask")
        assert peer.change("configure") and peer.change("activate")
        peer.connected("state", "mask")
        monkeypatch.setattr(detector_node, "HAND_OVER", 0.0)  # seconds; no frame in hand is done within that
        peer.send(image_message(picture(3), stamp=peer.now()))
        stream = node._streams[0]
        peer.until(lambda: stream.status.counts.received, "the frame")
        assert not peer.change("deactivate")
        assert peer.state() == "unconfigured"  # through error processing, not finalized
        peer.until(lambda: not peer.node.count_publishers("/detector/mask"), "everything given back")
        monkeypatch.undo()
        assert peer.set("checkpoint", str(checkpoint)).successful
        assert peer.change("configure") and peer.change("activate")
        peer.connected("state", "mask")
        assert peer.exchange(image_message(picture(3, True), stamp=peer.now()), "state", "mask")["state"].level == 2
    finally:
        peer.close()


def test_what_nobody_listens_to_is_not_built(spun, checkpoint, monkeypatch):
    from flowclas_ros.detection.detector import Detector
    from flowclas_ros.node import outputs, reporting

    built = []

    def counted(module, name):
        real = getattr(module, name)

        def count(*arguments, **named):
            built.append(name)
            return real(*arguments, **named)

        monkeypatch.setattr(module, name, count)

    for name in ("to_message", "hazard_array", "hazard_cloud", "hazard_markers", "rescaled_camera_info"):
        counted(outputs, name)
    counted(reporting, "state_message")
    counted(Detector, "heat")
    node = spun.start("detector", checkpoint, depth=True, depth_wait=0.0, output_scale=0.5)
    spun.run()
    peer = Peer()
    try:
        assert peer.change("configure") and peer.change("activate")
        peer.connected()
        built.clear()  # of the warm-up
        status = node._streams[0].status
        peer.send(image_message(picture(3, True), stamp=peer.now()))
        peer.until(lambda: status.counts.processed == 1, "the frame")
        end = time.monotonic() + 1
        peer.until(lambda: time.monotonic() > end, "a second of heartbeats")
        assert built == []
        peer.listen("hazards", *OUTPUTS)
        peer.connected("hazards", *OUTPUTS)
        peer.exchange(image_message(picture(3, True), stamp=peer.now()), "hazards", *OUTPUTS)
        assert sorted(built) == ["hazard_array", "heat", *["to_message"] * len(OUTPUTS)]
    finally:
        peer.close()


def test_a_sigterm_while_the_model_loads_ends_the_node_without_a_traceback(monkeypatch):
    """SIGTERM ends the context, in which no executor can be made any more: half of one complained as it was let go."""
    from rclpy.executors import ExternalShutdownException
    from rclpy.parameter import Parameter

    from flowclas_ros.errors import FlowclasError
    from flowclas_ros.node import detector_node, search

    complaints = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    with ros_context() as context:

        def load(settings):
            context.try_shutdown()
            raise FlowclasError("too late")

        monkeypatch.setattr(search, "Search", load)
        overrides = [Parameter("autostart", value=True), Parameter("checkpoint", value="large.safetensors")]
        node = detector_node.DetectorNode(context=context, parameter_overrides=overrides)
        with contextlib.suppress(ExternalShutdownException):
            detector_node._work(node)
        node.destroy_node()
    gc.collect()
    assert not complaints
