"""A rendered frame as standard messages; the live camera and the simulated bag share them, as `messages` is shared."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowclas_ros.node.conversion import image_fields
from flowclas_ros.node.messages import Make
from flowclas_ros.training.scenes import SceneFrame
from flowclas_ros.training.scenes.stage import quaternion

WORLD, OPTICAL = "map", "camera_optical_frame"
# topics below the camera's and the ground truth's name, and their types
CAMERA_INFO, DEPTH, MASK, OBJECTS = "camera_info", "depth", "mask", "objects"


def images(frame: SceneFrame) -> dict[str, dict[str, Any]]:
    """The fields of sensor_msgs/Image but for the header: image_raw, depth (mm, 0 beyond 65 m), mask, objects."""
    millimetres = np.where(frame.depth < 65.0, frame.depth * 1000 + 0.5, 0).astype(np.uint16)
    return {
        "image_raw": image_fields(frame.image, "rgb8"),
        DEPTH: image_fields(millimetres, "16UC1"),
        MASK: image_fields(frame.mask, "mono8"),
        OBJECTS: image_fields(frame.objects, "mono16"),
    }


def camera_info(header: Any, frame: SceneFrame, make: Make) -> Any:
    """sensor_msgs/CameraInfo of an ideal pinhole camera."""
    k = frame.camera_matrix
    height, width = frame.mask.shape
    nothing = make("RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    return make(
        "CameraInfo",
        header=header,
        height=height,
        width=width,
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=k.ravel(),
        r=np.eye(3).ravel(),
        p=np.hstack([k, np.zeros((3, 1))]).ravel(),
        binning_x=0,
        binning_y=0,
        roi=nothing,
    )


def transforms(stamp: Any, frame: SceneFrame, make: Make) -> Any:
    """tf2_msgs/TFMessage: where the camera's optical frame is in the world."""
    pose = frame.camera_pose
    w, x, y, z = map(float, quaternion(pose[:3, :3]))
    at = make("Vector3", **dict(zip("xyz", map(float, pose[:3, 3]), strict=True)))
    turn = make("Transform", translation=at, rotation=make("Quaternion", x=x, y=y, z=z, w=w))
    header = make("Header", stamp=stamp, frame_id=WORLD)
    return make(
        "TFMessage", transforms=[make("TransformStamped", header=header, child_frame_id=OPTICAL, transform=turn)]
    )
