"""The label track's losses and scores, against their definitions."""

import numpy as np
import pytest
import torch
from torch import nn

from flowclas_ros.errors import FlowclasError
from flowclas_ros.model import BackboneConfig, FlowCLAS, FlowCLASConfig, FlowConfig, load_checkpoint, save_checkpoint
from flowclas_ros.model.segmentation import energy_entropy
from flowclas_ros.training.batches import collate
from flowclas_ros.training.losses import IGNORE, LossConfig
from flowclas_ros.training.module import batch_features
from flowclas_ros.training.segmentation import energy_entropy_loss, label_losses, lovasz_softmax


def tiny(**options) -> FlowCLAS:
    torch.manual_seed(0)
    backbone = BackboneConfig("mobilenetv2_050", "random", layers=(2,))
    return FlowCLAS(FlowCLASConfig(backbone, FlowConfig(2, kernels=(1,)), 8, classes=4, **options))


# -- losses ---------------------------------------------------------------------------------------------------------


def lovasz_by_sets(probabilities, targets):
    """The Lovasz extension by its definition: the set function 1 - Jaccard on growing sets of errors, float64."""
    losses = []
    for label in sorted(set(targets.tolist())):
        inside = {i for i, t in enumerate(targets.tolist()) if t == label}
        errors = [float(1 - p[label]) if i in inside else float(p[label]) for i, p in enumerate(probabilities.double())]

        def jaccard_loss(wrong, inside=inside):
            # Pixels in ``wrong`` are mispredicted: those of the class are missed, the others are taken for it.
            return 1 - len(inside - wrong) / len(inside | wrong)

        wrong, value = set(), 0.0
        for i in sorted(range(len(errors)), key=lambda i: -errors[i]):
            value += errors[i] * (jaccard_loss(wrong | {i}) - jaccard_loss(wrong))
            wrong = wrong | {i}
        losses.append(value)
    return sum(losses) / len(losses)


@pytest.mark.parametrize("seed", range(4))
def test_lovasz_softmax_is_the_extension_of_the_jaccard_loss(seed):
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.randn(23, 5, generator=generator).mul(2).softmax(dim=1)
    targets = torch.randint(0, 4, (23,), generator=generator)  # the fifth class is absent
    assert float(lovasz_softmax(probabilities, targets)) == pytest.approx(
        lovasz_by_sets(probabilities, targets), abs=1e-5
    )


def test_lovasz_softmax_is_zero_when_all_is_right_one_when_all_is_wrong_and_zero_of_nothing():
    targets = torch.tensor([0, 0, 1, 2])
    right = torch.eye(3)[targets]
    assert float(lovasz_softmax(right, targets)) == pytest.approx(0, abs=1e-6)
    assert float(lovasz_softmax(right.roll(1, dims=1), targets)) == pytest.approx(1, abs=1e-6)
    assert float(lovasz_softmax(right[:0], targets[:0])) == 0


def test_energy_entropy_rises_with_doubt_and_falls_with_evidence():
    logits = torch.tensor([[9.0, 0.0, 0.0], [3.0, 3.0, 3.0], [0.0, 0.0, 0.0]]).double()
    p = logits.softmax(dim=1)
    by_hand = 0.5 * -(p * p.log()).sum(dim=1) - logits.exp().sum(dim=1).log()
    score = energy_entropy(logits, 0.5)
    torch.testing.assert_close(score, by_hand, rtol=0, atol=1e-12)
    assert score[0] < score[1] < score[2]


def test_energy_entropy_loss_parts_the_two_kinds_and_ignores_the_rest():
    score = torch.tensor([-2.0, 3.0, 50.0], requires_grad=True)
    loss = energy_entropy_loss(score, torch.tensor([0, 1, IGNORE], dtype=torch.uint8))
    expected = np.log1p(np.exp(-2)) + np.log1p(np.exp(-3))
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-6)
    loss.backward()
    assert score.grad[0] > 0 > score.grad[1] and score.grad[2] == 0
    assert float(energy_entropy_loss(score, torch.full((3,), IGNORE)).detach()) == 0


def label_batch(model, size=70):
    images = torch.rand(2, 3, size, size)
    classes = torch.randint(0, 4, (2, size, size), dtype=torch.uint8)
    labels = torch.zeros(2, size, size, dtype=torch.uint8)
    labels[:, 20:40], classes[:, 20:40] = 1, IGNORE
    return model.features(images), classes, labels, torch.full((2, 2), size)


