"""Pixel metrics against scikit-learn, exact and streaming."""

import itertools

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from flowclas_ros.errors import FlowclasError
from flowclas_ros.training.metrics import ImageMetrics, PixelMetrics, PixelResult

EXACT, STREAMING = 1e-6, 1e-4


def make(seed: int, *, share: float = 0.05, decimals: int | None = None) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(5):
        mask = rng.choice(np.uint8([0, 1, 255]), (160, 240), p=[0.9 - share, share, 0.1])
        score = rng.normal(1.2, 0.4, mask.shape) + (mask == 1) * rng.gamma(2, 0.5, mask.shape)
        score[mask == 255] = 50.0  # must not count
        pairs.append(((np.round(score, decimals) if decimals is not None else score).astype(np.float32), mask))
    return pairs


def reference(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float, float, float]:
    score = np.concatenate([score[mask != 255] for score, mask in pairs])
    label = np.concatenate([mask[mask != 255] for _, mask in pairs])
    fpr, tpr, _ = roc_curve(label, score, drop_intermediate=False)
    precision, recall, _ = precision_recall_curve(label, score)
    f1 = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
    return average_precision_score(label, score), roc_auc_score(label, score), fpr[np.argmax(tpr >= 0.95)], f1


def reference_aupro(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """A ROC in which the pixels of every region together weigh as much as those of any other, up to an FPR of 0.3."""
    scores, labels, weights = [], [], []
    for score, mask in pairs:
        regions, _ = ndimage.label(mask == 1, np.ones((3, 3)))
        size = np.bincount(regions.ravel())[regions]
        inside = mask != 255
        scores.append(score[inside])
        labels.append(mask[inside])
        weights.append(np.where(mask == 1, 1 / size, 1.0)[inside])
    fpr, tpr, _ = roc_curve(*map(np.concatenate, (labels, scores)), sample_weight=np.concatenate(weights),
                            drop_intermediate=False)  # fmt: skip
    x = np.append(fpr[fpr < 0.3], 0.3)
    y = np.append(tpr[fpr < 0.3], np.interp(0.3, fpr, tpr))
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2)) / 0.3


def reference_nearest(score: np.ndarray, mask: np.ndarray) -> float:
    """Every score as a threshold, from the lowest: the first of those whose recall is nearest to 0.95."""
    normal, anomaly = score[mask == 0], score[mask == 1]
    levels = np.unique(np.concatenate([normal, anomaly]))
    recall = np.array([(anomaly >= level).mean() for level in levels])
    last = np.flatnonzero(recall == 1)[-1]  # lower ones only add false alarms
    best = last + int(np.argmin(np.abs(recall[last:] - 0.95)))
    return float((normal >= levels[best]).mean())


def measure(pairs: list[tuple[np.ndarray, np.ndarray]], *, streaming: bool, regions: bool = False) -> PixelResult:
    metrics = PixelMetrics(streaming=streaming, regions=regions)
    for score, mask in pairs:
        metrics.update(score, mask)
    return metrics.compute()


def figures(result: PixelResult) -> tuple[float, float, float, float]:
    return result.auprc, result.auroc, result.fpr95, result.f1_max


BOTH = pytest.mark.parametrize(("streaming", "tolerance"), [(False, EXACT), (True, STREAMING)], ids=["exact", "stream"])


@pytest.mark.parametrize("streaming", [False, True])
def test_recall_and_false_alarms_are_counted_above_the_threshold_not_at_it(streaming):
    metrics = PixelMetrics(streaming=streaming, threshold=2.0)
    for score, mask in (([1, 2, 3, 4], [0, 0, 0, 1]), ([2, 5, 9, 0], [1, 1, 255, 0])):
        metrics.update(np.array([score], np.float32), np.array([mask], np.uint8))
    result = metrics.compute()
    assert (result.recall, result.false_alarm_rate, result.threshold) == (2 / 3, 1 / 4, 2.0)
    without = measure(make(0), streaming=streaming)
    assert (without.recall, without.false_alarm_rate, without.threshold) == (None, None, None)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("decimals", [None, 1, 0], ids=["fine", "ties", "heavy ties"])
@BOTH
def test_figures_agree_with_scikit_learn(seed, decimals, streaming, tolerance):
    pairs = make(seed, decimals=decimals)
    result = measure(pairs, streaming=streaming)
    assert figures(result) == pytest.approx(reference(pairs), abs=tolerance)


@pytest.mark.parametrize("decimals", [None, 0], ids=["fine", "heavy ties"])
@BOTH
def test_per_region_overlap_agrees_with_a_weighted_roc(decimals, streaming, tolerance):
    pairs = []
    for score, mask in make(7, decimals=decimals):
        blobs = ndimage.gaussian_filter(np.random.default_rng(int(mask.sum())).normal(size=mask.shape), 3) > 0.12
        pairs.append((score + np.float32(2) * blobs, np.where(mask == 255, 255, blobs).astype(np.uint8)))
    result = measure(pairs, streaming=streaming, regions=True)
    assert result.aupro == pytest.approx(reference_aupro(pairs), abs=tolerance)
    assert measure(pairs, streaming=streaming).aupro is None


