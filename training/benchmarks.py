"""Images and labels of a public data set, of a manifest or of folders, in pairs that are known to be there."""

from __future__ import annotations

import csv
import json
import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flowclas_ros.detection.images import list_images, read_image, read_labels, read_mask, size_in_header
from flowclas_ros.errors import FlowclasError
from flowclas_ros.training.data_sets import BENCHMARKS, FOLDER, MANIFEST, NAMES, OWN, Benchmark
from flowclas_ros.training.layouts import Found, find, find_any, partner, partner_if_any


@dataclass(frozen=True)
class Pair:
    """An image and its label file (None: none is public); `all_normal` says that there is none as all is normal.

    overlay: .npz file of the difference that is added to the image.
    """

    name: str
    image: Path
    mask: Path | None
    condition: str | None = None
    overlay: Path | None = None
    all_normal: bool = False
    benchmark: Benchmark = OWN

    def read_image(self) -> npt.NDArray[np.uint8]:
        """(H,W,3) uint8 RGB. Raises FlowclasError for a file that cannot be read, and an overlay of another size."""
        image = read_image(self.image)
        if self.overlay is None:
            return image
        try:
            with np.load(self.overlay) as file:
                difference = file["rgb"].astype(np.int64)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise FlowclasError(f"overlay {self.overlay} is no .npz that holds 'rgb': {error}") from error
        if difference.shape != image.shape:
            shapes = f"has shape {difference.shape}, its image {self.image} {image.shape}"
            raise FlowclasError(f"overlay {self.overlay} {shapes}")
        return np.clip(image + difference, 0, 255).astype(np.uint8)

    def read_mask(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The image's mask (H,W): 0 normal, 1 anomaly, 255 ignore; without labels all 255.

        Raises FlowclasError for a file that cannot be read, or is of another size than the image.
        """
        if self.mask is None:
            return np.full(image.shape[:2], 0 if self.all_normal else 255, np.uint8)
        if self.benchmark is OWN:
            return read_mask(self.mask, size_of=image, image_name=str(self.image))
        ids = read_labels(self.mask, size_of=image, image_name=str(self.image))
        mask = np.full(ids.shape, 255, np.uint8)
        for value, (low, high) in ((0, self.benchmark.normal), (1, self.benchmark.anomaly)):
            mask[(ids >= low) & (ids <= high)] = value
        return mask

    def check_size(self) -> None:
        """Raise FlowclasError where the label file is of another size than the image; quick where both say the same."""
        if self.mask is not None and size_in_header(self.mask) != size_in_header(self.image):
            self.read_mask(self.read_image())  # an image may lie on its side in the file


def open_benchmark(name: str, root: Path) -> tuple[Benchmark, list[Pair]]:
    """A benchmark and its labelled images, as it lies below `root` (of a manifest: the csv file).

    Raises FlowclasError for an unknown name, and where the files do not lie as the data set has them.
    """
    if name == MANIFEST:
        return OWN, read_manifest(root)
    if name == FOLDER:
        return OWN, pair_folders(root / "images", root / "masks")
    if name not in NAMES:
        raise FlowclasError(f"there is no benchmark '{name}': choose from {', '.join(NAMES)}")
    benchmark = BENCHMARKS[name]
    root = _top(root, benchmark)
    _, labels = find_any(root, benchmark.labels, name)
    pairs = []
    for label in labels:
        if benchmark.exclude and re.match(benchmark.exclude, label.fields["id"]):
            continue
        pairs.append(_labelled_pair(benchmark, root, label, name))
    if benchmark.index:
        _check_index(root / benchmark.index, {label.fields["id"] for label in labels}, name)
    if benchmark.unlabelled:
        _, good = find_any(root, [benchmark.unlabelled], name)
        pairs += [Pair(_name(f.path, root), f.path, None, all_normal=True, benchmark=benchmark) for f in good]
    if benchmark.published is None:  # no count would tell that some are not there
        _check_labelled(root, benchmark, pairs, name)
    return benchmark, pairs


def unlabelled_pairs(benchmark: Benchmark, root: Path, pairs: Sequence[Pair]) -> list[Pair]:
    """The images that the toolkit wants scores of and whose labels are not public. Raises FlowclasError."""
    if benchmark.export is None:
        return []
    pattern = benchmark.export[1]
    root = _top(root, benchmark)
    _, images = find_any(root, [pattern], benchmark.export[0])
    known = {pair.image for pair in pairs}
    return [Pair(_name(f.path, root), f.path, None, benchmark=benchmark) for f in images if f.path not in known]


def inlier_images(source: str) -> list[Path]:
    """Images of the normal world: of a folder, or of a split such as `cityscapes/train:/data/cityscapes`.

    Raises FlowclasError for a folder without images, and for a split that does not lie as its data set has it.
    """
    name, colon, root = source.partition(":")
    data_set, _, split = name.partition("/")
    if not colon or data_set not in BENCHMARKS:
        return list_images(Path(source))
    splits = dict(BENCHMARKS[data_set].splits)
    if split not in splits:
        known = ", ".join(f"{one}/{key}" for one, b in BENCHMARKS.items() for key, _ in b.splits)
        raise FlowclasError(f"'{source}' names no split to fit on: there are {known}")
    _, found = find_any(_top(Path(root), BENCHMARKS[data_set]), [splits[split]], name)
    return [one.path for one in found]


def read_manifest(path: Path) -> list[Pair]:
    """Pairs of a csv with columns image, mask and, optionally, condition; paths are relative to the csv's folder.

    Raises FlowclasError for a file that is missing, lacks a column or names a file that is not there.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file, skipinitialspace=True)
            columns, rows = table.fieldnames or [], list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FlowclasError(f"manifest {path} cannot be read: {error}; --root names the csv file itself") from error
    pairs = []
    if lacking := {"image", "mask"} - set(columns):
        raise FlowclasError(f"manifest {path} lacks the column {' and '.join(sorted(lacking))}: its first line names "
                            f"{' | '.join(columns)}, and should read image,mask,condition")  # fmt: skip
    for line, row in enumerate(rows, start=2):
        for column in ("image", "mask"):
            if not row.get(column):
                raise FlowclasError(f"manifest {path}, line {line}: no value for '{column}'")
            if not (path.parent / row[column]).is_file():
                raise FlowclasError(f"manifest {path}, line {line}: there is no file {path.parent / row[column]}")
        image = path.parent / row["image"]
        name = Path(row["image"]).with_suffix("").as_posix()
        pairs.append(Pair(name, image, path.parent / row["mask"], row.get("condition") or None))
    if not pairs:
        raise FlowclasError(f"manifest {path} names no image: it needs the columns image, mask and condition")
    return pairs


