"""sensor_msgs/Image to and from NumPy, without a copy where the layout allows it.

Nothing here imports ROS for the way in: any object with the fields of a sensor_msgs/Image will do, so that a replayed
bag (rosbags' own message classes) and a live robot go through the same lines.
"""

from __future__ import annotations

import sys
from typing import Any, Protocol

import numpy as np

from flowclas_ros.errors import FlowclasError
from flowclas_ros.node.ros_messages import make

# bytes a pixel of the encodings that are read where they lie
PLAIN_ENCODINGS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "mono16": 2, "16UC1": 2, "32FC1": 4}

# What else a camera driver sends: bytes a pixel, and OpenCV's conversion to RGB. Its names for the Bayer patterns begin
# at the second pixel of the second row, and those that begin at the first came with 4.5.5 only, so BG is ROS's rggb.
_BAYER = {"rggb": "BG", "bggr": "RG", "gbrg": "GR", "grbg": "GB"}
OPENCV_ENCODINGS = {
    **{f"bayer_{ros}8": (1, f"COLOR_Bayer{theirs}2RGB") for ros, theirs in _BAYER.items()},
    **{f"bayer_{ros}16": (2, f"COLOR_Bayer{theirs}2RGB") for ros, theirs in _BAYER.items()},
    **dict.fromkeys(("yuv422", "uyvy"), (2, "COLOR_YUV2RGB_UYVY")),
    **dict.fromkeys(("yuv422_yuy2", "yuyv"), (2, "COLOR_YUV2RGB_YUY2")),
}
_OUTPUT_DTYPES = {
    **{name: np.dtype(np.uint8) for name in ("mono8", "rgb8", "bgr8")},
    **{name: np.dtype(np.uint16) for name in ("mono16", "16UC1")},
    "32FC1": np.dtype(np.float32),
}


class ImageLike(Protocol):
    """The fields of a sensor_msgs/Image that the conversion reads."""

    height: int
    width: int
    encoding: str
    is_bigendian: Any
    step: int
    data: Any


class BrokenImageError(FlowclasError):
    """A message whose fields contradict each other, or whose encoding cannot be read here."""


def to_rgb(message: ImageLike) -> np.ndarray:
    """The picture in `message` as (H, W, 3) uint8 RGB: a view on its data for PLAIN_ENCODINGS but 32FC1.

    The view may be read-only, padded, or have negative or zero strides (bgr8, mono8): make it contiguous before it is
    handed to torch. 16-bit pixels (mono16, 16UC1, bayer_..16) are read as their high byte: full scale is 65535, fixed,
    because a stretch fitted to each frame would make the score of one place depend on what else is in the picture. A
    camera that fills only 10, 12 or 14 of the bits must be shifted up by its driver. 32FC1 is grey in 0..1, clipped;
    NaN is black. Bayer and YUV 4:2:2 are converted by OpenCV, every other encoding by cv_bridge.

    Raises BrokenImageError.
    """
    if message.encoding in OPENCV_ENCODINGS:
        return _through_opencv(message)
    if message.encoding not in PLAIN_ENCODINGS:
        return _through_cv_bridge(message)
    check_layout(message, PLAIN_ENCODINGS[message.encoding])
    data, height, width, step = message.data, message.height, message.width, message.step
    if message.encoding in ("rgb8", "rgba8", "bgr8", "bgra8"):
        pixel = PLAIN_ENCODINGS[message.encoding]
        pixels: np.ndarray = np.ndarray((height, width, pixel), np.uint8, data, strides=(step, pixel, 1))
        return pixels[..., :3] if message.encoding.startswith("rgb") else pixels[..., 2::-1]
    if message.encoding == "mono8":
        grey: np.ndarray = np.ndarray((height, width), np.uint8, data, strides=(step, 1))
    elif message.encoding == "32FC1":
        grey = _grey_of_float(
            np.ndarray((height, width), ">f4" if message.is_bigendian else "<f4", data, strides=(step, 4))
        )
    else:
        grey = _high_bytes(message)
    return np.broadcast_to(grey[..., None], (height, width, 3))


def decode(message: Any) -> np.ndarray:
    """The picture in a sensor_msgs/CompressedImage (JPEG or PNG) as (H, W, 3) uint8 RGB. Raises BrokenImageError.

    Truncated data is refused, where OpenCV's decoder would fill the rest with grey and call it a picture.
    """
    from flowclas_ros.detection.images import decode_image  # Pillow and OpenCV, for those who need them alone

    if "compressedDepth" in message.format:
        raise BrokenImageError(f"format '{message.format}' is depth, not a picture: check the image topic")
    try:
        picture = decode_image(bytes(message.data), f"of format '{message.format}'")
    except FlowclasError as error:
        raise BrokenImageError(f"compressed {error}") from error
    encoding, _, compression = (part.strip() for part in message.format.partition(";"))
    if encoding.startswith("bayer_") and encoding in OPENCV_ENCODINGS and compression == "png compressed":
        # image_transport leaves it a mosaic
        return _colours(np.ascontiguousarray(picture[..., 0]), OPENCV_ENCODINGS[encoding][1], f"'{encoding}'")
    return picture


def to_picture(message: Any) -> np.ndarray:
    """The picture in a sensor_msgs/Image or CompressedImage as (H, W, 3) uint8 RGB. Raises BrokenImageError."""
    return to_rgb(message) if hasattr(message, "encoding") else decode(message)


