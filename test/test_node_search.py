"""What the worker does with a batch, settings and checkpoints, without ROS and with a detector that only counts."""

from __future__ import annotations

import dataclasses
import math
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from flowclas_ros.errors import DeviceMemoryError, FlowclasError
from flowclas_ros.model.device import memory_errors
from flowclas_ros.node import search
from flowclas_ros.node.parameters import Settings


class Counting:
    """Stands in for a Detector; a picture that holds 255 cannot be scored."""

    def __init__(self, name="first"):
        self.header = {"name": name}
        self.batches, self.closed, self.moved = [], False, []
        self.calibration, self.false_alarm_rate, self.threshold, self.min_area = object(), 0.001, 3.0, 50
        self.refuses = ""

    def warm_up(self, height, width, batch=1):
        if self.refuses:
            raise FlowclasError(self.refuses)
        self.batches.append((batch, height, width))

    def score_batch(self, images):
        self.batches.append((len(images), *images[0].shape[:2]))
        if any(image.max() == 255 for image in images):
            raise FlowclasError("not finite")
        return np.zeros((len(images), *images[0].shape[:2]), np.float32), {}

    def set_threshold(self, threshold, rate):
        self.threshold, self.false_alarm_rate = threshold or 2.0, None if threshold else rate

    def move(self, device, precision):
        if device == "cuda:9":
            raise FlowclasError("no room on cuda:9")
        self.moved.append((device, precision))

    def close(self):
        self.closed = True


@pytest.fixture
def made(monkeypatch):
    detector = Counting()
    monkeypatch.setattr(search, "load", lambda settings, checkpoint="": detector)
    settings = Settings(checkpoint="any")
    found = search.Search(settings)
    detector.batches.clear()
    return SimpleNamespace(search=found, detector=detector, settings=settings)


def frames(*pictures):
    """One frame each of as many cameras; `done` and `faults` collect what becomes of them."""
    done, faults = [], []

    def frame(number, picture):
        def conclude(*_):
            done.append(number)

        stream = SimpleNamespace(
            picture=lambda _: picture, conclude=conclude, failed=lambda error: faults.append((number, str(error)))
        )
        return SimpleNamespace(stream=stream)

    return [frame(number, picture) for number, picture in enumerate(pictures)], done, faults


def blank(height=4, width=6, value=0):
    return np.full((height, width, 3), value, np.uint8)


def test_cameras_of_one_size_share_a_batch_and_others_have_their_own(made):
    together, done, faults = frames(blank(), blank(8, 6), blank())
    made.search.frames(together, made.settings)
    assert made.detector.batches == [(2, 4, 6), (1, 8, 6)]
    assert sorted(done) == [0, 1, 2] and not faults


def test_a_frame_that_cannot_be_scored_does_not_blind_the_other_cameras(made):
    together, done, faults = frames(blank(), blank(value=255), blank())
    made.search.frames(together, made.settings)
    assert done == [0, 2] and faults == [(1, "not finite")]
    made.detector.batches.clear()
    made.search.frames(frames(blank(), blank())[0], made.settings)
    assert made.detector.batches == [(2, 4, 6)], "the picture was at fault, not the batch"


def test_a_fault_that_passes_does_not_halve_the_batches(made, monkeypatch):
    score_batch, faults = made.detector.score_batch, [RuntimeError("a hiccup")]

    def once(images):
        if faults:
            raise faults.pop()
        return score_batch(images)

    monkeypatch.setattr(made.detector, "score_batch", once)
    for expected in ([(1, 4, 6)] * 2, [(2, 4, 6)]):
        made.search.frames(frames(blank(), blank())[0], made.settings)
        assert made.detector.batches == expected
        made.detector.batches.clear()


