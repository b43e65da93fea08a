"""Drift: normal scenes keep the promised alarm rate, fog raises it within a window, hazards do not."""

import json

import numpy as np
import pytest

from flowclas_ros.detection.calibration import Calibration
from flowclas_ros.detection.drift import DriftMonitor, DriftReference, profile, sample
from flowclas_ros.errors import FlowclasError

H, W, FRAMES = 40, 48, 4
SECOND = 1_000_000_000


def scene(rng: np.random.Generator, level: float | None = None) -> list[np.ndarray]:
    """Score maps of one scene: its own level and spread, and frames that are much alike."""
    level, spread = rng.normal(0, 0.3) if level is None else level, rng.uniform(0.8, 1.2)
    return [
        rng.normal(level + rng.normal(0, 0.05), spread, (H, W)).astype(np.float32) + np.float32(1)
        for _ in range(FRAMES)
    ]


def fit(scenes: list[list[np.ndarray]]) -> DriftReference:
    reference = DriftReference.fit([[sample(score) for score in frames] for frames in scenes])
    assert reference is not None
    return reference


@pytest.fixture(scope="module")
def reference() -> DriftReference:
    rng = np.random.default_rng(0)
    return fit([scene(rng) for _ in range(59)])


def alarms(reference: DriftReference, frames: list[np.ndarray], window: float = 3.0) -> list[bool]:
    """Of a stream at one frame a second."""
    monitor = DriftMonitor(window)
    return [monitor.update(score, (i + 1) * SECOND, reference).drifted for i, score in enumerate(frames)]


def test_new_normal_scenes_alarm_at_the_promised_rate_at_most_whatever_the_window():
    # the promise is over calibration and new scene alike, so both are drawn anew
    rng = np.random.default_rng(1)
    alarmed = {0.5: [], 2.0: [], 60.0: []}
    for _ in range(40):
        drawn = fit([scene(rng) for _ in range(19)])
        assert drawn.alarm_rate == pytest.approx(0.05)
        new = [scene(rng) for _ in range(10)]
        for window, rates in alarmed.items():
            rates.append(np.mean([any(alarms(drawn, frames, window)) for frames in new]))
    for rates in alarmed.values():
        assert np.mean(rates) <= 0.05 + 2 * np.std(rates) / np.sqrt(len(rates))  # two standard errors
    assert np.mean(alarmed[0.5]) > 0  # a limit that nothing reaches would keep the promise too


def test_few_scenes_promise_what_they_can(reference):
    rng = np.random.default_rng(2)
    assert fit([scene(rng) for _ in range(9)]).alarm_rate == pytest.approx(0.1)
    assert DriftReference.fit([[sample(score) for score in scene(rng)]]) is None


def test_fog_is_noticed_within_a_window_and_its_end_too(reference):
    rng = np.random.default_rng(3)
    clear, fog = 2 * scene(rng, level=0.0), 2 * scene(rng, level=2.0)
    seen = alarms(reference, clear + fog + clear, window=3.0)
    assert not any(seen[:8])
    assert all(seen[8 + 3 : 16])
    assert not any(seen[16 + 4 :])


def test_scores_that_fall_are_drift_as_well(reference):
    covered = [np.full((H, W), -3.0, np.float32)] * 3  # a lens cap: nothing is strange, and nothing is seen
    assert all(alarms(reference, covered))


def test_a_world_whose_every_pixel_is_strange_is_drift(reference):
    assert all(alarms(reference, [np.full((H, W), 50.0, np.float32)] * 3))


@pytest.mark.parametrize("share", [0.1, 0.15])
def test_a_hazard_on_a_tenth_of_the_pixels_is_no_drift(reference, share):
    rng = np.random.default_rng(4)
    scenes = [scene(rng) for _ in range(60)]
    rows = round(share * H)
    quiet = np.mean([any(alarms(reference, frames)) for frames in scenes])
    for frames in scenes:
        for score in frames:
            score[20 : 20 + rows] = 30.0 + rng.normal(0, 3, (rows, W))
    assert np.mean([any(alarms(reference, frames)) for frames in scenes]) <= quiet + 0.05


