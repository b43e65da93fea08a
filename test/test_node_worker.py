"""The worker's one-frame slot and the status's level, without ROS."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from flowclas_ros.node.status import Level, Status
from flowclas_ros.node.worker import Worker

TIMEOUT = 10.0  # seconds that end a hung test
STALE_AFTER = 1.0  # seconds on the tests' own clock


class Held:
    """A worker whose processing waits until it is let go."""

    def __init__(self):
        self.gate, self.begun = threading.Event(), threading.Event()
        self.done, self.failures = [], []
        self.worker = Worker(self._process, lambda item, error: self.failures.append((item, str(error))), "test")

    def _process(self, item):
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
    assert held.failures == [("bad", "no good")] and held.done == ["good"]


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


def detection(anomalous=0, regions=0):
    mask = np.zeros((10, 10), bool)
    mask.flat[:anomalous] = True
    return SimpleNamespace(mask=mask, regions=[None] * regions, score=np.ones((10, 10), np.float32), timings={})


def searched(now=0.0, **kwargs):
    status = Status(0.0)
    status.received(now)
    status.processed(now, "header", detection(**kwargs), 0.1)
    return status


@pytest.mark.parametrize(
    "kwargs, level, words",
    [
        ({}, Level.CLEAR, "nothing above"),
        ({"anomalous": 3}, Level.CAUTION, "3.00% of the pixels"),
        ({"anomalous": 60, "regions": 2}, Level.HAZARD, "2 hazards"),
    ],
)
def test_the_scene_gives_the_level(kwargs, level, words):
    found, text = searched(**kwargs).verdict(0.5, STALE_AFTER)
    assert found == level and words in text


def test_silence_goes_before_everything():
    status = searched(regions=1, anomalous=60)
    status.failed("lens cap")
    level, text = status.verdict(2.5, STALE_AFTER)
    assert level == Level.STALE and "no frame for 2.5 s" in text and "lens cap" in text


def test_before_the_first_frame_the_state_is_stale_at_once():
    assert Status(0.0).verdict(0.0, STALE_AFTER) == (Level.STALE, "no frame yet")


def test_frames_without_a_result_in_time_are_stale():
    status = searched(now=0.0)
    status.received(5.0)
    level, text = status.verdict(5.1, STALE_AFTER)
    assert level == Level.STALE and "frames arrive, no result for 5.1 s" in text


def test_a_fault_stands_until_a_frame_is_searched():
    status = searched()
    status.failed("bad step")
    assert status.verdict(0.5, STALE_AFTER) == (Level.FAULT, "bad step")
    status.processed(0.6, "header", detection(), 0.1)
    assert status.verdict(0.7, STALE_AFTER)[0] == Level.CLEAR


def test_counts_add_up():
    status = Status(0.0)
    for _ in range(5):
        status.received(1.0)
    status.replaced()
    status.too_old(3.0, 0.5)
    status.failed("broken")
    status.processed(1.0, "header", detection(), 0.1)
    counts = status.counts
    assert (counts.received, counts.processed, counts.dropped, counts.broken) == (5, 1, 3, 1)