def test_a_batch_that_is_too_much_is_halved_until_the_detector_is_another(made, monkeypatch, caplog):
    def score_batch(images):
        made.detector.batches.append(len(images))
        if len(images) > 2:
            raise DeviceMemoryError("out of memory")
        return np.zeros((len(images), 4, 6), np.float32), {}

    monkeypatch.setattr(made.detector, "score_batch", score_batch)
    for expected in ([5, 1, 1, 1, 1, 1], [2, 2, 1]):
        together, done, faults = frames(*[blank()] * 5)
        made.search.frames(together, made.settings)
        assert made.detector.batches == expected and done == [0, 1, 2, 3, 4] and not faults
        made.detector.batches.clear()
    assert caplog.messages == ["out of memory; from now on at most 2 of 5 frames at once"]
    made.search.frames(frames(*[blank(8, 6)] * 2)[0], made.settings)
    assert made.detector.batches == [2], "another size may be smaller"
    second = Counting("second")
    made.search.swap(second)
    second.batches.clear()
    made.search.frames(frames(*[blank()] * 5)[0], made.settings)
    assert second.batches == [(5, 4, 6)]


def test_what_a_batch_out_of_memory_held_is_free_before_its_frames_are_searched_alone(made, monkeypatch):
    """Or they would be out of memory too, however small they are."""
    held = []

    def score_batch(images):
        if len(images) == 1:
            assert held[0]() is None
            return np.zeros((1, 4, 6), np.float32), {}
        with memory_errors(torch.device("cuda"), "these frames", "use smaller ones"):
            features = torch.zeros(1)
            held.append(weakref.ref(features))
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(made.detector, "score_batch", score_batch)
    together, done, faults = frames(blank(), blank())
    made.search.frames(together, made.settings)
    assert held and done == [0, 1] and not faults


def test_a_frame_that_cannot_be_read_or_interpreted_is_its_own_cameras_fault(made):
    together, done, faults = frames(blank(), blank(), blank())

    def refuse(*_):
        raise FlowclasError("nothing is left to search")

    together[0].stream.picture = together[1].stream.conclude = refuse
    made.search.frames(together, made.settings)
    assert done == [2] and faults == [(0, "nothing is left to search"), (1, "nothing is left to search")]


def test_a_frame_too_old_to_search_is_left_out(made):
    together, done, faults = frames(None, blank())
    made.search.frames(together, made.settings)
    assert done == [1] and not faults


def test_changed_settings_reach_the_detector_with_the_next_frame(made):
    changed = dataclasses.replace(made.settings, min_area=7, threshold=9.0, precision="bf16")
    made.search.frames([], changed)
    assert (made.detector.min_area, made.detector.threshold) == (7, 9.0)
    assert made.detector.moved == [("auto", "bf16")]
    made.search.frames([], dataclasses.replace(changed, threshold=math.nan))
    assert made.detector.false_alarm_rate == 0.001


def test_a_device_that_cannot_be_had_is_told_and_the_frame_is_searched_all_the_same(made):
    together, done, _ = frames(blank())
    made.search.frames(together, dataclasses.replace(made.settings, device="cuda:9"))
    assert done == [0] and made.search.problem == "no room on cuda:9"
    made.search.frames([], dataclasses.replace(made.settings, device="cpu"))
    assert made.search.problem == ""


def test_a_swapped_detector_is_warmed_up_at_the_size_at_hand_and_the_old_one_closed(made):
    together, _, _ = frames(blank(), blank())
    made.search.frames(together, made.settings)
    made.search.problem = "no room on cuda:9"
    second = Counting("second")
    made.search.swap(second)
    assert made.search.problem == "", "which was the old one's"
    assert second.batches == [(2, 4, 6)] and made.search.detector is second and made.detector.closed


def test_a_swapped_detector_takes_the_settings_that_changed_while_it_was_loaded(made):
    made.search.frames([], dataclasses.replace(made.settings, min_area=7, threshold=9.0, precision="bf16"))
    second = Counting("second")
    made.search.swap(second)
    assert (second.min_area, second.threshold, second.moved) == (7, 9.0, [("auto", "bf16")])


def test_a_detector_that_cannot_warm_up_leaves_the_old_one_in_place(made):
    second = Counting("second")
    second.refuses = "out of memory"
    with pytest.raises(FlowclasError, match="out of memory"):
        made.search.swap(second)
    assert made.search.detector is made.detector and not made.detector.closed


def test_after_the_end_nothing_is_swapped_in(made):
    made.search.close()
    with pytest.raises(FlowclasError, match="cleaned up meanwhile"):
        made.search.swap(Counting())
