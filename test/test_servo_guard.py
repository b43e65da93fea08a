"""The guard between detector and MoveIt Servo, over real DDS with a stand-in for Servo's service."""

from __future__ import annotations

import time

import pytest
from node_support import ros_context

pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
pytest.importorskip("flowclas_ros.msg", reason="needs the generated messages (make, or colcon build)")

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool, Trigger

from flowclas_ros.errors import FlowclasError
from flowclas_ros.msg import DetectorState
from flowclas_ros.node.servo_guard import ServoGuard

pytestmark = pytest.mark.alone

ANSWER_TIMEOUT = 20.0  # seconds; ends a hung test


class Rig:
    """Guard, Servo's service and the detector's state topic in one executor."""

    def __init__(self, timeout):
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        overrides = [Parameter("pause_service", value="/servo/pause"), Parameter("timeout", value=timeout)]
        self.guard = ServoGuard(context=self.context, parameter_overrides=overrides)
        self.peer = rclpy.create_node("servo", context=self.context)
        self.asked, self.obeys = [], True
        self.service = self.peer.create_service(SetBool, "/servo/pause", self.on_pause)
        self.states = self.peer.create_publisher(DetectorState, "/state", 10)
        self.resume_client = self.peer.create_client(Trigger, "/servo_guard/resume")
        self.executor = SingleThreadedExecutor(context=self.context)
        for node in (self.guard, self.peer):
            self.executor.add_node(node)

    def on_pause(self, request, response):
        self.asked.append(request.data)
        response.success = self.obeys
        return response

    def say(self, level, until=lambda: False, seconds=0.4):
        """Publish the level at 20 Hz for a while, or until something is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not until():
            self.states.publish(DetectorState(level=level, message="said"))
            self.executor.spin_once(timeout_sec=0.05)

    def resume(self, level):
        future = self.resume_client.call_async(Trigger.Request())
        self.say(level, future.done, ANSWER_TIMEOUT)
        return future.result()

    def close(self):
        self.executor.shutdown()
        for node in (self.guard, self.peer):
            node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def rig():
    made = Rig(timeout=1.0)
    end = time.monotonic() + ANSWER_TIMEOUT
    while not (made.resume_client.service_is_ready() and made.states.get_subscription_count()):
        made.executor.spin_once(timeout_sec=0.05)
        assert time.monotonic() < end, "discovery"
    made.say(DetectorState.CLEAR)
    if made.asked:  # the state was not heard while discovery took its time
        made.say(DetectorState.CLEAR, seconds=0.2)
        assert made.resume(DetectorState.CLEAR).success
        made.say(DetectorState.CLEAR, lambda: made.asked[-1] is False, ANSWER_TIMEOUT)
        made.asked.clear()
    yield made
    made.close()


@pytest.mark.parametrize("level", [DetectorState.HAZARD, DetectorState.STALE, DetectorState.FAULT])
def test_every_level_from_hazard_on_pauses_servo_once(rig, level):
    rig.say(DetectorState.CAUTION)
    assert rig.asked == []
    rig.say(level, lambda: rig.asked, ANSWER_TIMEOUT)
    rig.say(level)
    assert rig.asked == [True]


def test_one_broken_frame_pauses_nothing_but_nothing_is_resumed_on_it(rig):
    for _ in range(3):
        rig.say(DetectorState.FAULT, seconds=0.2)
        rig.say(DetectorState.CLEAR, seconds=0.2)
    assert rig.asked == []
    rig.say(DetectorState.HAZARD, lambda: rig.asked, ANSWER_TIMEOUT)
    rig.say(DetectorState.FAULT)
    refused = rig.resume(DetectorState.FAULT)
    assert not refused.success and "not resumed: said" in refused.message


def test_a_detector_that_falls_silent_pauses_servo(rig):
    end = time.monotonic() + ANSWER_TIMEOUT
    while not rig.asked and time.monotonic() < end:
        rig.executor.spin_once(timeout_sec=0.05)
    assert rig.asked == [True]


def test_servo_is_asked_again_until_it_obeys(rig):
    rig.obeys = False
    rig.say(DetectorState.HAZARD, lambda: len(rig.asked) >= 3, ANSWER_TIMEOUT)
    rig.obeys = True
    count = len(rig.asked)
    rig.say(DetectorState.HAZARD, lambda: len(rig.asked) > count, ANSWER_TIMEOUT)
    rig.say(DetectorState.HAZARD)
    assert rig.asked == [True] * len(rig.asked) and len(rig.asked) <= count + 2


def test_a_free_view_alone_does_not_resume_and_resume_needs_a_free_view(rig):
    rig.say(DetectorState.HAZARD, lambda: rig.asked, ANSWER_TIMEOUT)
    refused = rig.resume(DetectorState.HAZARD)
    assert not refused.success and "not resumed: said" in refused.message
    rig.say(DetectorState.CLEAR)
    assert set(rig.asked) == {True}
    assert rig.resume(DetectorState.CLEAR).success
    rig.say(DetectorState.CLEAR, lambda: rig.asked[-1] is False, ANSWER_TIMEOUT)
    rig.say(DetectorState.CLEAR, seconds=1.5)
    assert rig.asked.count(False) == 1 and rig.asked[-1] is False
    rig.say(DetectorState.HAZARD, lambda: rig.asked[-1] is True, ANSWER_TIMEOUT)


def test_a_servo_that_was_restarted_is_paused_as_well(rig):
    rig.say(DetectorState.HAZARD, lambda: rig.asked, ANSWER_TIMEOUT)
    rig.say(DetectorState.HAZARD)
    rig.peer.destroy_service(rig.service)
    rig.asked.clear()
    rig.peer.create_service(SetBool, "/servo/pause", rig.on_pause)  # as it comes up: running
    rig.say(DetectorState.CLEAR, lambda: rig.asked, ANSWER_TIMEOUT)
    assert set(rig.asked) == {True}


def test_a_hazard_that_was_over_before_the_guard_could_look_pauses_servo(rig):
    for level in (DetectorState.HAZARD, DetectorState.CLEAR, DetectorState.CLEAR):
        rig.states.publish(DetectorState(level=level, message="said"))
    time.sleep(0.2)
    rig.say(DetectorState.CLEAR, lambda: rig.asked, seconds=2.0)
    assert rig.asked and rig.asked[0] is True


def test_requests_that_are_not_answered_are_let_go(rig):
    rig.executor.remove_node(rig.peer)  # the service is there, and answers nothing
    for _ in range(40):
        rig.states.publish(DetectorState(level=DetectorState.HAZARD, message="said"))
        rig.executor.spin_once(timeout_sec=0.05)
        time.sleep(0.05)
    assert len(rig.guard._servo._pending_requests) == 1


def test_parameters_that_would_not_be_heeded_are_read_only(rig):
    for name, value in (("pause_from", 1), ("timeout", 5.0), ("pause_service", "/other")):
        (result,) = rig.guard.set_parameters([Parameter(name, value=value)])
        assert not result.successful and "read-only" in result.reason


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("pause_from", 4, "pause_from 4"), ("timeout", float("nan"), "timeout nan"), ("timeout", float("inf"), "inf")],
)
def test_what_would_never_pause_is_refused(name, value, words):
    with ros_context() as context, pytest.raises(FlowclasError, match=words):
        ServoGuard(context=context, parameter_overrides=[Parameter(name, value=value)])
