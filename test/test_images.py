"""Image and mask files: every kind gives a right result or one line that names the file and the way out."""

import json
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from flowclas_ros.detection import images
from flowclas_ros.errors import FlowclasError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (12, 17, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (12, 17, 3), dtype=np.uint16)


def deep_to_8_bit(values: np.ndarray) -> np.ndarray:
    return np.round(values / 257.0)


def test_colour_is_read_as_rgb(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    read = images.read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(read, RGB)
    assert read.flags.writeable
    assert read.flags.c_contiguous


def test_grey_becomes_three_equal_channels(tmp_path):
    Image.fromarray(RGB[..., 0]).save(tmp_path / "a.png")
    np.testing.assert_array_equal(images.read_image(tmp_path / "a.png"), np.stack([RGB[..., 0]] * 3, axis=-1))


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_grey_and_colour_are_scaled_by_the_full_range_and_not_clipped_or_truncated(tmp_path, suffix):
    cv2.imwrite(str(tmp_path / f"grey.{suffix}"), DEEP[..., 0])
    cv2.imwrite(str(tmp_path / f"colour.{suffix}"), DEEP[..., ::-1])
    np.testing.assert_array_equal(images.read_image(tmp_path / f"grey.{suffix}")[..., 1], deep_to_8_bit(DEEP[..., 0]))
    np.testing.assert_array_equal(images.read_image(tmp_path / f"colour.{suffix}"), deep_to_8_bit(DEEP))


def test_16_bit_colour_with_alpha_is_laid_over_black(tmp_path):
    alpha = np.zeros((12, 17, 1), np.uint16)
    alpha[:, 5:] = 65535
    cv2.imwrite(str(tmp_path / "a.png"), np.concatenate([DEEP[..., ::-1], alpha], axis=2))
    read = images.read_image(tmp_path / "a.png")
    assert (read[:, :5] == 0).all()
    np.testing.assert_array_equal(read[:, 5:], deep_to_8_bit(DEEP[:, 5:]))
    half = np.full((12, 17, 1), 32768, np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), np.concatenate([DEEP[..., ::-1], half], axis=2))
    np.testing.assert_allclose(images.read_image(tmp_path / "a.png"), DEEP / 257.0 / 2, atol=1)


def test_cmyk_is_converted_to_the_colours_it_stands_for(tmp_path):
    flat = np.zeros((16, 16, 3), np.uint8) + np.uint8([200, 30, 60])
    Image.fromarray(flat).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert np.abs(images.read_image(tmp_path / "a.jpg").astype(int) - flat).max() < 12


def test_alpha_and_palette_transparency_are_laid_over_black(tmp_path):
    alpha = np.full((12, 17, 1), 255, np.uint8)
    alpha[3:6] = 0
    Image.fromarray(np.concatenate([RGB, alpha], axis=2)).save(tmp_path / "rgba.png")
    expected = RGB.copy()
    expected[3:6] = 0
    np.testing.assert_array_equal(images.read_image(tmp_path / "rgba.png"), expected)
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putpixel((0, 0), 0)
    palette.save(tmp_path / "p.png", transparency=0)
    read = images.read_image(tmp_path / "p.png")
    assert tuple(read[0, 0]) == (0, 0, 0)
    assert tuple(read[1, 1]) == (0, 255, 0)


def test_the_exif_orientation_turns_the_image_upright(tmp_path):
    flat = np.zeros((16, 32, 3), np.uint8)
    flat[:, :16] = 255  # white left half
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that the picture must be turned clockwise
    Image.fromarray(flat).save(tmp_path / "a.jpg", exif=exif, quality=95)
    read = images.read_image(tmp_path / "a.jpg")
    assert read.shape == (32, 16, 3)
    assert read[:12].min() > 200
    assert read[20:].max() < 50


@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bit_colour_is_turned_upright_as_8_bits_are(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(deep_to_8_bit(DEEP).astype(np.uint8)).save(tmp_path / "8.png", exif=exif)
    cv2.imwrite(str(tmp_path / "16.png"), DEEP[..., ::-1])
    data = (tmp_path / "16.png").read_bytes()
    chunk = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "16.png").write_bytes(data[:33] + chunk + data[33:])  # behind the header
    upright = images.read_image(tmp_path / "16.png")
    np.testing.assert_array_equal(upright, images.read_image(tmp_path / "8.png"))
    assert upright.shape == ((12, 17, 3) if orientation < 5 else (17, 12, 3))


