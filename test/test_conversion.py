"""Image messages to pictures and back: every plain encoding, whatever its step and byte order; bad ones refused."""

import importlib.util
import io
import sys
from array import array
from types import SimpleNamespace

import numpy as np
import pytest

from flowclas_ros.node.conversion import OPENCV_ENCODINGS, BrokenImageError, decode, to_message, to_rgb

HEIGHT, WIDTH = 5, 7


def message(pixels, encoding, padding=0, bigendian=False):
    """An Image-like of `pixels` (H, W[, C]) with `padding` bytes of noise behind every row."""
    pixels = pixels.astype(pixels.dtype.newbyteorder(">" if bigendian else "<"))
    rows = np.frombuffer(pixels.tobytes(), np.uint8).reshape(pixels.shape[0], -1)
    rows = np.hstack([rows, np.full((len(rows), padding), 0xA5, np.uint8)])
    return SimpleNamespace(
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=int(bigendian),
        step=rows.shape[1],
        data=array("B", rows.tobytes()),
    )


def colour():
    return np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def with_alpha(pixels):
    return np.concatenate([pixels, np.full((HEIGHT, WIDTH, 1), 7, np.uint8)], axis=2)


def encoded(encoding, rgb):
    """`rgb`, or its first channel as grey, in the encoding's own layout."""
    grey = rgb[..., 0]
    return {
        "rgb8": rgb,
        "bgr8": rgb[..., ::-1],
        "rgba8": with_alpha(rgb),
        "bgra8": with_alpha(rgb[..., ::-1]),
        "mono8": grey,
        "mono16": grey.astype(np.uint16) * 257,
        "16UC1": grey.astype(np.uint16) * 257,
        "32FC1": grey.astype(np.float32) / 255,
    }[encoding]


@pytest.mark.parametrize("bigendian", [False, True])
@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "mono8", "mono16", "16UC1", "32FC1"])
def test_every_plain_encoding_gives_the_picture(encoding, padding, bigendian):
    rgb = colour()
    expected = rgb if encoding in ("rgb8", "bgr8", "rgba8", "bgra8") else np.repeat(rgb[..., :1], 3, axis=2)
    result = to_rgb(message(encoded(encoding, rgb), encoding, padding, bigendian))
    assert result.dtype == np.uint8 and result.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "mono8", "mono16", "16UC1"])
def test_eight_and_sixteen_bit_pictures_are_views_on_the_message(encoding):
    frame = message(encoded(encoding, colour()), encoding, padding=2)
    assert np.shares_memory(to_rgb(frame), np.frombuffer(frame.data, np.uint8))


def test_float_grey_is_clipped_and_nan_is_black():
    values = np.array([[-1.0, 0.0, 0.5, 1.0, 9.0, np.nan, np.inf]], np.float32)
    np.testing.assert_array_equal(to_rgb(message(values, "32FC1"))[0, :, 0], [0, 0, 128, 255, 255, 0, 255])


@pytest.mark.parametrize(
    "change, words",
    [
        ({"data": array("B", bytes(HEIGHT * WIDTH * 3 - 1))}, "104 bytes where step 21 * height 5 needs 105"),
        ({"height": 0}, "7x0 pixels is empty"),
        ({"width": 0}, "0x5 pixels is empty"),
        ({"step": WIDTH * 3 - 1}, "step 20 is shorter than a row"),
        ({"data": array("B")}, "0 bytes"),
    ],
)
def test_a_message_that_contradicts_itself_is_refused(change, words):
    frame = message(colour(), "rgb8")
    vars(frame).update(change)
    with pytest.raises(BrokenImageError, match=words.replace("*", r"\*")):
        to_rgb(frame)


@pytest.mark.parametrize("encoding", ["bayer_rggb8", "bayer_bggr16", "uyvy"])
def test_bayer_and_yuv_that_contradict_themselves_are_refused(encoding):
    for change in ({"data": b"short"}, {"step": WIDTH}):
        frame = message(raw_picture(encoding), encoding)
        vars(frame).update(change)
        with pytest.raises(BrokenImageError, match="check the camera driver"):
            to_rgb(frame)


