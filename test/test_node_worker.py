"""The worker's one-frame slot and the status's level, without ROS."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from types import SimpleNamespace

import pytest

from flowclas_ros.node.status import Level, Scene, Status
from flowclas_ros.node.worker import Worker

TIMEOUT = 10.0  # seconds that end a hung test
STALE_AFTER = 1.0  # seconds on the tests' own clock


class Held:
    """A worker whose processing waits until it is let go."""

    def __init__(self):
        self.gate, self.begun = threading.Event(), threading.Event()
        self.done, self.failures = [], []
        self.worker = Worker(self._process, lambda items, error: self.failures.append((items, str(error))), "test")

    def _process(self, items):
        (item,) = items
        self.begun.set()
        assert self.gate.wait(TIMEOUT)
        if item == "bad":
            raise ValueError("no good")
        self.done.append(item)


@pytest.fixture
def held():
    held = Held()
    yield held
    held.gate.set()
    assert held.worker.stop(TIMEOUT)


def test_the_newest_item_replaces_the_parked_one(held):
    assert not held.worker.offer(1)
    assert held.begun.wait(TIMEOUT)
    assert not held.worker.offer(2)
    assert held.worker.offer(3)
    held.gate.set()
    held.worker.call(lambda: None, TIMEOUT)
    held.worker.call(lambda: None, TIMEOUT)  # calls go before items: 3 may still be parked at the first
    assert held.worker.stop(TIMEOUT) and held.done[0] == 1 and 2 not in held.done


def test_who_waits_for_a_worker_that_hangs_is_let_go_when_it_is_stopped(held):
    """Or a checkpoint's load would keep the process from ending."""
    answers = []

    def ask(function):
        try:
            answers.append(held.worker.call(function))
        except RuntimeError as error:
            answers.append(str(error))

    askers = [threading.Thread(target=ask, args=(function,)) for function in (lambda: held.gate.wait(TIMEOUT), int)]
    askers[0].start()
    while held.worker._answering is None:
        time.sleep(0.01)
    askers[1].start()
    while not held.worker._calls:
        time.sleep(0.01)
    assert not held.worker.stop(0.05)
    for asker in askers:
        asker.join(TIMEOUT)
    assert answers == ["worker 'test' has been stopped"] * 2


def test_each_key_has_a_slot_and_what_lies_in_them_is_taken_together():
    begun, gate, taken = threading.Event(), threading.Event(), []

    def process(items):
        begun.set()
        assert gate.wait(TIMEOUT)
        taken.append(items)

    worker = Worker(process, lambda items, error: None, "test")
    worker.offer(0, "left")
    assert begun.wait(TIMEOUT)
    assert [worker.offer(item, key) for item, key in ((1, "left"), (2, "right"), (3, "left"))] == [False, False, True]
    gate.set()
    while len(taken) < 2:
        worker.call(lambda: None, TIMEOUT)
    assert worker.stop(TIMEOUT) and taken == [[0], [3, 2]]


def test_what_is_cleared_is_handed_back_and_not_worked_on(held):
    held.worker.offer("in hand")
    assert held.begun.wait(TIMEOUT)
    held.worker.offer("parked")
    assert held.worker.clear() == ["parked"] and held.worker.clear() == []
    held.gate.set()
    for _ in range(2):
        held.worker.call(lambda: None, TIMEOUT)
    assert held.done == ["in hand"]


