"""Pixel metrics against scikit-learn, exact and streaming."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from flowclas_ros.errors import FlowclasError
from flowclas_ros.training.metrics import PixelMetrics, PixelResult

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


def reference(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float, float]:
    score = np.concatenate([score[mask != 255] for score, mask in pairs])
    label = np.concatenate([mask[mask != 255] for _, mask in pairs])
    fpr, tpr, _ = roc_curve(label, score, drop_intermediate=False)
    return average_precision_score(label, score), roc_auc_score(label, score), fpr[np.argmax(tpr >= 0.95)]


def measure(pairs: list[tuple[np.ndarray, np.ndarray]], *, streaming: bool) -> PixelResult:
    metrics = PixelMetrics(streaming=streaming)
    for score, mask in pairs:
        metrics.update(score, mask)
    return metrics.compute()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("decimals", [None, 1, 0], ids=["fine", "ties", "heavy ties"])
@pytest.mark.parametrize(("streaming", "tolerance"), [(False, EXACT), (True, STREAMING)], ids=["exact", "streaming"])
def test_figures_agree_with_scikit_learn(seed, decimals, streaming, tolerance):
    pairs = make(seed, decimals=decimals)
    result = measure(pairs, streaming=streaming)
    assert (result.auprc, result.auroc, result.fpr95) == pytest.approx(reference(pairs), abs=tolerance)


@pytest.mark.parametrize("offset", [0.0, -300.0, 1e6])
def test_streaming_follows_a_range_that_grows_both_ways_far_beyond_the_first_image(offset):
    pairs = [(score * scale + shift + offset, mask) for (score, mask), scale, shift in
             zip(make(3), (0.01, 1.0, 3.0, 10.0, 1.0), (0.0, 0.0, -20.0, 15.0, 2.0), strict=True)]  # fmt: skip
    pairs = [(score.astype(np.float32), mask) for score, mask in pairs]
    result = measure(pairs, streaming=True)
    assert (result.auprc, result.auroc, result.fpr95) == pytest.approx(reference(pairs), abs=10 * STREAMING)


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


@pytest.mark.parametrize("streaming", [False, True])
def test_counts_tell_images_labelled_anomalous_and_ignored_pixels(streaming):
    pairs = make(0)
    result = measure(pairs, streaming=streaming)
    masks = np.stack([mask for _, mask in pairs])
    assert result.images == 5
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