def pair_folders(images: Path, masks: Path) -> list[Pair]:
    """Images with their masks by equal relative path without suffix.

    Raises FlowclasError when a folder is missing or empty, or an image has no mask or several.
    """
    by_name: dict[str, list[Path]] = {}
    for path in list_images(masks):
        by_name.setdefault(_name(path, masks), []).append(path)
    pairs = []
    for image in list_images(images):
        name = _name(image, images)
        found = by_name.get(name, [])
        if len(found) != 1:
            what = f"{len(found)} masks" if found else "no mask"
            raise FlowclasError(f"image {image} has {what} in {masks}: there must be one, named {name}.png")
        pairs.append(Pair(name, image, found[0]))
    return pairs


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).with_suffix("").as_posix()


def _labelled_pair(benchmark: Benchmark, root: Path, label: Found, what: str) -> Pair:
    overlay = partner_if_any(root, benchmark.overlay, label)
    if overlay is None:
        image = partner(root, benchmark.images, label, what)
        return Pair(_name(image, root), image, label.path, benchmark=benchmark)
    image = partner(root, benchmark.overlaid, label, what)
    return Pair(_name(overlay, root), image, label.path, overlay=overlay, benchmark=benchmark)


def _top(root: Path, benchmark: Benchmark) -> Path:
    """The folder that the patterns start from, also where one of their first folders was named instead."""
    root = root.expanduser()
    patterns = [*benchmark.labels, *benchmark.images, *(pattern for _, pattern in benchmark.splits)]
    if any(pattern.startswith("{") for pattern in patterns):  # from any folder
        return root
    firsts = {pattern.split("/")[0] for pattern in patterns}
    return root.parent if root.name in firsts and not any((root / first).is_dir() for first in firsts) else root


def _check_labelled(root: Path, benchmark: Benchmark, pairs: Sequence[Pair], what: str) -> None:
    known = {pair.image for pair in pairs}
    lacking = [found.path for found in find(root, benchmark.images[0]) if found.path not in known]
    if lacking:
        raise FlowclasError(f"{what}: {len(lacking)} image(s) have no label file {benchmark.labels[0]} in {root}, such "
                            f"as {lacking[0]}")  # fmt: skip


def _check_index(path: Path, there: set[str], what: str) -> None:
    try:
        listed = {re.sub(r"\.\w+$", "", str(name)) for name in json.loads(path.read_text(encoding="utf-8"))}
    except (OSError, ValueError, TypeError) as error:
        raise FlowclasError(f"{what}: {path} is not a JSON list of frames: {error}") from error
    lacking = sorted(listed - there)
    if lacking:
        raise FlowclasError(f"{what}: {path} lists {len(lacking)} frame(s) without labels, such as '{lacking[0]}'")
