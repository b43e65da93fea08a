"""Calibration: the promised false-alarm bound, the table's size, and heat."""

import json
import tracemalloc

import numpy as np
import pytest

from flowclas_ros.detection import calibration as calibration_module
from flowclas_ros.detection.calibration import Calibration
from flowclas_ros.errors import FlowclasError


def scenes_of(count: int, seed: int = 0, pixels: int = 4000) -> list[np.ndarray]:
    """Scenes that differ from one another more than their pixels do, as real ones."""
    rng = np.random.default_rng(seed)
    return [rng.normal(rng.normal(0, 0.7), rng.uniform(0.5, 1.5), pixels).astype(np.float32) for _ in range(count)]


def mean_share(scenes: list[np.ndarray], threshold: float) -> float:
    return float(np.mean([(scene > np.float32(threshold)).mean() for scene in scenes]))


@pytest.mark.parametrize("rate", [0.3, 0.1, 0.05, 2 / 61])
def test_the_threshold_meets_the_conformal_inequality_and_is_hardly_above_the_smallest_that_does(rate):
    scenes = scenes_of(60)
    calibration = Calibration.fit(scenes)
    threshold = calibration.threshold(rate)

    def bound(t: float) -> float:
        return (60 * mean_share(scenes, t) + 1) / 61

    assert calibration.guaranteed(rate)
    assert bound(threshold) <= rate + 1e-9
    pooled = np.sort(np.concatenate(scenes))  # scenes of one size: pooling them is averaging them
    shares = 1 - np.arange(1, pooled.size + 1) / pooled.size
    exact = pooled[(60 * shares + 1) / 61 <= rate + 1e-12][0]
    assert exact <= threshold <= exact + 0.05


def test_the_bound_holds_on_new_scenes_on_average():
    shares = []
    for seed in range(150):
        scenes = scenes_of(21, seed=seed, pixels=400)
        shares.append(mean_share(scenes[20:], Calibration.fit(scenes[:20]).threshold(0.1)))
    assert np.mean(shares) <= 0.1 + 2 * np.std(shares) / np.sqrt(len(shares))


def test_a_rate_too_small_for_the_scenes_is_empirical_and_says_so():
    scenes = scenes_of(20)
    calibration = Calibration.fit(scenes)
    assert calibration.guaranteed(2 / 21)
    assert not calibration.guaranteed(2 / 22)
    threshold = calibration.threshold(1e-3)
    assert 0.9e-3 < mean_share(scenes, threshold) <= 1e-3


@pytest.mark.parametrize("seed", range(20))
def test_asking_for_fewer_false_alarms_never_lowers_the_threshold(seed):
    rng = np.random.default_rng(seed)
    count, pixels = int(rng.integers(1, 80)), int(rng.integers(1, 500))
    scenes = scenes_of(count, seed, pixels)
    if seed % 2:
        scenes = [scene.round() for scene in scenes]  # many ties: a curve of a few high steps
    table = Calibration.fit(scenes)
    between = np.arange(1, 2 * count + 2) / (2 * count + 2)  # every half of 1 / (scenes + 1): where a rule may change
    rates = np.concatenate([np.geomspace(1e-6, 0.999, 300), between, between * (1 - 1e-12), between * (1 + 1e-12)])
    rates = np.sort(rates[rates < 1])
    for calibration in (table, Calibration.from_dict(table.to_dict())):
        thresholds = np.array([calibration.threshold(rate) for rate in rates])
        assert (np.diff(thresholds) <= 0).all()
        for rate, threshold in zip(rates, thresholds, strict=True):
            share = mean_share(scenes, threshold)
            assert share <= rate
            assert (count * share + 1) / (count + 1) <= rate + 1e-9 or not calibration.guaranteed(rate)


def test_the_threshold_does_not_jump_where_the_guarantee_ends():
    scenes = scenes_of(50)
    calibration = Calibration.fit(scenes)
    kept, lost = (calibration.threshold(2 / 51 * factor) for factor in (1.001, 0.999))
    assert calibration.guaranteed(2 / 51 * 1.001) and not calibration.guaranteed(2 / 51 * 0.999)
    assert 0 <= lost - kept <= 0.02
    assert mean_share(scenes, lost) == pytest.approx(1 / 50, rel=0.05)


def test_one_loud_scene_counts_as_one_scene_however_many_pixels_it_has():
    quiet = [np.linspace(0, 1, 100, dtype=np.float32) for _ in range(9)]
    loud = np.full(1_000_000, 9.0, dtype=np.float32)
    calibration = Calibration.fit([*quiet, loud])
    assert calibration.threshold(0.19) < 9.0 or mean_share([*quiet, loud], calibration.threshold(0.19)) == 0
    # (10 * 0.1 + 1) / 11 = 0.18: the loud scene alone is a tenth of the scenes, not nearly all the pixels
    assert calibration.threshold(0.19) <= 1.0