def header_ns(message: Any) -> int:
    """Nanoseconds of a message's header stamp, 0 for none."""
    return int(message.header.stamp.sec) * 10**9 + int(message.header.stamp.nanosec)


def check_layout(message: ImageLike, bytes_per_pixel: int) -> None:
    """Raise BrokenImageError when size, step and data of `message` cannot all be true."""
    height, width, step, size = message.height, message.width, message.step, len(message.data)
    if height == 0 or width == 0:
        raise BrokenImageError(f"image of {width}x{height} pixels is empty: check the camera driver")
    if step < width * bytes_per_pixel:
        raise BrokenImageError(
            f"image step {step} is shorter than a row: {width} pixels of '{message.encoding}' take "
            f"{width * bytes_per_pixel} bytes: check the camera driver"
        )
    if size < step * height:
        raise BrokenImageError(
            f"image data has {size} bytes where step {step} * height {height} needs {step * height}: "
            "check the camera driver"
        )


def image_fields(pixels: np.ndarray, encoding: str) -> dict[str, Any]:
    """A sensor_msgs/Image of `pixels` ((H, W, 3) for rgb8 and bgr8, else (H, W)) but for its header.

    data: (bytes,) uint8, a view where the layout allows it. Raises ValueError for pixels of another type.
    """
    if pixels.dtype != _OUTPUT_DTYPES[encoding] or pixels.ndim != (3 if encoding in ("rgb8", "bgr8") else 2):
        raise ValueError(f"{encoding} cannot carry {pixels.dtype} of shape {pixels.shape}")
    contiguous = np.ascontiguousarray(pixels)
    return {
        "height": contiguous.shape[0],
        "width": contiguous.shape[1],
        "encoding": encoding,
        "is_bigendian": int(sys.byteorder == "big"),
        "step": contiguous.strides[0],
        "data": contiguous.reshape(-1).view(np.uint8),
    }


def to_message(pixels: np.ndarray, encoding: str, header: Any) -> Any:
    """A sensor_msgs/Image of `pixels` ((H, W, 3) for rgb8 and bgr8, else (H, W)) that carries `header`."""
    return make("Image", header=header, **image_fields(pixels, encoding))


def _grey_of_float(values: np.ndarray) -> np.ndarray:
    """(H, W) float in 0..1, NaN black, to (H, W) uint8, rounded."""
    scaled = np.nan_to_num(values.astype(np.float32) * np.float32(255), nan=0.0, posinf=255.0, neginf=0.0)
    return np.rint(scaled.clip(0, 255)).astype(np.uint8)


def _high_bytes(message: ImageLike) -> np.ndarray:
    """(H, W) uint8 of 16-bit pixels: the high byte stands first when big-endian, second otherwise."""
    shape, first = (message.height, message.width), 0 if message.is_bigendian else 1
    return np.ndarray(shape, np.uint8, message.data, offset=first, strides=(message.step, 2))


def _through_opencv(message: ImageLike) -> np.ndarray:
    """Bayer and YUV 4:2:2, whose two bytes a pixel are Y and, by turns, U and V."""
    size, conversion = OPENCV_ENCODINGS[message.encoding]
    check_layout(message, size)
    height, width, step = message.height, message.width, message.step
    if not message.encoding.startswith("bayer"):
        raw: np.ndarray = np.ndarray((height, width, 2), np.uint8, message.data, strides=(step, 2, 1))
    elif size == 2:
        raw = _high_bytes(message)
    else:
        raw = np.ndarray((height, width), np.uint8, message.data, strides=(step, 1))
    return _colours(np.ascontiguousarray(raw), conversion, f"'{message.encoding}'")


def _colours(raw: np.ndarray, conversion: str, encoding: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB by OpenCV. Raises BrokenImageError."""
    import cv2  # here, for those who need it alone

    try:
        return np.asarray(cv2.cvtColor(raw, getattr(cv2, conversion)), np.uint8)
    except cv2.error as error:
        raise BrokenImageError(
            f"image of {raw.shape[1]}x{raw.shape[0]} pixels cannot be {encoding} ({error.err}): check the camera driver"
        ) from error


def _through_cv_bridge(message: ImageLike) -> np.ndarray:
    """The rest, rgb16 for instance. cv_bridge's compiled part breaks under NumPy 2: imported only when needed."""
    try:
        from cv_bridge import CvBridge
    except ImportError as error:
        if getattr(error, "name", None) == "cv_bridge":
            raise BrokenImageError(
                f"encoding '{message.encoding}' needs cv_bridge (apt install ros-$ROS_DISTRO-cv-bridge)"
            ) from None
        raise BrokenImageError(
            f"encoding '{message.encoding}' needs cv_bridge, which is installed but does not load "
            f"({error}): NumPy below 2 may be what it wants"
        ) from error
    check_layout(message, 1)
    try:
        return np.asarray(CvBridge().imgmsg_to_cv2(message, "rgb8"))
    except Exception as error:  # cv_bridge raises CvBridgeError, KeyError, AttributeError and cv2.error alike
        raise BrokenImageError(
            f"encoding '{message.encoding}' is not one that cv_bridge turns into rgb8: {error}"
        ) from error