@pytest.mark.parametrize("offset", [0.0, -300.0, 1e6])
@pytest.mark.parametrize("order", [1, -1], ids=["narrow first", "wide first"])
def test_streaming_follows_images_whose_scores_lie_far_from_those_of_the_first(offset, order):
    pairs = [(score * scale + shift + offset, mask) for (score, mask), scale, shift in
             zip(make(3), (0.01, 1.0, 3.0, 10.0, 1.0), (0.0, 0.0, -20.0, 15.0, 2.0), strict=True)]  # fmt: skip
    pairs = [(score.astype(np.float32), mask) for score, mask in pairs][::order]
    assert figures(measure(pairs, streaming=True)) == pytest.approx(reference(pairs), abs=STREAMING)


@pytest.mark.parametrize("extremes", [(1e6,), (-1e9, 1e4), (1e36, -1e36, 1e30, 1e-30)])
@pytest.mark.parametrize("first", [True, False], ids=["in the first image", "in the last image"])
@BOTH
def test_a_few_extreme_scores_cost_no_resolution(extremes, first, streaming, tolerance):
    pairs = make(5)
    score, _ = pairs[0 if first else -1]
    for at, value in zip(range(0, 400, 7), itertools.cycle(extremes), strict=False):
        score[at % 160, at % 97] = value
    result = measure(pairs, streaming=streaming)
    assert figures(result) == pytest.approx(reference(pairs), abs=tolerance)


@pytest.mark.parametrize("start", [0.0, 7.25])
def test_a_constant_first_image_does_not_spoil_the_rest(start):
    mask = np.zeros((8, 8), np.uint8)
    pairs = [(np.full((8, 8), start, np.float32), mask), *make(6)]
    assert figures(measure(pairs, streaming=True)) == pytest.approx(reference(pairs), abs=STREAMING)


@pytest.mark.parametrize("decimals", [None, 1])
@pytest.mark.parametrize("streaming", [False, True])
def test_the_threshold_of_the_best_f1_gives_that_f1(decimals, streaming):
    pairs = make(9, decimals=decimals)
    result = measure(pairs, streaming=streaming)
    found = np.concatenate([score[mask != 255] >= np.float32(result.f1_threshold) for score, mask in pairs])
    label = np.concatenate([mask[mask != 255] for _, mask in pairs])
    f1 = 2 * (found & (label == 1)).sum() / (found.sum() + (label == 1).sum())
    assert f1 == pytest.approx(result.f1_max, abs=STREAMING if streaming else EXACT)


@pytest.mark.parametrize("streaming", [False, True])
def test_curves_run_through_points_of_the_reference_curve(streaming):
    pairs = make(1)
    metrics = PixelMetrics(streaming=streaming)
    for score, mask in pairs:
        metrics.update(score, mask)
    curves = metrics.curves(100)
    score = np.concatenate([score[mask != 255] for score, mask in pairs])
    label = np.concatenate([mask[mask != 255] for _, mask in pairs])
    fpr, tpr, _ = roc_curve(label, score, drop_intermediate=False)
    for x, y in zip(curves["false_positive_rate"], curves["recall"], strict=True):
        assert np.hypot(fpr - x, tpr - y).min() < STREAMING
    assert curves["recall"][-1] == 1.0 and 80 <= len(curves["recall"]) <= 101
    assert np.all(np.diff(curves["recall"]) >= 0) and np.all(np.diff(curves["false_positive_rate"]) >= 0)


def test_images_count_as_anomalous_by_their_masks_and_score_by_their_highest_labelled_pixel():
    pairs = make(2) + [(score, np.where(mask == 255, 255, 0).astype(np.uint8)) for score, mask in make(4)]
    metrics = ImageMetrics()
    own = [metrics.update(score, mask) for score, mask in pairs]
    highest = [score[mask != 255].max() for score, mask in pairs]
    anomalous = [(mask == 1).any() for _, mask in pairs]
    result = metrics.compute()
    assert result["image_auroc"] == pytest.approx(roc_auc_score(anomalous, highest), abs=EXACT)
    means = np.mean([reference([pair]) for pair in pairs[:5]], axis=0)
    nearest = np.mean([reference_nearest(*pair) for pair in pairs[:5]])
    assert result["mean_per_image"]["fpr95_nearest"] == pytest.approx(nearest, abs=EXACT)
    assert list(result["mean_per_image"].values())[:4] == pytest.approx(list(means), abs=EXACT)
    assert result["mean_per_image"]["images"] == 5
    assert own[7] is None and own[0]["auprc"] == pytest.approx(reference(pairs[:1])[0], abs=EXACT)