def test_the_stored_table_is_small_and_gives_the_same_thresholds_after_a_round_trip():
    scenes = scenes_of(300, pixels=20000)
    calibration = Calibration.fit(scenes)
    text = json.dumps(calibration.to_dict())
    assert len(text) < 60_000
    again = Calibration.from_dict(json.loads(text))
    for rate in (0.5, 0.1, 1e-2, 1e-3, 1e-5):
        assert again.threshold(rate) >= calibration.threshold(rate)
        assert again.threshold(rate) == pytest.approx(calibration.threshold(rate), abs=0.02)
    assert mean_share(scenes, again.threshold(1e-3)) <= 1e-3
    score = scenes[0].reshape(100, 200)
    np.testing.assert_allclose(again.heat(score), calibration.heat(score), atol=1e-4)


def test_the_share_above_a_threshold_is_told_at_between_and_beyond_the_scores_seen():
    calibration = Calibration.fit([np.float32([0, 1, 1, 2]), np.float32([1, 2, 2, 3])])
    expected = {-1.0: 1.0, 0.0: 7 / 8, 0.5: 7 / 8, 1.0: 4 / 8, 2.0: 1 / 8, 2.9: 1 / 8, 3.0: 0.0, 9.0: 0.0}
    for threshold, share in expected.items():
        assert calibration.share_above(threshold) == pytest.approx(share, abs=1e-9)


def test_a_frame_without_pixels_takes_nothing_from_its_scenes_other_frames():
    scene = np.arange(10, dtype=np.float32)
    calibration = Calibration.fit([[scene[:5], scene[:0], scene[5:]]])
    assert calibration.pixels == 10 and calibration.share_above(4.0) == pytest.approx(0.5)


def test_fit_reads_a_stream_of_scenes_once():
    assert Calibration.fit(scene for scene in scenes_of(5)).scenes == 5


@pytest.mark.parametrize("decimals", [None, 1], ids=["fine", "ties"])
def test_a_scene_may_come_frame_by_frame_and_its_pixels_count_alike(decimals):
    rng = np.random.default_rng(0)
    whole = scenes_of(30, pixels=6000)
    if decimals is not None:
        whole = [scene.round(decimals) for scene in whole]
    cuts = [np.sort(rng.choice(np.arange(1, 6000), 7, replace=False)) for _ in whole]
    by_frame = Calibration.fit(iter(np.split(scene, cut)) for scene, cut in zip(whole, cuts, strict=True))
    at_once = Calibration.fit(whole)
    assert (by_frame.scenes, by_frame.pixels) == (30, 30 * 6000)
    for rate in (0.3, 0.1, 1e-2, 1e-3, 1e-4):
        threshold = by_frame.threshold(rate)
        assert mean_share(whole, threshold) <= rate
        assert threshold == pytest.approx(at_once.threshold(rate), abs=0.02)


def test_memory_is_that_of_a_frame_however_long_a_scene_is():
    rng = np.random.default_rng(0)
    frame = 1_000_000
    tracemalloc.start()
    calibration = Calibration.fit([(rng.standard_normal(frame, np.float32) for _ in range(16))])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert calibration.pixels == 16 * frame
    assert peak < 6 * 4 * frame  # four bytes a pixel: six frames of the scene's sixteen


@pytest.mark.parametrize("decimals", [None, 1], ids=["fine", "ties"])
def test_a_scene_of_many_frames_keeps_the_bound_and_few_curves(decimals, monkeypatch):
    monkeypatch.setattr(calibration_module, "_HELD", 4)  # three levels of them in a hundred frames
    rng = np.random.default_rng(1)
    frames = [rng.normal(i / 40, 1, 3000).astype(np.float32) for i in range(100)]
    if decimals is not None:
        frames = [frame.round(decimals) for frame in frames]
    scenes = [frames, frames[:3]]
    calibration = Calibration.fit(scenes)
    assert (calibration.scenes, calibration.pixels) == (2, 103 * 3000)
    exact = Calibration.fit([np.concatenate(scene) for scene in scenes])
    for rate in (0.4, 0.1, 1e-2, 1e-3, 1e-4):
        threshold = calibration.threshold(rate)
        assert mean_share([np.concatenate(scene) for scene in scenes], threshold) <= rate
        assert threshold <= exact.threshold(rate) + 0.04