def test_a_call_runs_on_the_workers_thread_between_items_and_hands_over_what_it_raises(held):
    held.gate.set()
    assert held.worker.call(lambda: threading.current_thread().name, TIMEOUT) == "test"
    with pytest.raises(ZeroDivisionError):
        held.worker.call(lambda: 1 // 0, TIMEOUT)


def test_an_item_that_fails_is_reported_and_the_next_goes_on(held):
    held.gate.set()
    held.worker.offer("bad")
    while not held.failures:
        held.worker.call(lambda: None, TIMEOUT)
    held.worker.offer("good")
    while not held.done:
        held.worker.call(lambda: None, TIMEOUT)
    assert held.failures == [(["bad"], "no good")] and held.done == ["good"]


def test_a_failure_that_cannot_be_told_does_not_end_the_worker(caplog):
    def refuse(items, error=None):
        raise RuntimeError("the publisher is gone")

    worker = Worker(refuse, refuse, "test")
    worker.offer(1)
    end = time.monotonic() + TIMEOUT
    while not caplog.records and time.monotonic() < end:
        time.sleep(0.01)
    assert worker.call(lambda: 7, TIMEOUT) == 7
    assert "the publisher is gone" in caplog.text
    assert worker.stop(TIMEOUT)


def test_a_call_that_the_worker_does_not_get_to_times_out(held):
    held.worker.offer(1)
    assert held.begun.wait(TIMEOUT)
    with pytest.raises(TimeoutError, match="'test' did not answer"):
        held.worker.call(lambda: None, 0.01)


def test_a_stopped_worker_refuses_calls(held):
    held.gate.set()
    assert held.worker.stop(TIMEOUT)
    with pytest.raises(RuntimeError, match="has been stopped"):
        held.worker.call(lambda: None, TIMEOUT)


def scene(anomalous_share=0.0, hazards=0, candidates=0, nearest_range=math.nan):
    return Scene("header", hazards, candidates, anomalous_share, 1.0, nearest_range, 0.1, {})


def searched(now=0.0, **kwargs):
    status = Status(0.0)
    status.received(now)
    status.processed(now, scene(**kwargs))
    return status


@pytest.mark.parametrize(
    "kwargs, level, words",
    [
        ({}, Level.CLEAR, "nothing above"),
        ({"anomalous_share": 0.03}, Level.CAUTION, "3.00% of the pixels"),
        ({"anomalous_share": 0.03, "candidates": 1}, Level.CAUTION, "1 region not yet confirmed"),
        ({"anomalous_share": 0.6, "hazards": 2}, Level.HAZARD, "2 hazards, peak"),
        ({"hazards": 1, "nearest_range": 1.5}, Level.HAZARD, "1 hazard, nearest at 1.50 m"),
    ],
)
def test_the_scene_gives_the_level(kwargs, level, words):
    found, text = searched(**kwargs).verdict(0.5, STALE_AFTER)
    assert found == level and words in text


def test_silence_goes_before_everything():
    status = searched(hazards=1)
    status.failed("lens cap")
    level, text = status.verdict(2.5, STALE_AFTER)
    assert level == Level.STALE and "no frame for 2.5 s" in text and "lens cap" in text


def test_where_no_frame_comes_from_is_said_with_the_silence_and_not_after_the_remarks():
    status = searched()
    status.remark("drift", "the scores have drifted")
    text = status.verdict(2.5, STALE_AFTER, ": nobody publishes /image")[1]
    assert text == "no frame for 2.5 s: nobody publishes /image; the scores have drifted"


def test_before_the_first_frame_the_state_is_stale_at_once():
    assert Status(0.0).verdict(0.0, STALE_AFTER) == (Level.STALE, "no frame yet")


def test_frames_without_a_result_in_time_are_stale():
    status = searched(now=0.0)
    status.received(5.0)
    level, text = status.verdict(5.1, STALE_AFTER)
    assert level == Level.STALE and "frames arrive, no result for 5.1 s" in text
    assert not status.silent(5.1, STALE_AFTER) and status.silent(6.1, STALE_AFTER)


@pytest.mark.parametrize(
    ("found", "level", "in_time"),
    [
        ({}, Level.STALE, Level.CLEAR),
        ({"anomalous_share": 0.001}, Level.STALE, Level.CAUTION),
        ({"hazards": 1}, Level.HAZARD, Level.HAZARD),
    ],
)
def test_a_view_that_took_too_long_to_search_is_not_clear_and_what_was_found_in_it_is_told(found, level, in_time):
    status = Status(0.0)
    status.received(0.0)
    status.taken(0.5)
    status.received(5.5)
    status.processed(5.6, scene(**found))
    told, text = status.verdict(5.6, STALE_AFTER)
    assert told == level and ("the search took 5.1 s (stale_after 1 s)" in text) == (level == Level.STALE)
    assert status.verdict(5.6, 6.0)[0] == in_time
    status.taken(5.6)
    status.processed(6.5, scene())
    assert status.verdict(6.5, STALE_AFTER)[0] == Level.CLEAR


def test_late_frames_are_named_until_one_is_searched():
    status = searched()
    status.received(5.0)
    status.too_old(3.0, 0.5)
    assert "frames come 3.00 s after their stamp (max_age 0.5 s)" in status.verdict(5.1, STALE_AFTER)[1]
    status.processed(5.2, scene())
    status.received(9.0)
    assert "max_age" not in status.verdict(9.1, STALE_AFTER)[1]


def test_a_fault_stands_until_a_frame_is_searched():
    status = searched()
    status.failed("lens cap")
    status.failed("bad step")
    assert status.verdict(0.5, STALE_AFTER) == (Level.FAULT, "bad step")
    status.processed(0.6, scene())
    assert status.verdict(0.7, STALE_AFTER)[0] == Level.CLEAR


def test_after_a_pause_what_was_seen_before_it_is_no_answer():
    status = searched()
    status.received(0.5)
    status.resumed(0.6)
    assert status.verdict(0.7, STALE_AFTER) == (Level.STALE, "frames arrive, no result for 0.1 s")
    status.processed(0.8, scene())
    assert status.verdict(0.8, STALE_AFTER)[0] == Level.CLEAR


def test_a_heartbeat_while_a_hazard_is_found_does_not_clear_it():
    reporting = pytest.importorskip("flowclas_ros.node.reporting", reason="needs ROS 2 and the generated messages")
    header = pytest.importorskip("std_msgs.msg").Header
    detector = SimpleNamespace(threshold=1.0, false_alarm_rate=0.001, guaranteed=True, header={}, device="cpu")
    status, said, workers = Status(time.monotonic()), [], []

    def found(hazards):
        status.processed(time.monotonic(), dataclasses.replace(scene(hazards=hazards), header=header()))
        reporter.say_verdict()

    def state(build):
        if said and not workers:  # the heartbeat has its verdict, and the worker finds a hazard
            workers.append(threading.Thread(target=found, args=(2,)))
            workers[0].start()
            workers[0].join(0.2)
        said.append(build())

    outputs, inputs = SimpleNamespace(state=state), SimpleNamespace(absence=lambda: "")
    reporter = reporting.Reporter(None, inputs, outputs, lambda: SimpleNamespace(stale_after=60.0), lambda: detector)
    reporter.begin(status)
    status.received(time.monotonic())
    found(hazards=0)
    reporter.say_verdict()
    workers[0].join(TIMEOUT)
    assert [(one.level, one.hazard_count) for one in said] == [(Level.CLEAR, 0), (Level.CLEAR, 0), (Level.HAZARD, 2)]


def test_counts_add_up():
    status = Status(0.0)
    for _ in range(5):
        status.received(1.0)
    status.replaced()
    status.too_old(3.0, 0.5)
    status.failed("broken")
    status.processed(1.0, scene())
    counts = status.counts
    assert (counts.received, counts.processed, counts.dropped, counts.broken) == (5, 1, 3, 1)