def test_compressed_pictures_are_rgb_and_what_is_none_is_refused():
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(colour()).save(buffer, "PNG")
    frame = SimpleNamespace(format="rgb8; png compressed bgr8", data=array("B", buffer.getvalue()))
    np.testing.assert_array_equal(decode(frame), colour())
    frame.data = frame.data[: len(frame.data) // 2]
    with pytest.raises(BrokenImageError, match="compressed image of format 'rgb8; png"):
        decode(frame)
    depth = SimpleNamespace(format="16UC1; compressedDepth png", data=array("B", buffer.getvalue()))
    with pytest.raises(BrokenImageError, match="is depth, not a picture"):
        decode(depth)


def test_a_mosaic_that_was_compressed_as_png_gets_its_colours():
    from PIL import Image

    mosaic = np.zeros((8, 8), np.uint8)
    mosaic[::2, ::2], mosaic[1::2, 1::2], mosaic[::2, 1::2], mosaic[1::2, ::2] = 200, 60, 20, 20  # red, blue, green
    buffer = io.BytesIO()
    Image.fromarray(mosaic).save(buffer, "PNG")
    frame = SimpleNamespace(format="bayer_rggb8; png compressed ", data=array("B", buffer.getvalue()))
    assert decode(frame)[4, 4].tolist() == [200, 20, 60]
    frame.format = "bayer_rggb8; png compressed mono8"
    assert decode(frame)[4, 4].tolist() == [200, 200, 200]


@pytest.mark.skipif(importlib.util.find_spec("cv_bridge") is not None, reason="cv_bridge is installed here")
def test_another_encoding_names_cv_bridge_when_it_is_absent():
    frame = message(np.zeros((4, 4, 3), np.uint16), "rgb16")
    with pytest.raises(BrokenImageError) as caught:
        to_rgb(frame)
    assert str(caught.value) == "encoding 'rgb16' needs cv_bridge (apt install ros-$ROS_DISTRO-cv-bridge)"


@pytest.mark.skipif(importlib.util.find_spec("cv_bridge") is None, reason="cv_bridge is not installed")
def test_another_encoding_goes_through_cv_bridge():
    rgb = colour()
    np.testing.assert_allclose(to_rgb(message(rgb.astype(np.uint16) * 257, "bgr16")), rgb[..., ::-1], atol=1)


@pytest.mark.skipif(importlib.util.find_spec("cv_bridge") is None, reason="cv_bridge is not installed")
@pytest.mark.parametrize("encoding", [name for name in OPENCV_ENCODINGS if name.endswith("8") or "yuv422" in name])
def test_bayer_and_yuv_are_what_cv_bridge_makes_of_them(encoding):
    from cv_bridge import CvBridge
    from sensor_msgs.msg import Image

    frame = message(raw_picture(encoding), encoding)
    as_ros = Image(**{name: value for name, value in vars(frame).items()})
    np.testing.assert_array_equal(to_rgb(frame), CvBridge().imgmsg_to_cv2(as_ros, "rgb8"))


def raw_picture(encoding):
    """Any bytes are a picture in Bayer and YUV encodings. The width is even, which YUV wants."""
    raw = np.random.default_rng(2).integers(0, 256, (HEIGHT + 1, WIDTH + 1, 2), dtype=np.uint8)
    if encoding.startswith("bayer"):
        return raw[..., 0].astype(np.uint16) * 256 + raw[..., 1] if encoding.endswith("16") else raw[..., 0]
    return raw


@pytest.mark.parametrize("bigendian", [False, True])
@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("encoding", OPENCV_ENCODINGS)
def test_bayer_and_yuv_give_the_picture(encoding, padding, bigendian):
    import cv2

    raw = raw_picture(encoding)
    code = {
        "bayer_rggb": "COLOR_BayerRGGB2RGB",
        "bayer_bggr": "COLOR_BayerBGGR2RGB",
        "bayer_gbrg": "COLOR_BayerGBRG2RGB",
        "bayer_grbg": "COLOR_BayerGRBG2RGB",
        "yuv422": "COLOR_YUV2RGB_UYVY",
        "uyvy": "COLOR_YUV2RGB_UYVY",
        "yuv422_yuy2": "COLOR_YUV2RGB_YUYV",
        "yuyv": "COLOR_YUV2RGB_YUYV",
    }[encoding.removesuffix("16").removesuffix("8")]
    eight_bit = (raw >> 8).astype(np.uint8) if encoding.endswith("16") else raw
    result = to_rgb(message(raw, encoding, padding, bigendian))
    np.testing.assert_array_equal(result, cv2.cvtColor(np.ascontiguousarray(eight_bit), getattr(cv2, code)))


def test_a_bayer_pixel_lies_where_its_pattern_says():
    red = np.zeros((6, 8), np.uint8)
    red[::2, ::2] = 200  # rggb: the first pixel of every other row
    inside = to_rgb(message(red, "bayer_rggb8"))[2:-2, 2:-2]
    np.testing.assert_array_equal(np.unique(inside[..., 0]), [200])
    assert not inside[..., 1:].any()


def test_yuv_of_an_odd_width_is_refused():
    with pytest.raises(BrokenImageError, match="image of 7x5 pixels cannot be 'yuyv'"):
        to_rgb(message(np.zeros((HEIGHT, WIDTH, 2), np.uint8), "yuyv"))


@pytest.mark.parametrize(
    "encoding, pixels",
    [
        ("mono8", colour()[..., 0]),
        ("32FC1", np.linspace(-3, 900, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)),
        ("bgr8", colour()[..., ::-1]),
    ],
)
def test_a_picture_becomes_a_message_that_carries_the_header(encoding, pixels):
    pytest.importorskip("sensor_msgs", reason="needs ROS 2's sensor_msgs")
    from std_msgs.msg import Header

    header = Header(frame_id="left")
    header.stamp.sec, header.stamp.nanosec = 12, 34
    result = to_message(pixels, encoding, header)
    assert result.header == header and result.encoding == encoding
    assert (result.height, result.width, result.step) == (HEIGHT, WIDTH, pixels.itemsize * pixels[0].size)
    assert result.is_bigendian == (sys.byteorder == "big")
    back = np.frombuffer(result.data, pixels.dtype).reshape(pixels.shape)
    np.testing.assert_array_equal(back, pixels)


def test_a_picture_of_the_wrong_type_does_not_become_a_message():
    pytest.importorskip("sensor_msgs", reason="needs ROS 2's sensor_msgs")
    from std_msgs.msg import Header

    with pytest.raises(ValueError, match="32FC1 cannot carry float64"):
        to_message(np.zeros((2, 2)), "32FC1", Header())
