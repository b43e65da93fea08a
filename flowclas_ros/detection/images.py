"""Image and mask files in, result files out: every format as 8-bit RGB or labels, every file whole or not there."""

from __future__ import annotations

import io
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from flowclas_ros.errors import FlowclasError
from flowclas_ros.files import replacing

# Pillow rather than OpenCV reads: OpenCV fills the missing part of a truncated JPEG with grey and reports success.
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}

RGB = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.uint8]


def read_image(path: str | Path) -> RGB:
    """Read any image file as (H,W,3) uint8 RGB, upright.

    Grey becomes three equal channels; 16 bits are scaled by the full range (value / 257), the same for every file, so
    that brightness stays comparable; CMYK is converted; an alpha channel is laid over black, as padding is; the EXIF
    orientation is applied. Raises FlowclasError naming the file when it is missing, empty, corrupt or truncated, or
    holds floating-point values, whose range nobody knows.
    """
    path = Path(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns on odd metadata and on large images; neither is a failure
        deep = _read_deep_colour(path)
        if deep is not None:
            return deep
        return _to_rgb(ImageOps.exif_transpose(_load(path)), path)


def read_mask(path: str | Path, *, size_of: RGB | None = None, image_name: str = "its image") -> Mask:
    """Read a label file as (H,W) uint8: 0 normal, 1 anomaly, 255 ignore; a palette file by its indices.

    size_of: the image that the mask belongs to, for comparing sizes. Raises FlowclasError naming the file when it
    cannot be read, has several channels, holds another value, or has another size than its image.
    """
    labels = read_labels(path, size_of=size_of, image_name=image_name)
    known = (labels == 0) | (labels == 1) | (labels == 255)
    if not known.all():
        value = labels[~known].flat[0]
        raise FlowclasError(
            f"mask {path} holds value {value}: use 0 for normal, 1 for anomaly and 255 for ignored pixels only"
        )
    return labels.astype(np.uint8)


def read_labels(
    path: str | Path, *, size_of: RGB | None = None, image_name: str = "its image"
) -> npt.NDArray[np.integer | np.bool_]:
    """Read a file of ids as (H,W), whatever they mean; a palette file by its indices.

    size_of: the image that the ids belong to. Raises FlowclasError as `read_mask` does, but for no value.
    """
    path = Path(path)
    loaded = _load(path)
    if loaded.mode not in ("1", "L", "P", "I", "I;16", "I;16B", "I;16L"):
        raise FlowclasError(
            f"mask {path} has mode {loaded.mode}: save it as one channel of 0 (normal), 1, 255 (ignore)"
        )
    labels = np.asarray(loaded)
    if size_of is not None and labels.shape != size_of.shape[:2]:
        mask_size, size = (f"{shape[1]}x{shape[0]}" for shape in (labels.shape, size_of.shape))
        raise FlowclasError(
            f"mask {path} is {mask_size} and {image_name} is {size}: masks must have the size of their images"
        )
    return labels


def size_in_header(path: Path) -> tuple[int, int] | None:
    """Width and height of an image file as it is stored, without reading the pixels; None where that cannot be told."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as picture:
                return picture.size
    except Exception:  # of many types, as in _load; whoever reads the pixels says what is wrong
        return None


def list_images(folder: str | Path) -> list[Path]:
    """Image files of a folder and its sub-folders, linked ones too, by suffix, in the order of their paths; hidden ones
    left out.

    Raises FlowclasError when there is no such folder or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FlowclasError(f"image folder {folder} does not exist: give a folder that holds images")
    found = sorted(
        path
        for path in files_below(folder)
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        raise FlowclasError(
            f"image folder {folder} holds no image: it needs files ending in {', '.join(sorted(SUFFIXES))}"
        )
    return found


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below a folder, hidden folders left out; also below folders that are linked into it, which ``rglob``
    leaves out. What is reached on several ways comes once.
    """
    seen: set[str] = set()
    tops = [str(folder)]
    while tops:
        for parent, folders, names in os.walk(tops.pop(0)):
            real = os.path.realpath(parent)
            folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
            if real not in seen:
                seen.add(real)
                tops += [path for path in (os.path.join(parent, name) for name in folders) if os.path.islink(path)]
                yield from (Path(parent, name) for name in names)


def decode_image(data: bytes, name: str) -> RGB:
    """Decode a compressed image held in memory to (H,W,3) uint8 RGB. Raises FlowclasError naming `name`."""
    return _to_rgb(_load(io.BytesIO(data), name), name)


def through_jpeg(image: RGB, quality: int) -> RGB:
    """(H,W,3) uint8 RGB as it comes out of JPEG at a quality from 1 to 100."""
    data = _encode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return decode_image(data, "JPEG")


def write_png(path: str | Path, image: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> None:
    """Write (H,W), (H,W,3) RGB or (H,W,4) RGBA, 8 or 16 bits, as PNG. Raises FlowclasError when that cannot be done."""
    order = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
    ordered = image if image.ndim == 2 else cv2.cvtColor(image, order[image.shape[2]])
    write_bytes(path, _encode(".png", ordered, [cv2.IMWRITE_PNG_COMPRESSION, 4]))


def write_tiff(path: str | Path, values: npt.NDArray[np.float32]) -> None:
    """Write (H,W) float32 as an uncompressed TIFF, bit by bit. Raises FlowclasError when it cannot be written."""
    uncompressed = 1
    write_bytes(path, _encode(".tiff", values.astype(np.float32), [cv2.IMWRITE_TIFF_COMPRESSION, uncompressed]))


def write_json(path: str | Path, content: Any) -> None:
    """Write plain values as indented JSON. Raises FlowclasError when it cannot be written."""
    write_bytes(path, (json.dumps(content, indent=2) + "\n").encode())


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file whole or not at all: under a temporary name beside it, then renamed.

    The temporary file goes away on every failure, Ctrl-C included. Raises FlowclasError naming the file and the
    system's reason, such as a full disk.
    """
    path = Path(path)
    try:
        with replacing(path) as temporary, open(temporary, "wb") as file:
            file.write(data)
    except OSError as error:
        reason = error.strerror or error
        raise FlowclasError(f"cannot write {path}: {reason}; free the disk or choose another place") from error


def _encode(suffix: str, image: npt.NDArray[Any], options: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, image, options)
    if not done:
        raise FlowclasError(f"an image of shape {image.shape} and type {image.dtype} cannot be written as {suffix}")
    return data.tobytes()


def _load(source: Any, name: str | None = None) -> Image.Image:
    """Open and decode fully; every way in which a decoder can fail becomes one line."""
    name = name or str(source)
    try:
        opened = Image.open(source)
        opened.load()
    except FileNotFoundError as error:
        raise FlowclasError(f"image {name} does not exist") from error
    except (IsADirectoryError, PermissionError) as error:
        raise FlowclasError(f"image {name} cannot be read: {error.strerror}") from error
    except UnidentifiedImageError as error:
        empty = isinstance(source, Path) and source.stat().st_size == 0
        what = "is empty" if empty else "is not an image, or is corrupt at its start"
        raise FlowclasError(f"image {name} {what}: replace it or take it out") from error
    except MemoryError:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error and more
        raise FlowclasError(f"image {name} is corrupt or truncated ({error}): replace it or take it out") from error
    return opened


def _to_rgb(loaded: Image.Image, name: str | Path) -> RGB:
    if loaded.mode.startswith("I"):  # 16-bit grey, "I;16" or, from some formats, 32-bit "I"
        values = np.asarray(loaded).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise FlowclasError(f"image {name} holds 32-bit values up to {values.max()}: save it with 8 or 16 bits")
        return np.repeat(_halve_depth(values)[..., None], 3, axis=2)
    if loaded.mode == "F":
        raise FlowclasError(f"image {name} holds floating-point values of unknown range: save it with 8 or 16 bits")
    if "A" in loaded.mode or "a" in loaded.mode or "transparency" in loaded.info:
        coloured = loaded.convert("RGBA")
        loaded = Image.alpha_composite(Image.new("RGBA", coloured.size, (0, 0, 0, 255)), coloured)
    return np.array(loaded.convert("RGB"))


def _read_deep_colour(path: Path) -> RGB | None:
    """A colour PNG or TIFF of 16 bits a channel, of which Pillow keeps the upper byte; None for anything else."""
    if not _is_deep_colour(path):
        return None
    loaded = _load(path)  # OpenCV fills up a truncated file in silence, Pillow says so
    values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        raise FlowclasError(f"image {path} has 16-bit channels of an unknown layout: save it with 8 bits")
    colour = values[..., 2::-1].astype(np.int64)
    if values.shape[2] == 4:
        colour = (colour * values[..., 3:].astype(np.int64) + 32767) // 65535
    return _upright(_halve_depth(colour), loaded.getexif().get(ExifTags.Base.Orientation, 1))


def _upright(image: RGB, orientation: int) -> RGB:
    """Turned and mirrored by the EXIF orientation, 1 to 8."""
    transposed = image.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else image
    flip_rows, flip_columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(transposed[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1])


def _is_deep_colour(path: Path) -> bool:
    bits_per_sample = 258
    try:
        if path.suffix.lower() == ".png":
            with open(path, "rb") as file:
                start = file.read(26)  # signature, IHDR: bit depth at 24, colour type at 25 (2 RGB, 6 RGBA)
            return start[:4] == b"\x89PNG" and start[24:25] == b"\x10" and start[25:26] in (b"\x02", b"\x06")
        if path.suffix.lower() in (".tif", ".tiff"):
            with Image.open(path) as opened:
                bits = getattr(opened, "tag_v2", {}).get(bits_per_sample, (8,))
            return len(bits) >= 3 and max(bits) == 16
    except Exception:  # unreadable: the reader proper names the failure
        return False
    return False


def _halve_depth(values: npt.NDArray[np.int64]) -> RGB:
    """0..65535 to 0..255 over the full range, rounded."""
    return ((values + 128) // 257).astype(np.uint8)