def test_the_drifts_reference_looks_at_some_of_a_long_scenes_frames_evenly_spread(monkeypatch):
    seen = []
    monkeypatch.setattr(calibration_module.DriftReference, "fit", seen.extend)
    Calibration.fit_with_drift((np.full((4, 4), i, np.float32) for i in range(count)) for count in (3, 127, 1000))
    first, second, third = ([int(frame[0]) for frame in scene] for scene in seen)
    assert first == [0, 1, 2] and second == list(range(127))
    assert third == list(range(0, 1000, third[1])) and 64 <= len(third) < 128


def test_ties_and_constant_scenes_keep_the_bound():
    scenes = [np.repeat(np.float32([0, 1, 2, 3]), 50) for _ in range(30)]
    calibration = Calibration.fit(scenes)
    assert calibration.threshold(0.3) == 2.0  # share above 2 is 1/4; (30/4 + 1) / 31 = 0.27
    assert Calibration.fit([np.zeros(10, np.float32)] * 30).threshold(0.5) == 0.0


def test_heat_is_the_decades_of_rarity_monotone_and_saturates_above_everything_seen():
    scene = np.random.default_rng(0).permutation(np.arange(1_000_000, dtype=np.float32))
    calibration = Calibration.fit([scene])
    probes = np.float32([-1e9, 0, 500_000, 900_000, 990_000, 999_000, 1_000_001, 1e9]).reshape(2, 4)
    expected = np.array([[0, 0, np.log10(2) / 6, 1 / 6], [2 / 6, 3 / 6, 1, 1]])
    np.testing.assert_allclose(calibration.heat(probes), expected, atol=0.01)
    ramp = calibration.heat(np.linspace(-10, 1.1e6, 5000, dtype=np.float32))
    assert (np.diff(ramp) >= 0).all()
    assert ramp.min() < 1e-3
    assert ramp.max() == 1
    assert ramp.dtype == np.float32


def test_heat_where_all_scores_are_one_and_where_one_lies_far_from_all_others():
    alike = Calibration.fit([np.ones((4, 4), np.float32)] * 3)
    assert alike.heat(np.float32([0, 2])).tolist() == [0, 1]
    scenes = [np.append(scene, np.float32(1e6)) for scene in scenes_of(5)]
    far, near = Calibration.fit(scenes), Calibration.fit([scene[:-1] for scene in scenes])
    probes = np.linspace(-5, 5, 200, dtype=np.float32).reshape(10, 20)
    expected = -np.log10((10 ** (-6 * near.heat(probes)) * 4000 + 1) / 4001) / 6
    np.testing.assert_allclose(far.heat(probes), expected, atol=0.02)
    assert far.heat(probes).dtype == np.float32 and far.heat(np.float32([2e6]))[0] == 1


@pytest.mark.parametrize(
    ("scenes", "words"),
    [
        ([], "0 scenes"),
        ([np.zeros(0)], "no pixel"),
        ([iter([])], "scene 0 holds no pixel"),
        ([np.array([1.0, np.nan])], "non-finite"),
        ([np.zeros(3), np.array([np.inf, 1.0])], "scene 1 holds a non-finite"),
        ([np.array([1.0, -np.inf])], "non-finite"),  # sorts first, where NaN and inf sort last
    ],
)
def test_scenes_that_cannot_calibrate_are_refused_by_name(scenes, words):
    with pytest.raises(FlowclasError, match=words):
        Calibration.fit(scenes)


@pytest.mark.parametrize("rate", [0.0, 1.0, -1.0, float("nan")])
def test_a_rate_that_is_no_share_is_refused(rate):
    with pytest.raises(FlowclasError, match="false_alarm_rate"):
        Calibration.fit(scenes_of(3)).threshold(rate)


@pytest.mark.parametrize(
    "change",
    [
        {"rates": [0.1]},
        {"thresholds": "x"},
        {"scenes": 0},
        {"rates": None},
        {"rates": [0.1, 0.5, 0.0], "thresholds": [1.0, 2.0, 3.0]},  # a lower threshold with fewer false alarms
        {"rates": [0.5, 0.1, 0.0], "thresholds": [1.0, 3.0, 2.0]},
        {"rates": [0.5, 0.2, 0.1], "thresholds": [1.0, 2.0, 3.0]},  # no threshold for a rate below 0.1
        {"rates": [0.5, float("nan"), 0.0], "thresholds": [1.0, 2.0, 3.0]},
    ],
)
def test_a_damaged_table_is_refused(change):
    table = {**Calibration.fit(scenes_of(3)).to_dict(), **change}
    with pytest.raises(FlowclasError, match="calibrat"):
        Calibration.from_dict(table)
