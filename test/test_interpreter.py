"""From score maps to hazards: what is searched, what counts, what rules and a new model change; without a model."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from flowclas_ros.detection.drift import DriftReference, sample
from flowclas_ros.detection.geometry import not_located
from flowclas_ros.detection.interpreter import Interpreter, Rules
from flowclas_ros.errors import FlowclasError
from flowclas_ros.node.parameters import Settings
from flowclas_ros.node.search import rules

HEIGHT, WIDTH, THRESHOLD = 40, 60, 2.0
FRAME = 100_000_000  # nanoseconds
START = 1_000_000_000_000


def detector(drift=None):
    """All that the interpreter asks of one; its heat is 0.5 everywhere."""
    calibration = None if drift is None else SimpleNamespace(drift=drift)
    return SimpleNamespace(
        threshold=THRESHOLD, calibration=calibration, heat=lambda score: np.full(score.shape, 0.5, np.float32)
    )


def scored(*boxes, shape=(HEIGHT, WIDTH)):
    """A score map of 1 with boxes (rows, columns, score) in it."""
    score = np.ones(shape, np.float32)
    for rows, columns, value in boxes:
        score[rows, columns] = value
    return score


LEFT, RIGHT = (slice(10, 20), slice(5, 15), 5.0), (slice(10, 20), slice(40, 50), 4.0)


def look(interpreter, score, step=0, ignore=None, found=None, **interpreting):
    """One frame: what was judged, and the finding."""
    stamp = START + step * FRAME
    judged = interpreter.judge(found or detector(), score, stamp=stamp, ignore=ignore)
    return judged, interpreter.interpret(judged, {}, stamp=stamp, **interpreting)


def columns(hazards):
    """Where the hazards' boxes begin."""
    return [hazard.region.bbox[0] for hazard in hazards]


def test_without_rules_every_pixel_above_the_threshold_counts():
    judged, finding = look(Interpreter(Rules(min_area=1)), scored(LEFT, RIGHT, (30, 30, THRESHOLD)))
    assert judged.searched is None and judged.mask.sum() == 200 and judged.anomalous_share == 200 / (HEIGHT * WIDTH)
    assert judged.peak == 5.0 and columns(finding.hazards) == [5, 40] and finding.located is None
    assert (finding.heat == 0.5).all() and finding.mask is judged.mask


def test_outside_the_region_of_interest_nothing_counts_and_shares_are_of_what_is_searched():
    interpreter = Interpreter(Rules(region_of_interest=(0.5, 0.0, 1.0, 0.75)))
    judged, finding = look(interpreter, scored(LEFT, RIGHT, (slice(32, 40), slice(40, 60), 9.0)))
    assert columns(finding.hazards) == [40] and judged.peak == 4.0
    assert judged.anomalous_share == 100 / (30 * 30)
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[:30, 30:] = True
    np.testing.assert_array_equal(judged.searched, expected)
    np.testing.assert_array_equal(finding.heat, np.where(expected, np.float32(0.5), 0))


def test_the_region_of_interest_searches_every_pixel_that_it_touches():
    judged, _ = look(Interpreter(Rules(region_of_interest=(0.11, 0.11, 0.51, 0.51))), scored(shape=(10, 20)))
    expected = np.zeros((10, 20), bool)
    expected[1:6, 2:11] = True
    np.testing.assert_array_equal(judged.searched, expected)


def test_the_region_of_interest_follows_a_change_and_another_size():
    interpreter = Interpreter(Rules(region_of_interest=(0.0, 0.0, 0.5, 1.0)))
    assert columns(look(interpreter, scored(LEFT, RIGHT))[1].hazards) == [5]
    interpreter.set_rules(Rules(region_of_interest=(0.5, 0.0, 1.0, 1.0)))
    assert look(interpreter, scored(LEFT, RIGHT), 1)[1].regions[0].bbox[0] == 40
    assert look(interpreter, scored(shape=(20, 30)), 2)[0].searched.shape == (20, 30)


