"""Depth images and CameraInfo as drivers send them, down to hazards in metres; nothing wrong with depth raises."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from test_geometry import CAMERA, HEIGHT, WIDTH, assert_at, scene

from flowclas_ros.errors import FlowclasError
from flowclas_ros.node.depth_image import depth_array, intrinsics, locate_hazards


def depth_message(depth, encoding, big=False, padding=0, frame_id="camera"):
    kind = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4"}.get(encoding, "u1")
    pixels = depth.astype((">" if big else "<") + kind)
    rows = np.zeros((depth.shape[0], depth.shape[1] * pixels.itemsize + padding), np.uint8)
    rows[:, : rows.shape[1] - padding or None] = np.ascontiguousarray(pixels).view(np.uint8)
    return SimpleNamespace(
        header=SimpleNamespace(frame_id=frame_id),
        height=depth.shape[0],
        width=depth.shape[1],
        encoding=encoding,
        is_bigendian=int(big),
        step=rows.shape[1],
        data=rows.tobytes(),
    )


def info(camera=CAMERA, use_p=True, roi=(0, 0, 0, 0), binning=(0, 0), tx=0.0):
    k = [camera.fx, 0, camera.cx, 0, camera.fy, camera.cy, 0, 0, 1]
    p = [camera.fx, 0, camera.cx, tx, 0, camera.fy, camera.cy, 0, 0, 0, 1, 0]
    return SimpleNamespace(
        width=camera.width,
        height=camera.height,
        k=[2 * value for value in k] if use_p else k,  # of the raw image, so another
        p=p if use_p else [0.0] * 12,
        binning_x=binning[0],
        binning_y=binning[1],
        roi=SimpleNamespace(x_offset=roi[0], y_offset=roi[1], width=roi[2], height=roi[3]),
    )


def frame(depth, camera_info=None, reason="", frame_id="camera"):
    return SimpleNamespace(
        image=SimpleNamespace(header=SimpleNamespace(frame_id=frame_id)),
        depth=depth,
        camera_info=camera_info,
        reason=reason,
    )


@pytest.mark.parametrize("big", [False, True], ids=["little", "big"])
@pytest.mark.parametrize("encoding", ["16UC1", "mono16", "32FC1"])
def test_every_depth_encoding_gives_the_pose(encoding, big):
    mask, score, regions, depth = scene()
    message = depth_message(depth if encoding == "32FC1" else depth * 1000, encoding, big, padding=8)
    located = locate_hazards(mask, score, regions, frame(message, info()))
    assert located.reason == ""
    assert_at(located.locations[0], depth_step=1e-3)


def test_native_depth_is_a_view():
    message = depth_message(np.ones((4, 6)), "32FC1")
    message.data = bytearray(message.data)
    assert np.shares_memory(depth_array(message), np.frombuffer(message.data, np.uint8))


def test_p_goes_before_k_and_k_stands_in():
    for use_p in (True, False):
        found = intrinsics(info(use_p=use_p, tx=-70.0))
        assert (found.fx, found.fy) == (CAMERA.fx, CAMERA.fy)
        assert (found.cx, found.cy) == pytest.approx((CAMERA.cx, CAMERA.cy))


def test_roi_and_binning_are_applied():
    """The info of the full camera with an ROI and binning describes the delivered window: the pose stays."""
    full = CAMERA.scaled_to(4 * WIDTH, 4 * HEIGHT)
    window = intrinsics(info(full, roi=(128, 64, 1024, 768), binning=(4, 4)))
    assert (window.width, window.height) == (256, 192)
    mask, score, regions, depth = (
        array[16:208, 32:288] if isinstance(array, np.ndarray) else array for array in scene()
    )
    from flowclas_ros.detection.regions import find_regions

    mask = np.ascontiguousarray(mask)
    regions = find_regions(mask, score, 1)
    message = depth_message(depth, "32FC1")
    located = locate_hazards(mask, score, regions, frame(message, info(full, roi=(128, 64, 1024, 768), binning=(4, 4))))
    assert_at(located.locations[0])


def test_binning_alone_and_one_that_differs_across_and_down_are_applied():
    full = CAMERA.scaled_to(4 * WIDTH, 4 * HEIGHT)
    x, y = 700.0, 300.0  # of the full picture
    for roi, size in ((0, 0, 0, 0), (320, 480)), ((64, 32, 1024, 768), (256, 384)):
        found = intrinsics(info(full, roi=roi, binning=(4, 2)))
        assert (found.width, found.height) == size
        assert (found.fx, found.fy) == (full.fx / 4, full.fy / 2)
        seen = found.cx + found.fx * (x - full.cx) / full.fx, found.cy + found.fy * (y - full.cy) / full.fy
        assert (seen[0] + 0.5) * 4 == pytest.approx(x - roi[0] + 0.5)  # edges lie at -0.5
        assert (seen[1] + 0.5) * 2 == pytest.approx(y - roi[1] + 0.5)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (lambda d: frame(None, None, "no depth yet"), "no depth yet"),
        (lambda d: frame(depth_message(d, "32FC1"), None, "no camera info yet"), "no camera info yet"),
        (lambda d: frame(depth_message(np.full_like(d, np.nan), "32FC1"), info()), "no valid pixel"),
        (lambda d: frame(depth_message(d[:, :200], "32FC1"), info()), "differ in aspect"),
        (lambda d: frame(depth_message(d, "rgb8"), info()), "depth encoding 'rgb8'"),
        (lambda d: frame(cut(depth_message(d, "32FC1")), info()), "check the camera driver"),
        (lambda d: frame(depth_message(d, "32FC1"), uncalibrated()), "no calibration"),
        (lambda d: frame(depth_message(d, "32FC1"), info(CAMERA.scaled_to(640, 480), roi=(0, 0, 9, 480))), "aspect"),
        (
            lambda d: frame(depth_message(d, "32FC1"), info(binning=(500, 1))),
            "camera info of 0x240 pixels cannot serve",
        ),
    ],
)
def test_whatever_is_wrong_with_depth_ends_in_a_reason(made, text):
    mask, score, regions, depth = scene()
    located = locate_hazards(mask, score, regions, made(depth))
    assert located.locations == [None] and text in located.reason


def test_depth_in_another_frame_is_used_and_named():
    mask, score, regions, depth = scene()
    located = locate_hazards(mask, score, regions, frame(depth_message(depth, "32FC1", frame_id="ir"), info()))
    assert_at(located.locations[0])
    assert "depth is in frame 'ir', the image in 'camera'" in located.remark
    assert not located.reason, "which would withhold the cloud"


@pytest.mark.parametrize(
    "values", [{}, {0: 300.0}, {0: 300.0, 4: -300.0}, {0: 300.0, 4: 300.0, 2: np.nan}, {0: np.inf, 4: 300.0}]
)
def test_an_uncalibrated_camera_is_refused_with_the_way_out(values):
    blank = uncalibrated()
    for index, value in values.items():
        blank.k[index] = value
    with pytest.raises(FlowclasError, match="calibrate the camera"):
        intrinsics(blank)


def test_a_projection_of_which_half_is_missing_does_not_stand_before_k():
    half = info(use_p=False)
    half.p[0] = 300.0
    assert (intrinsics(half).fx, intrinsics(half).fy) == (CAMERA.fx, CAMERA.fy)


def cut(message):
    message.data = message.data[:-1]
    return message


def uncalibrated():
    blank = info()
    blank.k, blank.p = [0.0] * 9, [0.0] * 12
    return blank
