"""What the detector says of itself, field by field: health and hazard apart, and the state with and without a scene."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from flowclas_ros.node.diagnostics import diagnostics, idle_diagnostics
from flowclas_ros.node.messages import state_fields
from flowclas_ros.node.status import Level, Scene, Status

OK, WARN, ERROR, STALE = range(4)
DETECTOR = SimpleNamespace(
    device="cuda:1", threshold=3.25, guaranteed=True, false_alarm_rate=0.001, header={"name": "site", "sha256": "abc"}
)
SCENE = Scene("header", 2, 3, 0.25, 7.5, 1.5, 0.125, {"preprocess": 1.0, "infer": 2.0, "download": 4.0, "judge": 8.0},
              drift=0.5, drifted=True)  # fmt: skip


def make(kind, **fields):
    return SimpleNamespace(kind=kind, **fields)


def status(scene=SCENE):
    found = Status(0.0)
    for _ in range(9):
        found.received(1.0)
    found.replaced()
    found.failed("a bad frame")
    for _ in range(4):
        found.processed(1.0, scene)
    return found


@pytest.mark.parametrize(
    ("level", "health", "hazard"),
    [
        (Level.CLEAR, OK, OK),
        (Level.CAUTION, OK, WARN),
        (Level.HAZARD, OK, ERROR),
        (Level.STALE, ERROR, STALE),
        (Level.FAULT, ERROR, STALE),
    ],
)
def test_a_hazard_is_no_fault_and_a_blind_detector_sees_no_hazard(level, health, hazard):
    first, second = diagnostics("/detector", level, "so it is", status(), DETECTOR, make)
    assert (first.name, first.level, second.name, second.level) == (
        "/detector: health",
        health,
        "/detector: hazard",
        hazard,
    )
    assert (first.message if health == ERROR else second.message) == "so it is"
    assert ("unknown" in second.message) == (hazard == STALE) and first.hardware_id == "cuda:1"
    values = {value.key: value.value for value in first.values}
    assert [values[f"frames {name}"] for name in ("received", "processed", "dropped", "broken")] == list("9421")
    assert values["latency (s)"] == "0.1250" and values["threshold (nats per dimension)"] == "3.2500"


def test_a_remark_warns_until_it_is_taken_back_and_hides_no_fault():
    found = status()
    found.remark("depth", "no depth yet")
    assert [one.level for one in diagnostics("d", Level.CLEAR, "", found, DETECTOR, make)] == [WARN, OK]
    assert diagnostics("d", Level.STALE, "no frame", found, DETECTOR, make)[0].level == ERROR
    found.remark("depth", "")
    assert diagnostics("d", Level.CLEAR, "", found, DETECTOR, make)[0].level == OK


def test_a_detector_that_does_not_look_is_never_ok():
    assert [one.level for one in idle_diagnostics("d", "paused", make)] == [WARN, STALE]


def test_the_state_carries_the_scene_the_counts_and_the_threshold():
    assert state_fields(Level.HAZARD, "look", status(), DETECTOR) == {
        "level": 2,
        "message": "look",
        "anomalous_share": 0.25,
        "peak_score": 7.5,
        "hazard_count": 2,
        "nearest_range": 1.5,
        "threshold": 3.25,
        "false_alarm_rate": 0.001,
        "threshold_guaranteed": True,
        "drift": 0.5,
        "drifted": True,
        "checkpoint_name": "site",
        "checkpoint_sha256": "abc",
        "latency": 0.125,
        "model_time": 7.0,
        "frames_received": 9,
        "frames_processed": 4,
        "frames_dropped": 2,
    }


def test_before_the_first_scene_the_state_knows_nothing_and_a_set_threshold_has_no_rate():
    by_hand = SimpleNamespace(**{**vars(DETECTOR), "false_alarm_rate": None, "guaranteed": False})
    fields = state_fields(Level.STALE, "no frame yet", Status(0.0), by_hand)
    unknown = ("nearest_range", "false_alarm_rate", "drift", "latency", "model_time")
    assert all(math.isnan(fields[name]) for name in unknown)
    assert not fields["threshold_guaranteed"] and not fields["drifted"] and fields["hazard_count"] == 0