def test_what_is_ignored_is_never_a_hazard_with_and_without_a_region_of_interest():
    robot = np.zeros((HEIGHT, WIDTH), bool)
    robot[:, :20] = True
    both = scored(LEFT, RIGHT, (slice(30, 40), slice(20, 30), 7.0))
    for chosen, found in ((Rules(), [20, 40]), (Rules(region_of_interest=(0.0, 0.0, 1.0, 0.5)), [40])):
        judged, finding = look(Interpreter(chosen), both, ignore=robot)
        assert columns(finding.hazards) == found and not judged.mask[robot].any() and not judged.searched[robot].any()


def test_where_nothing_is_left_to_search_there_is_no_answer():
    half = Rules(region_of_interest=(0.0, 0.0, 0.5, 1.0))
    robot = np.zeros((HEIGHT, WIDTH), bool)
    robot[:, :30] = True
    with pytest.raises(FlowclasError, match="nothing is left to search"):
        look(Interpreter(half), scored(), ignore=robot)


def test_what_is_smaller_than_min_area_is_no_hazard_but_makes_the_view_not_clear():
    score = scored(LEFT, (slice(30, 32), slice(30, 32), 9.0))
    judged, finding = look(Interpreter(Rules(min_area=5)), score)
    assert columns(finding.hazards) == [5] and judged.anomalous_share == 104 / (HEIGHT * WIDTH)
    judged, finding = look(Interpreter(Rules(min_area=101)), score)
    assert finding.hazards == [] and judged.mask.sum() == 104
    assert columns(look(Interpreter(Rules(min_area=100)), score)[1].hazards) == [5]


def test_hysteresis_reaches_below_the_threshold_but_not_outside_what_is_searched():
    score = scored((slice(10, 20), slice(5, 40), 1.6), (12, 12, 3.0), (slice(30, 35), slice(50, 60), 1.9))
    judged, finding = look(Interpreter(Rules(hysteresis=0.5, region_of_interest=(0.0, 0.0, 0.5, 1.0))), score)
    assert [hazard.region.bbox for hazard in finding.hazards] == [(5, 10, 25, 10)] and judged.mask.sum() == 250
    assert look(Interpreter(Rules(hysteresis=0.3)), score)[1].regions == []


def test_candidates_are_regions_that_are_not_confirmed_and_rules_change_without_new_ids():
    interpreter = Interpreter(Rules(confirm_frames=3, forget_frames=5))
    assert [len(look(interpreter, scored(LEFT), step)[1].hazards) for step in range(3)] == [0, 0, 1]
    finding = look(interpreter, scored(RIGHT), 3)[1]
    assert (finding.candidates, columns(finding.hazards), finding.hazards[0].missed) == (1, [5], 1)
    interpreter.set_rules(Rules(confirm_frames=1, forget_frames=2))
    finding = look(interpreter, scored(RIGHT), 4)[1]
    assert [(hazard.id, hazard.missed) for hazard in finding.hazards] == [(2, 0)] and finding.candidates == 0


def test_a_reset_forgets_hazards_and_a_new_model_keeps_them():
    interpreter = Interpreter(Rules(forget_frames=5, smoothing=60.0))
    look(interpreter, scored(LEFT))
    interpreter.model_changed()
    judged, finding = look(interpreter, scored(), 1)
    assert judged.peak == 1.0, "the old model's scores are not mixed in"
    assert [hazard.id for hazard in finding.hazards] == [1]
    interpreter.reset()
    assert look(interpreter, scored(), 2)[1].hazards == []


def test_smoothing_begins_and_ends_with_its_rule_and_a_time_constant_changes_at_once():
    interpreter = Interpreter(Rules())
    look(interpreter, scored())
    interpreter.set_rules(Rules(smoothing=0.1))
    assert look(interpreter, scored(), 1)[0].peak == 1.0
    assert look(interpreter, scored(LEFT), 2)[0].peak == pytest.approx(5 - 4 * np.exp(-1), rel=1e-5)
    interpreter.set_rules(Rules(smoothing=1e-3))
    assert look(interpreter, scored(LEFT), 3)[0].peak == pytest.approx(5.0)
    interpreter.set_rules(Rules(smoothing=60.0))
    assert look(interpreter, scored(), 4)[0].peak > 4.9
    interpreter.set_rules(Rules())
    assert look(interpreter, scored(), 5)[0].peak == 1.0