@pytest.mark.parametrize("short_side", [None, 96])
def test_gradients_reach_the_head_alone_and_ignored_pixels_never_count(short_side):
    model = tiny(short_side=short_side)
    features, classes, labels, sizes = label_batch(model)
    losses = label_losses(model, features, classes, labels, sizes, LossConfig(segmentation=2.0, energy_entropy=0.5))
    parts = 2 * (losses["cross_entropy"] + losses["lovasz"]) + 0.5 * losses["energy_entropy"]
    torch.testing.assert_close(losses["loss"], parts)
    losses["loss"].backward()
    reached = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().any()}
    assert reached == {"segmentation"}
    without = torch.full_like(classes, IGNORE)
    nothing = label_losses(model, features, without, labels, sizes, LossConfig(segmentation=1.0))
    assert float(nothing["loss"].detach()) == 0


class FirstChannels(nn.Module):
    """A head that sees one cell at a time."""

    def forward(self, features):
        return features[:, :4]


def test_images_of_unequal_size_have_the_losses_that_they_have_alone():
    model = tiny(short_side=64)
    model.segmentation = FirstChannels()
    config = LossConfig(segmentation=1.0)
    items = []
    for height, width in ((32, 32), (128, 192)):  # seen at 64 x 64 and 64 x 96
        image = torch.randint(0, 255, (3, height, width), dtype=torch.uint8)
        classes = torch.randint(0, 4, (height, width), dtype=torch.uint8)
        items.append({"image": image, "label": torch.zeros_like(classes), "classes": classes})

    def cross_entropy(batch):
        features, _ = batch_features(model, batch)
        losses = label_losses(model, features, batch["classes"], batch["label"], batch["size"], config)
        return losses["cross_entropy"]

    small, large = (cross_entropy(collate([item])) for item in items)
    torch.testing.assert_close(cross_entropy(collate(items)), (2 * small + 3 * large) / 5)


def test_the_head_learns_the_classes_of_a_picture():
    model = tiny()
    # Two halves of different texture, so that features tell the classes apart.
    images = torch.rand(2, 3, 64, 64)
    images[..., :32] *= 0.1
    classes = torch.zeros(2, 64, 64, dtype=torch.uint8)
    classes[..., 32:] = 3
    features, labels, sizes = model.features(images), torch.zeros_like(classes), torch.full((2, 2), 64)
    optimiser = torch.optim.Adam(model.segmentation.parameters(), lr=1e-2)
    for _ in range(30):
        loss = label_losses(model, features, classes, labels, sizes, LossConfig(segmentation=1.0))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    predicted = model.to_image(model.logits(features), 64, 64).argmax(dim=1)
    assert (predicted == classes).float().mean() > 0.9  # half would be chance


# -- the score ------------------------------------------------------------------------------------------------------


def test_energy_joins_the_nll_with_its_spread_and_stands_alone_as_a_score():
    fused = tiny(energy_weight=1.0)
    features = label_batch(fused, 96)[0]
    labels = torch.zeros(2, *features.shape[-2:], dtype=torch.uint8)
    labels[:, :2] = 1
    fused.fit_energy([(features[:1], labels[:1]), (features[1:], labels[1:])])
    nll, score = fused.nll(features).detach(), fused.grid_score(features).detach()
    inliers, added = nll[labels == 0], (score - nll)[labels == 0]
    spread = (inliers - inliers.median()).abs().median()
    assert float(added.median()) == pytest.approx(0, abs=1e-4)
    assert float(added.abs().median()) == pytest.approx(float(spread), rel=1e-3)
    with pytest.raises(FlowclasError, match="needs inlier pixels"):
        fused.fit_energy([(features, labels * 0 + 1)])
    alone = tiny(score="energy_entropy")
    assert torch.equal(alone.grid_score(features), energy_entropy(alone.logits(features), 1.0))


@pytest.mark.parametrize("options", [{"energy_weight": 1.5}, {"score": "energy_entropy"}])
def test_a_label_checkpoint_says_its_track_and_scores_bit_equal(tmp_path, options):
    model = tiny(**options).eval()
    features = label_batch(model)[0]
    model.fit_energy([(features, torch.zeros(2, *features.shape[-2:]))])
    save_checkpoint(tmp_path / "a.safetensors", model, embed_backbone=True)
    loaded = load_checkpoint(tmp_path / "a.safetensors")
    images = torch.rand(1, 3, 50, 70)
    assert torch.equal(loaded.model(images), model(images))
    assert loaded.header["track"] == "label"
    assert FlowCLASConfig().track == "label-free"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"classes": 1}, "classes is 1"),
        ({"classes": 0, "energy_weight": 1.0}, "needs class logits"),
        ({"classes": 3, "energy_weight": -1.0}, "energy_weight is -1"),
        ({"classes": 3, "score": "energy_entropy", "margin_weight": 1.0}, "stands alone"),
    ],
)
def test_impossible_scores_are_refused(options, text):
    with pytest.raises(FlowclasError, match=text):
        FlowCLASConfig(**options)
