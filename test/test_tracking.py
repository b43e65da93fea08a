"""Hazards over frames: ids, confirmation, forgetting, coasting, and time that jumps."""

from __future__ import annotations

import numpy as np
import pytest

from flowclas_ros.detection.geometry import Location
from flowclas_ros.detection.regions import Region
from flowclas_ros.detection.tracking import HazardTracker, iou
from flowclas_ros.errors import FlowclasError

FRAME = 100_000_000  # nanoseconds
START = 1_000_000_000_000


def region(x, y, w=20, h=20, peak=3.0):
    return Region((x, y, w, h), w * h, (x + w / 2, y + h / 2), peak, peak)


def at(x, y, z):
    return Location((x, y, z), (0.5, 0.5, 0.0), float(np.hypot(np.hypot(x, y), z)), np.zeros((1, 4), np.float32))


def play(tracker, frames, start=START):
    """Feed (regions, locations) frames at 10 Hz; the ids listed after each."""
    return [
        [hazard.id for hazard in tracker.update(regions, locations, start + index * FRAME)]
        for index, (regions, locations) in enumerate(frames)
    ]


def seen(*regions):
    return list(regions), None


NOTHING = ([], None)


def test_a_moving_hazard_keeps_its_id_from_1_on():
    assert play(HazardTracker(), [seen(region(10 + 5 * i, 40)) for i in range(6)]) == [[1]] * 6


def test_two_hazards_keep_their_ids_whatever_their_order():
    frames = [seen(region(10, 10, peak=5.0), region(200, 100, peak=4.0))]
    frames += [seen(region(200, 102, peak=9.0), region(12, 10, peak=5.0))]
    assert play(HazardTracker(), frames) == [[1, 2], [2, 1]]


def test_a_hazard_is_listed_in_its_confirming_frame():
    tracker = HazardTracker(confirm_frames=3)
    assert play(tracker, [seen(region(10, 10))] * 4) == [[], [], [1], [1]]
    assert tracker.pending == 0


def test_pending_counts_what_is_seen_but_not_confirmed():
    tracker = HazardTracker(confirm_frames=2)
    tracker.update([region(10, 10), region(100, 10)], None, START)
    assert tracker.pending == 2
    tracker.update([region(10, 10)], None, START + FRAME)
    assert tracker.pending == 0


def test_a_flickering_hazard_is_confirmed_too():
    frames = [seen(region(10, 10)), NOTHING, seen(region(10, 10)), NOTHING]
    assert play(HazardTracker(confirm_frames=2, forget_frames=2), frames) == [[], [], [1], [1]]


def test_a_single_false_alarm_is_never_listed():
    assert play(HazardTracker(confirm_frames=2, forget_frames=2), [seen(region(10, 10)), *[NOTHING] * 4]) == [[]] * 5


def test_a_missed_hazard_is_held_as_it_was_and_leaves_after_forget_frames():
    tracker = HazardTracker(forget_frames=3)
    first = tracker.update([region(10, 10)], [at(1, 0, 5)], START)[0]
    held = [tracker.update([], None, START + i * FRAME) for i in (1, 2)]
    assert [[hazard.missed for hazard in hazards] for hazards in held] == [[1], [2]]
    assert all(hazards[0].region == first.region and hazards[0].location is first.location for hazards in held)
    assert tracker.update([], None, START + 3 * FRAME) == []


def test_forget_frames_of_one_holds_nothing():
    assert play(HazardTracker(forget_frames=1), [seen(region(10, 10)), NOTHING]) == [[1], []]


def test_a_hazard_found_again_keeps_its_id_and_a_forgotten_one_gets_a_new_one():
    frames = [seen(region(10, 10)), NOTHING, seen(region(12, 10)), NOTHING, NOTHING, seen(region(12, 10))]
    assert play(HazardTracker(forget_frames=2), frames) == [[1], [1], [1], [1], [], [2]]


def test_position_keeps_the_id_where_the_boxes_no_longer_overlap():
    frames = [([region(10, 10)], [at(0, 0, 5)]), ([region(100, 10)], [at(0.8, 0, 5)])]
    assert play(HazardTracker(forget_frames=1), frames) == [[1], [1]]
    far = [([region(10, 10)], [at(0, 0, 5)]), ([region(100, 10)], [at(1.2, 0, 5)])]
    assert play(HazardTracker(forget_frames=1), far) == [[1], [2]]


def test_a_box_keeps_the_id_as_far_as_it_overlaps_by_a_fifth():
    frames = [seen(region(10, 10)), seen(region(22, 10)), seen(region(36, 10))]  # overlaps of 8 and of 6 in 20
    assert play(HazardTracker(forget_frames=1), frames) == [[1], [1], [2]]


def test_without_depth_the_box_that_overlaps_most_goes_on():
    first = seen(region(10, 10, 40, 40, peak=3.0), region(30, 10, 40, 40, peak=2.0))
    then = seen(region(31, 10, 40, 40, peak=3.0), region(11, 10, 40, 40, peak=2.0))
    assert play(HazardTracker(), [first, then]) == [[1, 2], [2, 1]]


def test_two_hazards_that_merge_are_one_seen_and_one_held():
    tracker = HazardTracker()
    tracker.update([region(10, 10), region(34, 10, peak=2.0)], None, START)
    merged = tracker.update([region(10, 10, 44, 20)], None, START + FRAME)
    assert sorted((hazard.missed, hazard.region.bbox[2]) for hazard in merged) == [(0, 44), (1, 20)]