def test_what_is_not_left_out_of_a_hazard_moves_the_statistic_by_its_share_at_most(reference):
    rng = np.random.default_rng(5)
    frame = scene(rng)[0]
    with_hazard = frame.copy()
    with_hazard[:4] = np.float32(reference.edges[20])  # a tenth, of scores that the bulk has too
    moved = np.abs(profile(sample(with_hazard), reference.edges) - profile(sample(frame), reference.edges)).max()
    assert moved <= 4 / H / 0.8 + 0.02


def test_the_window_forgets_by_seconds_and_begins_anew_at_a_reset_or_a_stamp_that_goes_back(reference):
    strange, normal = np.full((H, W), 9.0, np.float32), scene(np.random.default_rng(6))[0]
    monitor = DriftMonitor(10.0)
    assert monitor.update(strange, 100 * SECOND, reference).drifted
    mixed = monitor.update(normal, 105 * SECOND, reference)
    alone = DriftMonitor(10.0).update(normal, SECOND, reference).statistic
    assert mixed.statistic > alone
    assert monitor.update(normal, 111 * SECOND, reference).statistic == pytest.approx(alone)
    assert monitor.update(strange, 112 * SECOND, reference).statistic > alone
    assert monitor.update(normal, 50 * SECOND, reference).statistic == pytest.approx(alone)
    monitor.update(strange, 51 * SECOND, reference)
    monitor.reset()
    assert monitor.update(normal, 52 * SECOND, reference).statistic == pytest.approx(alone)
    monitor.update(strange, 0, reference)
    assert monitor.update(normal, 0, reference).statistic == pytest.approx(alone)  # no stamp: for itself alone


def test_without_a_reference_or_a_window_drift_is_unknown_and_no_alarm(reference):
    strange = np.full((H, W), 50.0, np.float32)
    for drift in (DriftMonitor(5.0).update(strange, 1, None), DriftMonitor(0.0).update(strange, 1, reference)):
        assert np.isnan(drift.statistic)
        assert not drift.drifted
        assert drift.text == ""


def test_the_reference_travels_in_the_calibration_table_and_an_older_table_has_none(reference):
    rng = np.random.default_rng(7)
    scenes = [scene(rng) for _ in range(20)]
    plain = Calibration.fit(np.stack(frames) for frames in scenes)
    assert Calibration.from_dict(json.loads(json.dumps(plain.to_dict()))).drift is None
    table = Calibration(plain.rates, plain.thresholds, plain.scenes, plain.pixels, reference).to_dict()
    again = Calibration.from_dict(json.loads(json.dumps(table))).drift
    assert again is not None
    np.testing.assert_allclose(again.profile, reference.profile, atol=1e-6)
    frame = scenes[0][0]
    statistic = DriftMonitor(1.0).update(frame, 1, again).statistic
    assert statistic == pytest.approx(DriftMonitor(1.0).update(frame, 1, reference).statistic, abs=1e-3)


@pytest.mark.parametrize("level", np.float32([1.9108851, 0.80936015, 1.8199073]))
def test_many_pixels_of_one_score_are_no_drift_after_the_table_was_stored(level):
    rng = np.random.default_rng(8)
    scenes = [scene(rng, level=0.0) for _ in range(21)]
    for frames in scenes:
        for score in frames:
            score[: H // 2] = level  # a black sky
    again = DriftReference.from_dict(json.loads(json.dumps(fit(scenes[:20]).to_dict())))
    assert not any(alarms(again, scenes[20]))


@pytest.mark.parametrize("change", [{"edges": [1.0]}, {"edges": []}, {"profile": "x"}, {"limit": None}])
def test_a_damaged_drift_table_is_refused(reference, change):
    with pytest.raises(FlowclasError, match="drift table"):
        DriftReference.from_dict({**reference.to_dict(), **change})
