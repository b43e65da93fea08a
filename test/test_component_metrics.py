"""Component metrics against a plain reading of their definition, and against cases worked out by hand."""

import numpy as np
import pytest
from scipy import ndimage

from flowclas_ros.errors import FlowclasError
from flowclas_ros.training.metrics import ComponentMetrics

SAME = 1e-9
EIGHT = np.ones((3, 3))


def frame(shape=(20, 40), **rectangles):
    """A map of zeros with rectangles name=(top, bottom, left, right, value)."""
    array = np.zeros(shape, np.float32)
    for top, bottom, left, right, value in rectangles.values():
        array[top:bottom, left:right] = value
    return array


def measure(scores, labels, **options):
    metrics = ComponentMetrics(**({"threshold": 0.5, "min_predicted": 1, "min_truth": 1} | options))
    for score, label in zip(scores, labels, strict=True):
        metrics.update(score, label.astype(np.uint8))
    return metrics.compute()


def pixel_sets(mask, smallest):
    numbers, count = ndimage.label(mask, EIGHT)
    sets = [set(map(tuple, np.argwhere(numbers == i))) for i in range(1, count + 1)]
    return [pixels for pixels in sets if len(pixels) >= smallest], [p for p in sets if len(p) < smallest]


def by_definition(scores, labels, threshold, min_predicted, min_truth):
    """Section 3.2 of the paper, with sets of pixels: slow, and nothing to be clever about."""
    sious, ppvs = [], []
    for score, label in zip(scores, labels, strict=True):
        truth, small = pixel_sets(label == 1, min_truth)
        gone = set().union(*small) if small else set()
        predicted, _ = pixel_sets((score >= threshold) & (label <= 1), min_predicted)
        predicted = [pixels - gone for pixels in predicted if pixels - gone]
        on_truth = set().union(*truth) if truth else set()
        for one in truth:
            touching = set().union(*[pixels for pixels in predicted if pixels & one])
            others = on_truth - one
            sious.append(len(one & touching) / len((one | touching) - (others & touching)))
        ppvs += [len(pixels & on_truth) / len(pixels) for pixels in predicted]
    f1 = []
    for tau in np.arange(25, 80, 5) / 100:
        hits = sum(siou >= tau for siou in sious)
        f1.append(2 * hits / (2 * hits + len(sious) - hits + sum(ppv < tau for ppv in ppvs)))
    return np.mean(sious), np.mean(ppvs), np.mean(f1)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("min_predicted", "min_truth"), [(1, 1), (12, 6), (60, 30)])
def test_figures_are_those_of_the_definition_on_random_blobs(seed, min_predicted, min_truth):
    rng = np.random.default_rng(seed)
    scores, labels = [], []
    for _ in range(3):
        truth = ndimage.gaussian_filter(rng.normal(size=(60, 80)), 2) > 0.16
        score = ndimage.gaussian_filter(truth + rng.normal(size=(60, 80)), 1.5)
        label = truth.astype(np.uint8)
        label[ndimage.gaussian_filter(rng.normal(size=(60, 80)), 3) > 0.12] = 255
        scores.append(score.astype(np.float32))
        labels.append(label)
    result = measure(scores, labels, threshold=0.4, min_predicted=min_predicted, min_truth=min_truth)
    expected = by_definition(scores, labels, 0.4, min_predicted, min_truth)
    assert (result["siou"], result["ppv"], result["f1_star"]) == pytest.approx(expected, abs=SAME)
    assert 0.05 < result["siou"] < 0.95 and result["true_components"] > 3


def test_a_perfect_segmentation_scores_one_throughout():
    label = frame(a=(2, 8, 2, 8, 1), b=(10, 15, 20, 30, 1), void=(0, 20, 36, 40, 255))
    result = measure([label == 1], [label])
    assert [result[name] for name in ("siou", "ppv", "f1_star", "f1_25", "f1_75")] == [1.0] * 5
    assert result["true_components"] == result["predicted_components"] == 2


def test_one_prediction_over_two_objects_is_not_held_against_either():
    label = frame(a=(0, 10, 0, 10, 1), b=(0, 10, 12, 22, 1))
    result = measure([frame(both=(0, 10, 0, 22, 1))], [label])
    assert result["siou"] == pytest.approx(100 / 120)  # 20 px between them belong to the union of each
    assert result["ppv"] == pytest.approx(200 / 220)


def test_a_miss_and_a_false_alarm_count_at_every_tau():
    result = measure([frame(alarm=(0, 4, 0, 4, 1))], [frame(object=(10, 14, 10, 14, 1))])
    assert (result["siou"], result["ppv"], result["f1_star"]) == (0.0, 0.0, 0.0)


def test_tau_at_which_a_component_counts_as_found_is_inclusive():
    label = frame(object=(0, 10, 0, 10, 1))
    half = measure([frame(part=(0, 10, 0, 5, 1))], [label])  # siou 0.5, ppv 1
    assert half["siou"] == 0.5
    assert half["f1_50"] == 1.0 and half["f1_75"] == 0.0
    assert half["f1_star"] == pytest.approx(6 / 11)  # tau 0.25 ... 0.50 of eleven


def test_corners_connect_and_ignored_pixels_cut_predictions():
    diagonal = frame(a=(0, 5, 0, 5, 1), b=(5, 10, 5, 10, 1))
    assert measure([diagonal], [diagonal])["true_components"] == 1
    void = frame(void=(0, 20, 19, 21, 255))
    result = measure([frame(wide=(4, 8, 0, 40, 1))], [void])
    assert result["predicted_components"] == 2
    assert result["siou"] is None and result["ppv"] == 0.0 and result["f1_star"] == 0.0


def test_small_predictions_are_dropped_and_small_objects_ignored_with_what_lies_on_them():
    label = frame(small=(0, 2, 0, 3, 1), large=(10, 16, 10, 16, 1))  # 6 and 36 px
    score = frame(small=(0, 2, 0, 3, 1), large=(10, 16, 10, 16, 1), crumb=(18, 19, 30, 33, 1))
    result = measure([score], [label], min_truth=10, min_predicted=4)
    assert (result["true_components"], result["predicted_components"]) == (1, 1)
    assert (result["siou"], result["ppv"], result["f1_star"]) == (1.0, 1.0, 1.0)


def test_frames_with_nothing_in_them_give_none_and_not_a_number():
    result = measure([np.zeros((5, 5), np.float32)] * 2, [np.zeros((5, 5))] * 2)
    assert (result["siou"], result["ppv"], result["f1_star"], result["frames"]) == (None, None, None, 2)


def test_maps_that_do_not_fit_are_refused():
    with pytest.raises(FlowclasError, match=r"\(1, 2\).*\(1, 1\)"):
        measure([np.zeros((1, 2))], [np.zeros((1, 1))])