def test_a_hazard_seen_again_is_where_it_is_now():
    tracker = HazardTracker(forget_frames=5)
    there = at(0.5, 0, 4.5)
    assert tracker.update([region(10, 10)], [None], START)[0].location_missed == 1
    tracker.update([region(10, 10)], [at(0, 0, 5)], START + FRAME)
    tracker.update([], [], START + 2 * FRAME)
    (found,) = tracker.update([region(14, 10)], [there], START + 3 * FRAME)
    assert (found.id, found.region.bbox[0], found.location) == (1, 14, there)
    assert (found.seen, found.missed, found.location_missed) == (3, 0, 0)


def test_position_tells_apart_what_overlaps_in_the_image():
    first = ([region(10, 10, 40, 40), region(20, 10, 40, 40, 2.0)], [at(0, 0, 3), at(0.3, 0, 9)])
    then = ([region(16, 10, 40, 40), region(14, 10, 40, 40, 2.0)], [at(0, 0, 3.1), at(0.3, 0, 9.1)])
    assert play(HazardTracker(), [first, then]) == [[1, 2], [1, 2]]


def test_depth_that_fails_for_a_frame_leaves_the_last_place_for_forget_frames():
    tracker = HazardTracker(forget_frames=3)
    place = at(1, 0, 5)
    tracker.update([region(10, 10)], [place], START)
    found = [tracker.update([region(10, 10)], None, START + i * FRAME)[0] for i in (1, 2, 3)]
    assert [hazard.location for hazard in found] == [place, place, None]
    assert [hazard.location_missed for hazard in found] == [1, 2, 3] and all(hazard.missed == 0 for hazard in found)


def test_time_stepping_back_begins_anew_with_new_ids_and_says_so():
    tracker = HazardTracker(confirm_frames=2)
    assert play(tracker, [seen(region(10, 10))] * 3) == [[], [1], [1]]
    assert tracker.notice == ""
    assert tracker.update([region(10, 10)], None, START - 10 * FRAME) == []
    assert "time stepped back by 1.20 s" in tracker.notice
    assert [hazard.id for hazard in tracker.update([region(10, 10)], None, START - 9 * FRAME)] == [2]
    assert tracker.notice == ""
    tracker.update([region(10, 10)], None, 0)  # no stamp is no time: the step that follows it is seen
    tracker.update([region(10, 10)], None, START - 20 * FRAME)
    assert "time stepped back by 1.10 s" in tracker.notice


def test_a_single_stamp_from_the_future_keeps_the_hazards():
    tracker = HazardTracker(confirm_frames=2)
    play(tracker, [seen(region(10, 10))] * 2)
    for stamp in (START + 100 * FRAME, START + 3 * FRAME, START + 4 * FRAME):
        assert [hazard.id for hazard in tracker.update([region(10, 10)], None, stamp)] == [1]
        assert tracker.notice == ""


def test_a_reset_forgets_the_time_as_well():
    tracker = HazardTracker()
    tracker.update([region(10, 10)], None, START)
    tracker.reset()
    assert [hazard.id for hazard in tracker.update([region(10, 10)], None, START - 10 * FRAME)] == [2]
    assert tracker.notice == ""


def test_frames_out_of_order_and_without_a_stamp_keep_the_hazards():
    tracker = HazardTracker()
    for stamp in (START, START + 2 * FRAME, START + FRAME, 0, None, START + 3 * FRAME):
        assert [hazard.id for hazard in tracker.update([region(10, 10)], None, stamp)] == [1]


def test_a_flood_of_regions_is_cut_to_the_strongest():
    many = [region(3 * (i % 300), 3 * (i // 300), 2, 2, 1000.0 - i) for i in range(800)]
    hazards = HazardTracker().update(many, [None] * 800, START)
    assert len(hazards) == 500 and hazards[-1].region.peak == 501.0


def test_of_too_many_hazards_those_seen_now_stay_and_of_the_held_the_strongest():
    tracker = HazardTracker()
    held = [region(30 * i, 0, peak=1000.0 + i) for i in range(300)]
    tracker.update(held, None, START)
    now = [region(30 * i, 500, peak=400.0 - i) for i in range(400)]
    listed = tracker.update(now, None, START + FRAME)
    assert sorted(hazard.region.peak for hazard in listed if not hazard.missed) == list(range(1, 401))
    assert [hazard.region.peak for hazard in listed if hazard.missed] == list(range(1299, 1199, -1))


def test_flicker_all_over_the_picture_neither_piles_up_nor_pushes_out_what_stays():
    tracker, stays = HazardTracker(confirm_frames=2, forget_frames=30), region(5, 5, peak=2.0)
    for turn in range(10):
        flicker = [region(40 + 30 * (i % 20), 30 * (i // 20 + 20 * turn), peak=9.0) for i in range(400)]
        listed = tracker.update([*flicker, stays], None, START + turn * FRAME)
        assert [hazard.id for hazard in listed] == ([] if turn == 0 else [401])
    assert len(tracker._tracks) == 500
    assert [hazard.id for hazard in tracker.update([], None, START + 10 * FRAME)] == [401]


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"confirm_frames": 0}, "confirm_frames 0"),
        ({"forget_frames": 0}, "forget_frames 0"),
    ],
)
def test_a_setting_out_of_range_is_refused(setting, text):
    with pytest.raises(FlowclasError, match=text):
        HazardTracker(**setting)


def test_iou_of_boxes():
    found = iou([(0, 0, 10, 10)], [(0, 0, 10, 10), (5, 0, 10, 10), (20, 0, 5, 5)])
    np.testing.assert_allclose(found, [[1.0, 50 / 150, 0.0]])