def test_image_figures_that_do_not_exist_are_none():
    metrics = ImageMetrics()
    metrics.update(np.zeros((2, 2)), np.full((2, 2), 255, np.uint8))
    metrics.update(np.zeros((2, 2)), np.zeros((2, 2), np.uint8))
    result = metrics.compute()
    assert result["image_auroc"] is None and result["mean_per_image"]["auprc"] is None


def test_scores_outside_0_and_1_are_taken_as_they_are_and_not_through_a_sigmoid():
    mask = np.uint8([[0, 0, 1, 1]])
    score = np.float32([[40, 50, 60, 70]])  # a float32 sigmoid makes all of these 1
    for streaming in (False, True):
        result = measure([(score, mask)], streaming=streaming)
        assert (result.auprc, result.auroc, result.fpr95) == (1.0, 1.0, 0.0)


@pytest.mark.parametrize("streaming", [False, True])
def test_constant_scores_are_one_tie(streaming):
    result = measure([(np.full((2, 4), 3.0, np.float32), np.uint8([[0, 0, 0, 1], [0, 0, 0, 1]]))], streaming=streaming)
    assert (result.auprc, result.auroc, result.fpr95) == pytest.approx((0.25, 0.5, 1.0))


@pytest.mark.parametrize("positives", [19, 20, 21, 40, 100])
def test_fpr95_is_taken_at_the_first_threshold_that_finds_95_percent(positives):
    score = np.arange(positives + 50, dtype=np.float32)[::-1].reshape(1, -1)
    mask = np.random.default_rng(positives).permutation(np.uint8([1] * positives + [0] * 50)).reshape(1, -1)
    assert measure([(score, mask)], streaming=False).fpr95 == pytest.approx(reference([(score, mask)])[2], abs=EXACT)


@pytest.mark.parametrize("positives", [1, 2, 10, 19, 30, 50])
def test_the_nearest_fpr95_is_that_of_the_lowest_threshold_of_the_recall_nearest_to_95_percent(positives):
    rng = np.random.default_rng(positives)
    score = rng.integers(0, 40, (1, positives + 50)).astype(np.float32)
    mask = rng.permutation(np.uint8([1] * positives + [0] * 50)).reshape(1, -1)
    own = ImageMetrics().update(score, mask)
    assert own["fpr95_nearest"] == pytest.approx(reference_nearest(score, mask), abs=EXACT)


@pytest.mark.parametrize("streaming", [False, True])
def test_more_images_after_the_figures_count_too(streaming):
    pairs = make(0)
    metrics = PixelMetrics(streaming=streaming, regions=True)
    for number, (score, mask) in enumerate(pairs):
        metrics.update(score, mask)
        if number == 2:
            metrics.compute()
    again = metrics.compute()
    assert again == metrics.compute() == measure(pairs, streaming=streaming, regions=True)


@pytest.mark.parametrize("streaming", [False, True])
def test_counts_tell_images_labelled_anomalous_and_ignored_pixels(streaming):
    pairs = make(0)
    nothing = np.full_like(pairs[0][1], 255)
    result = measure([*pairs, (pairs[0][0], nothing)], streaming=streaming)
    masks = np.stack([*(mask for _, mask in pairs), nothing])
    assert result.images == 5, "without the one that has no labelled pixel"
    assert result.pixels == (masks != 255).sum()
    assert result.anomaly_pixels == (masks == 1).sum()
    assert result.ignored_pixels == (masks == 255).sum()


def test_figures_pool_pixels_and_are_not_a_mean_over_images():
    easy = (np.float32([[0, 0, 0, 1]]), np.uint8([[0, 0, 0, 1]]))
    hard = (np.float32([[9, 9, 9, 8]]), np.uint8([[0, 0, 0, 1]]))
    assert measure([easy, hard], streaming=False).auprc == pytest.approx(reference([easy, hard])[0])


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("label", "words"), [(0, r"labelled 1 \(anomaly\)"), (1, r"labelled 0 \(normal\)"), (255, "labelled 1")]
)
def test_masks_of_one_class_only_are_an_error_that_names_the_missing_label(streaming, label, words):
    metrics = PixelMetrics(streaming=streaming)
    metrics.update(np.zeros((3, 3), np.float32), np.full((3, 3), label, np.uint8))
    with pytest.raises(FlowclasError, match=words):
        metrics.compute()


def test_scores_that_are_not_finite_or_of_another_shape_are_refused():
    metrics = PixelMetrics()
    with pytest.raises(FlowclasError, match="finite"):
        metrics.update(np.float32([[np.nan]]), np.uint8([[0]]))
    with pytest.raises(FlowclasError, match=r"\(1, 1\).*\(1, 2\)"):
        metrics.update(np.float32([[0]]), np.uint8([[0, 1]]))