def photo(path: Path) -> bytes:
    Image.fromarray(RNG.integers(0, 256, (100, 100, 3), dtype=np.uint8)).save(path)
    return path.read_bytes()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff", "bmp"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: b"\0" * 100 + data[100:],
        lambda data: b"hello",
    ],
    ids=["truncated", "empty", "corrupt", "text"],
)
def test_a_damaged_file_is_one_line_with_its_name_and_the_way_out(tmp_path, suffix, damage):
    path = tmp_path / f"broken.{suffix}"
    path.write_bytes(damage(photo(path)))
    with pytest.raises(FlowclasError, match=rf"broken\.{suffix}.*replace it or take it out") as caught:
        images.read_image(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_16_bit_file_is_an_error_too(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), RNG.integers(0, 65536, (64, 64, 3), dtype=np.uint16))
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:9000])
    with pytest.raises(FlowclasError, match=r"a\.png is corrupt or truncated"):
        images.read_image(tmp_path / "a.png")


def test_missing_files_folders_and_floating_point_images_are_refused_by_name(tmp_path):
    with pytest.raises(FlowclasError, match=r"gone\.png does not exist"):
        images.read_image(tmp_path / "gone.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(FlowclasError, match=r"folder\.png cannot be read"):
        images.read_image(tmp_path / "folder.png")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "f.tiff")
    with pytest.raises(FlowclasError, match=r"f\.tiff holds floating-point"):
        images.read_image(tmp_path / "f.tiff")


@pytest.mark.parametrize("value", [65536, -1])
def test_a_value_that_16_bits_do_not_hold_is_refused_and_not_wrapped_round(tmp_path, value):
    Image.fromarray(np.int32([[0, value]])).save(tmp_path / "i.tiff")
    with pytest.raises(FlowclasError, match=r"i\.tiff holds 32-bit values"):
        images.read_image(tmp_path / "i.tiff")
    Image.fromarray(np.int32([[0, 65535]])).save(tmp_path / "i.tiff")
    np.testing.assert_array_equal(images.read_image(tmp_path / "i.tiff")[..., 0], [[0, 255]])


def test_a_picture_goes_through_jpeg_with_its_colours_where_they_were():
    flat = np.zeros((16, 16, 3), np.uint8) + np.uint8([200, 30, 60])
    assert np.abs(images.through_jpeg(flat, 90).astype(int) - flat).max() < 6
    noise = RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    far, near = (np.abs(images.through_jpeg(noise, quality).astype(int) - noise).mean() for quality in (10, 95))
    assert far > near