def test_the_arm_leaves_no_smoothed_score_behind_where_it_moves_on_and_a_hazard_there_is_seen_at_once():
    interpreter = Interpreter(Rules(smoothing=0.1, min_area=1))
    for step in range(10):
        arm = np.zeros((HEIGHT, WIDTH), bool)
        arm[10:30, 3 * step : 3 * step + 12] = True
        judged, finding = look(interpreter, np.where(arm, np.float32(20), scored()), step, ignore=arm)
        assert not finding.hazards and not judged.mask.any()
    assert look(interpreter, scored((slice(10, 20), slice(28, 38), 5.0)), 10)[1].hazards[0].region.bbox[0] == 28
    look(interpreter, np.where(arm, np.float32(20), scored()), 11, ignore=arm)
    assert look(interpreter, scored(shape=(HEIGHT, 2 * WIDTH)), 12)[0].peak == 1.0, "another size begins anew"


def test_drift_is_that_of_the_raw_score_of_the_whole_picture_over_the_window():
    rng = np.random.default_rng(0)
    maps = rng.normal(1, 0.2, (4, HEIGHT, WIDTH)).astype(np.float32)
    reference = DriftReference.fit([[sample(one)] for one in maps[:3]])
    interpreter = Interpreter(Rules(region_of_interest=(0.0, 0.0, 1.0, 0.5), smoothing=60.0, drift_window=1.0))
    normal, strange = maps[3], maps[3].copy()
    strange[HEIGHT // 2 :] = -1.0  # where nothing is searched
    assert look(interpreter, normal, found=detector(reference))[0].drift.statistic < 0.1
    changed = look(interpreter, strange, 20, found=detector(reference))[0].drift
    assert changed.drifted and changed.statistic > 0.45, "neither smoothed nor with the frame before the window"
    interpreter.model_changed()
    assert look(interpreter, normal, 21, found=detector(reference))[0].drift.statistic < 0.1
    interpreter.set_rules(Rules(drift_window=0.0))
    assert np.isnan(look(interpreter, strange, 22, found=detector(reference))[0].drift.statistic)
    assert np.isnan(look(interpreter, strange, 23)[0].drift.statistic)


def test_places_are_asked_for_the_regions_and_go_to_the_hazards():
    asked = []

    def locate(mask, score, regions):
        asked.append((mask, score, [region.bbox[0] for region in regions]))
        return not_located(regions, "no depth yet")

    judged, finding = look(Interpreter(Rules()), scored(RIGHT, LEFT), locate=locate)
    assert asked == [(judged.mask, judged.score, [5, 40])] and finding.located.reason == "no depth yet"
    assert [hazard.location for hazard in finding.hazards] == [None, None]
    assert look(Interpreter(Rules()), scored(), locate=locate)[1].located.reason == "no depth yet"


def test_what_begins_anew_is_said():
    interpreter = Interpreter(Rules(smoothing=0.1))
    assert look(interpreter, scored(), 20)[1].notice == ""
    assert "smoothing begins anew" in look(interpreter, scored(), 19)[1].notice
    assert "hazards are tracked anew" in look(interpreter, scored(), 0)[1].notice
    assert "frames changed from" in look(interpreter, scored(shape=(20, 30)), 1)[1].notice


def test_every_rule_is_a_parameter_of_the_node():
    values = {
        "min_area": 7,
        "hysteresis": 0.25,
        "region_of_interest": (0.1, 0.2, 0.8, 0.9),
        "smoothing": 0.75,
        "confirm_frames": 4,
        "forget_frames": 6,
        "drift_window": 5.0,
    }
    assert rules(Settings()) == Rules() and rules(Settings(**values)) == Rules(**values)
    assert set(values) == {field.name for field in dataclasses.fields(Rules)}
