"""Depth images and CameraInfo as messages: read into what `detection.geometry` works with, and the latter rescaled.

Nothing here imports ROS: any object with the messages' fields will do, a replayed bag's as well.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from flowclas_ros.detection.geometry import Intrinsics, Located, locate, not_located
from flowclas_ros.detection.regions import Region
from flowclas_ros.errors import FlowclasError
from flowclas_ros.node.conversion import BrokenImageError, ImageLike, check_layout
from flowclas_ros.node.ros_messages import make

# REP 118: millimetres in 16UC1, metres in 32FC1; some drivers call the first mono16
DEPTH_ENCODINGS = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4"}


def depth_array(message: ImageLike) -> npt.NDArray[np.uint16] | npt.NDArray[np.float32]:
    """The depth in `message`, (h, w): uint16 millimetres or float32 metres, a view on its data where the byte order
    is this machine's. Raises BrokenImageError.
    """
    kind = DEPTH_ENCODINGS.get(message.encoding)
    if kind is None:
        raise BrokenImageError(
            f"depth encoding '{message.encoding}' is none of {', '.join(DEPTH_ENCODINGS)}: "
            "take the driver's depth topic, not its picture of it"
        )
    check_layout(message, int(kind[1]))
    order = ">" if message.is_bigendian else "<"
    shape, strides = (message.height, message.width), (message.step, int(kind[1]))
    depth: np.ndarray = np.ndarray(shape, order + kind, message.data, strides=strides)
    return depth.astype(kind, copy=False)


def intrinsics(info: Any) -> Intrinsics:
    """The pinhole of the image that `info`, a sensor_msgs/CameraInfo, comes with; its ROI and binning are applied.

    P is used, as depth_image_proc does, so the image must be the rectified one; K where P is empty. P's fourth column
    is not: it shifts into the other camera of a stereo pair, and the points are wanted in this one's frame.
    Raises FlowclasError for a camera that is not calibrated.
    """
    fx, fy, cx, cy = (info.p[0], info.p[5], info.p[2], info.p[6])
    if fx == 0 or fy == 0:
        fx, fy, cx, cy = (info.k[0], info.k[4], info.k[2], info.k[5])
    if not (fx > 0 and fy > 0 and math.isfinite(fx * fy * cx * cy)):
        raise FlowclasError(
            f"camera info holds no calibration (focal lengths {fx:g} and {fy:g} pixels): calibrate the camera"
        )
    x0, y0, width, height, across, down = window(info)
    return Intrinsics(
        fx=fx / across,
        fy=fy / down,
        cx=(cx - x0 + 0.5) / across - 0.5,
        cy=(cy - y0 + 0.5) / down - 0.5,
        width=width,
        height=height,
    )


def locate_hazards(
    mask: npt.NDArray[np.bool_],
    score: npt.NDArray[np.float32],
    regions: Sequence[Region],
    frame: Any,
) -> Located:
    """`locate` for a `depth_sync.SyncedFrame`. Whatever is wrong with its depth ends in the reason, none of it raises.

    Depth in another frame_id than the image's is used, as depth_image_proc does, and the remark says so.
    """
    if frame.depth is None or frame.camera_info is None:
        return not_located(regions, frame.reason or "no depth")
    try:
        located = locate(mask, score, regions, depth_array(frame.depth), intrinsics(frame.camera_info))
    except FlowclasError as error:
        return not_located(regions, str(error))
    seen, measured = frame.image.header.frame_id, frame.depth.header.frame_id
    if not located.reason and seen != measured:
        return replace(
            located,
            remark=f"depth is in frame '{measured}', the image in '{seen}': positions are off unless registered",
        )
    return located


def window(info: Any) -> tuple[int, int, int, int, int, int]:
    """What of the full image a CameraInfo's image is: offset x, y in full-resolution pixels, width and height as
    delivered, binning across and down.
    """
    across, down = max(int(info.binning_x), 1), max(int(info.binning_y), 1)
    roi = info.roi
    if roi.width == 0 or roi.height == 0:  # the message's way to say: everything
        return 0, 0, int(info.width) // across, int(info.height) // down, across, down
    return int(roi.x_offset), int(roi.y_offset), int(roi.width) // across, int(roi.height) // down, across, down


def rescaled_camera_info(info: Any, header: Any, width: int, height: int) -> Any:
    """`info`, a sensor_msgs/CameraInfo, for the same view published at another size (pixels), with the output's header.

    ROI and binning are worked into K and P, so that they describe the published pixels and nothing else is needed.
    Raises FlowclasError for a camera without calibration and for another aspect.
    """
    intrinsics(info).scaled_to(width, height)  # raises
    x0, y0, delivered_width, delivered_height, across, down = window(info)
    sx, sy = width / delivered_width / across, height / delivered_height / down
    scaled = copy.deepcopy(info)
    scaled.header, scaled.width, scaled.height = header, width, height
    scaled.binning_x, scaled.binning_y, scaled.roi = 0, 0, make("RegionOfInterest")
    k, p = list(info.k), list(info.p)
    for matrix, columns in ((k, 3), (p, 4)):
        if matrix[0]:  # all zero: not given
            matrix[0], matrix[columns + 1] = matrix[0] * sx, matrix[columns + 1] * sy
            matrix[2] = (matrix[2] - x0 + 0.5) * sx - 0.5
            matrix[columns + 2] = (matrix[columns + 2] - y0 + 0.5) * sy - 0.5
    p[3], p[7] = p[3] * sx, p[7] * sy  # -f * baseline of a stereo pair
    scaled.k, scaled.p = k, p
    return scaled
