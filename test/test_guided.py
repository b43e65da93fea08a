"""The guided filter: its formula window by window, edges, a coarser grid, and its place in the model."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flowclas_ros.model import BackboneConfig, FlowCLAS, FlowCLASConfig, FlowConfig
from flowclas_ros.model.guided import FLATNESS, along_edges, box_mean, guided_filter


def by_the_paper(score: np.ndarray, guide: np.ndarray, radius: int) -> np.ndarray:
    """He, Sun, Tang 2013, equations 14 to 16, one window after another: (H, W) and (H, W, 3) -> (H, W)."""
    height, width = score.shape
    slope, offset = np.zeros_like(guide), np.zeros_like(score)

    def window(y: int, x: int) -> tuple[slice, slice]:
        return slice(max(0, y - radius), y + radius + 1), slice(max(0, x - radius), x + radius + 1)

    for y in range(height):
        for x in range(width):
            p, i = score[window(y, x)].ravel(), guide[window(y, x)].reshape(-1, 3)
            covariance = np.cov(i.T, bias=True) + FLATNESS * np.eye(3)
            slope[y, x] = np.linalg.solve(covariance, (i * p[:, None]).mean(0) - i.mean(0) * p.mean())
            offset[y, x] = p.mean() - slope[y, x] @ i.mean(0)
    result = np.zeros_like(score)
    for y in range(height):
        for x in range(width):
            a, b = slope[window(y, x)].mean((0, 1)), offset[window(y, x)].mean()
            inside = score[window(y, x)]  # our own: held at the scores of the window
            result[y, x] = np.clip(a @ guide[y, x] + b, inside.min(), inside.max())
    return result


def maps(height: int = 17, width: int = 23) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    both = torch.rand(1, 4, height, width, generator=generator)
    return both[:, :1], both[:, 1:]


@pytest.mark.parametrize("radius", [1, 2, 3])
def test_it_is_the_papers_filter(radius):
    score, guide = maps()
    expected = by_the_paper(score[0, 0].double().numpy(), guide[0].double().movedim(0, -1).numpy(), radius)
    torch.testing.assert_close(
        guided_filter(score, guide, radius, 1)[0, 0].double(), torch.from_numpy(expected), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("radius", [2, 5, 9, 40])
def test_a_constant_score_stays_and_a_picture_without_edges_is_a_blur(radius):
    score, guide = maps(61, 83)
    constant = torch.full_like(score, 3.0)
    torch.testing.assert_close(guided_filter(constant, guide, radius, radius // 2), constant, atol=1e-4, rtol=0)
    blurred = guided_filter(score, torch.full_like(guide, 0.5), radius, radius // 2)
    assert blurred.std() < 0.5 * score.std()
    assert float(blurred.mean()) == pytest.approx(float(score.mean()), abs=0.03)


@pytest.mark.parametrize("radius", [4, 6, 9])
def test_a_score_that_spills_over_an_objects_edge_is_drawn_back_to_it(radius):
    guide = torch.tensor([0.5, 0.3, 0.4]).view(1, 3, 1, 1).repeat(1, 1, 60, 81)
    guide[:, 0, 20:41, 30:52], guide[:, 1, 20:41, 30:52] = 0.3, 0.5  # as bright; no multiple of the coarse grid
    inside = guide[:, 1:2] > 0.45
    score = box_mean(inside.float(), 9)
    ring = (box_mean(inside.float(), 5) > 0) & ~inside
    filtered = guided_filter(score, guide, radius, radius // 2)
    assert filtered[ring].mean() < 0.75 * score[ring].mean()
    assert filtered[inside].mean() > score[inside].mean()


def test_no_score_leaves_those_around_it():
    score = torch.zeros(1, 1, 40, 40)
    guide = torch.full((1, 3, 40, 40), 0.2)
    score[..., :20], guide[..., :20] = 1.0, 0.3  # a step that a brighter pixel would prolong far beyond 1
    guide[..., 10, 10] = 1.0
    filtered = guided_filter(score, guide, 4, 2)
    assert filtered.max() <= 1.0 and filtered.min() >= 0.0
    assert filtered[..., 18].min() > 0.8 and filtered[..., 21].max() < 0.2


def test_a_large_thing_becomes_whole_and_a_small_one_stays():
    guide = torch.full((1, 3, 120, 160), 0.3)
    guide[:, 0, 20:100, 40:120], guide[:, 1, 5:11, 5:11] = 0.7, 0.7
    large, small = guide[:, :1] > 0.5, guide[:, 1:2] > 0.5
    hollow = large & (box_mean(large.float(), 51) < 1)  # a backbone sees an object's edges
    score = hollow.float() + small.float()
    one, both = guided_filter(score, guide, 6, 3), along_edges(score, guide, 6)
    assert one[large].min() < 0.05 and both[large].min() > 0.25
    assert both[small].mean() > 0.8 and both[~large & ~small].mean() < 0.05


def test_the_cameras_noise_does_not_come_out_in_the_score():
    clean = torch.full((1, 3, 120, 160), 0.4)
    clean[:, 0, 20:100, 40:120] = 0.7
    score = box_mean((clean[:, :1] > 0.5).float(), 25)
    noisy = clean + 0.05 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))

    def stirred(edges):
        return float((edges(noisy) - edges(clean)).square().mean().sqrt())

    by_every_pixel = stirred(
        lambda guide: (guided_filter(score, guide, 8, 4) + guided_filter(score, guide, 24, 12)) / 2
    )
    assert stirred(lambda guide: along_edges(score, guide, 8)) < 0.6 * by_every_pixel


@pytest.mark.parametrize("contrast", [0.0, 0.02, 1.0])
def test_a_grey_picture_whose_colours_say_nothing_new_is_filtered_as_well_as_any(contrast):
    score, guide = maps(61, 83)
    grey = (0.5 + contrast * (guide[:, :1] - 0.5)).repeat(1, 3, 1, 1)  # a covariance of rank one
    expected = by_the_paper(score[0, 0].double().numpy(), grey[0].double().movedim(0, -1).numpy(), 3)
    filtered = guided_filter(score, grey, 3, 1)[0, 0].double()
    torch.testing.assert_close(filtered, torch.from_numpy(expected), atol=1e-3, rtol=0)


def test_a_models_score_is_filtered_at_the_images_size_and_for_each_image_by_itself():
    torch.manual_seed(0)
    backbone = BackboneConfig("mobilenetv2_100", "random", layers=(2, 3), stride=16)
    config = FlowCLASConfig(backbone, FlowConfig(1, whitening=False), projection_dim=0, short_side=96)
    plain, edged = FlowCLAS(config).eval(), FlowCLAS(replace(config, guided_radius=6.0)).eval()
    edged.load_state_dict(plain.state_dict())
    images = torch.rand(2, 3, 192, 256)
    with torch.no_grad():
        expected = along_edges(plain(images)[:, None], images, 12.0)[:, 0]  # twice the size
        torch.testing.assert_close(edged(images), expected)
        torch.testing.assert_close(edged(images[1:]), edged(images)[1:], atol=1e-4, rtol=1e-4)


def test_a_mirrored_models_score_is_the_mean_with_that_of_the_mirrored_image():
    torch.manual_seed(0)
    backbone = BackboneConfig("mobilenetv2_100", "random", layers=(2, 3), stride=16)
    config = FlowCLASConfig(backbone, FlowConfig(1, whitening=False), projection_dim=0)
    plain, both = FlowCLAS(config).eval(), FlowCLAS(replace(config, mirrored=True)).eval()
    both.load_state_dict(plain.state_dict())
    images = torch.rand(1, 3, 96, 150)  # 150 is no multiple of a cell
    with torch.no_grad():
        score = both(images)
        torch.testing.assert_close(score, (plain(images) + plain(images.flip(-1)).flip(-1)) / 2)
        torch.testing.assert_close(both(images.flip(-1)), score.flip(-1))