def test_the_size_in_the_header_is_width_and_height_and_unknown_for_what_is_no_image(tmp_path):
    photo(tmp_path / "a.png")
    Image.fromarray(RGB).save(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(b"hello")
    names = ("a.png", "b.png", "c.png", "gone.png")
    assert [images.size_in_header(tmp_path / name) for name in names] == [(100, 100), (17, 12), None, None]


def test_compressed_bytes_decode_like_the_file(tmp_path):
    data = photo(tmp_path / "a.png")
    np.testing.assert_array_equal(images.decode_image(data, "x"), images.read_image(tmp_path / "a.png"))
    with pytest.raises(FlowclasError, match="frame 7"):
        images.decode_image(data[:500], "frame 7")


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_a_mask_gives_its_labels_and_a_palette_its_indices(tmp_path, mode):
    labels = RNG.choice(np.uint8([0, 1, 255]), (6, 9))
    if mode == "P":
        image = Image.fromarray(labels)
        image.putpalette([7] * 768)
    else:
        image = Image.fromarray(labels.astype(np.uint16) if mode == "I;16" else labels)
    image.save(tmp_path / "m.png")
    read = images.read_mask(tmp_path / "m.png", size_of=np.zeros((6, 9, 3), np.uint8))
    np.testing.assert_array_equal(read, labels)
    assert read.dtype == np.uint8


def test_a_mask_of_other_values_channels_or_size_is_refused_with_what_it_holds(tmp_path):
    path = tmp_path / "m.png"
    Image.fromarray(np.uint8([[0, 1, 128]])).save(path)
    with pytest.raises(FlowclasError, match=r"m\.png holds value 128"):
        images.read_mask(path)
    Image.fromarray(RGB).save(path)
    with pytest.raises(FlowclasError, match=r"m\.png has mode RGB"):
        images.read_mask(path)
    Image.fromarray(np.zeros((5, 8), np.uint8)).save(path)
    with pytest.raises(FlowclasError, match=r"m\.png is 8x5 and a\.png is 9x6"):
        images.read_mask(path, size_of=np.zeros((6, 9, 3), np.uint8), image_name="a.png")
    with pytest.raises(FlowclasError, match=r"m\.png is 8x5 and its image is 9x5"):
        images.read_mask(path, size_of=np.zeros((5, 9, 3), np.uint8))


def test_a_folder_lists_its_images_in_order_without_hidden_and_other_files(tmp_path):
    folder = tmp_path / ".local" / "drive"  # a folder that is asked for may itself lie in a hidden one
    (folder / "taken_for.png").mkdir(parents=True)
    for name in ("b.JPG", "a.png", "sub/c.webp", ".hidden.png", ".thumbnails/a.png", "notes.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    assert [str(path.relative_to(folder)) for path in images.list_images(folder)] == ["a.png", "b.JPG", "sub/c.webp"]


def test_linked_folders_are_listed_and_what_they_share_once(tmp_path):
    """A folder of recordings is often one of links to them."""
    folder = tmp_path / "normal"
    for name in ("drive/a.png", "elsewhere/b.png", "normal/own/c.png", "normal/.kept/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    links = {"1": "../drive", "2": "../elsewhere", "again": "own", "e": ".kept", "own/up": "..", "gone": "../gone"}
    for name, target in links.items():
        (folder / name).symlink_to(target)
    listed = [str(path.relative_to(folder)) for path in images.list_images(folder)]
    assert listed == ["1/a.png", "2/b.png", "e/d.png", "own/c.png"]


def test_a_folder_without_images_or_that_is_not_there_is_an_error(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FlowclasError, match=r"holds no image.*\.png"):
        images.list_images(tmp_path)
    with pytest.raises(FlowclasError, match="does not exist"):
        images.list_images(tmp_path / "gone")


def test_written_files_read_back_exactly_and_leave_nothing_beside_them(tmp_path):
    score = RNG.normal(size=(9, 11)).astype(np.float32)
    images.write_tiff(tmp_path / "new" / "s.tiff", score)
    images.write_png(tmp_path / "new" / "c.png", RGB)
    images.write_png(tmp_path / "new" / "g.png", RGB[..., 0])
    rgba = np.dstack([RGB, RGB[..., 0]])
    images.write_png(tmp_path / "new" / "t.png", rgba)
    images.write_json(tmp_path / "new" / "j.json", {"a": 1.5})
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "s.tiff")), score)
    np.testing.assert_array_equal(images.read_image(tmp_path / "new" / "c.png"), RGB)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "g.png")), RGB[..., 0])
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "t.png")), rgba)
    assert json.loads((tmp_path / "new" / "j.json").read_text()) == {"a": 1.5}
    assert sorted(os.listdir(tmp_path / "new")) == ["c.png", "g.png", "j.json", "s.tiff", "t.png"]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_keeps_the_old_file_and_leaves_no_temporary_one(tmp_path, monkeypatch, failure):
    path = tmp_path / "a.json"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr("flowclas_ros.files.os.replace", fail)
    expected = FlowclasError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match=r"a\.json: No space left" if isinstance(failure, OSError) else None):
        images.write_json(path, {})
    assert os.listdir(tmp_path) == ["a.json"]
    assert path.read_text() == "old"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here to stand for a full disk")
def test_a_full_disk_is_one_line_naming_the_file(tmp_path, monkeypatch):
    def on_a_full_disk(path: Path, mode: str) -> object:
        path.touch()
        return open("/dev/full", mode)

    monkeypatch.setattr(images, "open", on_a_full_disk, raising=False)
    with pytest.raises(FlowclasError, match=r"cannot write .*a\.json: No space left on device"):
        images.write_json(tmp_path / "a.json", {})
    assert os.listdir(tmp_path) == []
