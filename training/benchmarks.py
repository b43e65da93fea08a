"""The public data sets: how each lies on disk, what its labels mean, and what its benchmark reports."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flowclas_ros.detection.images import list_images, read_labels, read_mask
from flowclas_ros.errors import FlowclasError
from flowclas_ros.training.layouts import find, find_any, partner

Range = tuple[int, int]
COMPONENTS, REGIONS, IMAGES, PER_IMAGE = "components", "aupro", "image_auroc", "mean_per_image"
ALL = (COMPONENTS, REGIONS, IMAGES, PER_IMAGE)
_ANOMALY_TRACK, _OBSTACLE_TRACK = (500, 100), (50, 10)


@dataclass(frozen=True)
class Benchmark:
    """A data set in the patterns of `layouts.find`.

    Attributes:
        labels: label files, in each layout that is about; the first that any file matches counts.
        images: a label file's image, the first of these that exists.
        unlabelled: images that are normal throughout and have no label file.
        index: a JSON list of the frames that must be there.
        exclude: regular expression on `{id}` of frames that the benchmark leaves out.
        normal, anomaly: ids in a label file, lowest to highest; any other is ignored.
        splits: images of the normal world to fit on, by split.
        published: images of the published benchmark.
        report: what it reports beside the pooled pixel figures.
        component_sizes: smallest predicted and true component, pixels.
        export: for the SegmentMeIfYouCan toolkit: its name of all images, their pattern, its name of the
            labelled ones.
    """

    labels: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    unlabelled: str | None = None
    index: str | None = None
    exclude: str | None = None
    normal: Range = (0, 0)
    anomaly: Range = (1, 1)
    splits: tuple[tuple[str, str], ...] = ()
    published: int | None = None
    report: tuple[str, ...] = (COMPONENTS,)
    component_sizes: tuple[int, int] = _ANOMALY_TRACK
    export: tuple[str, str, str | None] | None = None


BENCHMARKS: dict[str, Benchmark] = {
    "cityscapes": Benchmark(
        splits=(
            ("train", "leftImg8bit/train/{city}/{id}_leftImg8bit.png"),
            ("val", "leftImg8bit/val/{city}/{id}_leftImg8bit.png"),
        ),
    ),
    "fishyscapes_lost_and_found": Benchmark(
        labels=(
            "fishyscapes_lostandfound/{number}_{id}_labels.png",
            "LostAndFound/labels/{id}_labels.png",
            "LostAndFound/labels/{id}.png",
        ),
        images=(
            "leftImg8bit/*/*/{id}_leftImg8bit.png",
            "*/leftImg8bit/*/*/{id}_leftImg8bit.png",
            "LostAndFound/images/{id}.png",
            "LostAndFound/original/{id}.png",
            "LostAndFound/images/{id}_leftImg8bit.png",
            "LostAndFound/original/{id}_leftImg8bit.png",
        ),
        published=100,
    ),
    "fishyscapes_static": Benchmark(
        labels=("{path/}{id}_labels.png",),
        images=("{path/}{id}_rgb.png", "{path/}{id}_rgb.jpg"),
        published=30,
    ),
    "road_anomaly": Benchmark(
        labels=("frames/{id}.labels/labels_semantic.png",),
        images=("frames/{id}.jpg", "frames/{id}.webp"),  # there is an archive of each
        index="frame_list.json",
        normal=(0, 1),
        anomaly=(2, 2),
        published=60,
    ),
    "smiyc_anomaly": Benchmark(
        labels=("dataset_AnomalyTrack/labels_masks/{id}_labels_semantic.png",),
        images=("dataset_AnomalyTrack/images/{id}.jpg",),
        published=10,
        export=("AnomalyTrack-all", "dataset_AnomalyTrack/images/{id}.jpg", "AnomalyTrack-validation"),
    ),
    "smiyc_obstacle": Benchmark(
        labels=("dataset_ObstacleTrack/labels_masks/{id}_labels_semantic.png",),
        images=("dataset_ObstacleTrack/images/{id}.webp",),
        exclude="validation_(19|2[1-9])",  # the toolkit's own list
        published=30,
        component_sizes=_OBSTACLE_TRACK,
        export=("ObstacleTrack-all", "dataset_ObstacleTrack/images/{id}.webp", None),
    ),
    # The test split without its known objects, people and bicycles: Lost-and-Found-NoKnown.
    "lost_and_found": Benchmark(
        labels=("gtCoarse/test/{scene}/{id}_gtCoarse_labelIds.png",),
        images=("leftImg8bit/test/{scene}/{id}_leftImg8bit.png",),
        exclude="15_Rechbergstr_Deckenpfronn|01_Hanns_Klemm_Str_45_00000[67]|10_Schlossberg_9_000004",
        normal=(1, 1),
        anomaly=(2, 200),
        published=1043,
        component_sizes=_OBSTACLE_TRACK,
        export=("LostAndFound-test", "leftImg8bit/test/{scene}/{id}_leftImg8bit.png", None),
    ),
    "allo": Benchmark(
        labels=("test_v3/{path/}masks/{id}.png",),
        images=("test_v3/{path/}images/{id}.png",),
        normal=(0, 7),
        anomaly=(8, 8),
        splits=(("train", "train_v3/{path/}normal/{more/}images/{id}.png"),),
        report=(IMAGES,),
    ),
    "street_hazards": Benchmark(
        labels=("test/annotations/test/{town}/{id}.png",),
        images=("test/images/test/{town}/{id}.png",),
        normal=(1, 13),
        anomaly=(14, 14),
        splits=(
            ("train", "train/images/training/{town}/{id}.png"),
            ("val", "train/images/validation/{town}/{id}.png"),
        ),
        report=(PER_IMAGE,),
    ),
    # One category of an MVTec-like set: its folder is the root.
    "mvtec": Benchmark(
        labels=("ground_truth/{type}/{id}_mask.png",),
        images=("test/{type}/{id}.png",),
        unlabelled="test/good/{id}.png",
        anomaly=(1, 255),
        splits=(("train", "train/good/{id}.png"),),
        report=(REGIONS, IMAGES),
    ),
}
FOLDER, MANIFEST = "folder", "manifest"
NAMES = (*(name for name, one in BENCHMARKS.items() if one.labels), FOLDER, MANIFEST)
# A user's own labels, 0, 1 and 255 exactly: everything is reported.
OWN = Benchmark(report=ALL, component_sizes=_OBSTACLE_TRACK)


@dataclass(frozen=True)
class Pair:
    """An image and its label file (None: none is public); `normal` says that there is none as all is normal."""

    name: str
    image: Path
    mask: Path | None
    condition: str | None = None
    all_normal: bool = False
    benchmark: Benchmark = OWN

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
    root = _top(root, benchmark.labels[0])
    _, labels = find_any(root, benchmark.labels, name)
    pairs = []
    for label in labels:
        if benchmark.exclude and re.match(benchmark.exclude, label.fields["id"]):
            continue
        image = partner(root, benchmark.images, label, name)
        pairs.append(Pair(_name(image, root), image, label.path, benchmark=benchmark))
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
    root = _top(root, pattern)
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
    _, found = find_any(_top(Path(root), splits[split]), [splits[split]], name)
    return [one.path for one in found]


def read_manifest(path: Path) -> list[Pair]:
    """Pairs of a csv with columns image, mask and, optionally, condition; paths are relative to the csv's folder.

    Raises FlowclasError for a file that is missing, lacks a column or names a file that is not there.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FlowclasError(f"manifest {path} cannot be read: {error}; --root names the csv file itself") from error
    pairs = []
    for line, row in enumerate(rows, start=2):
        for column in ("image", "mask"):
            if not row.get(column):
                raise FlowclasError(f"manifest {path}, line {line}: no value for '{column}'; columns: image, mask, "
                                    "condition")  # fmt: skip
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


def _top(root: Path, pattern: str) -> Path:
    """The folder that the pattern starts from, also where its first folder was named instead."""
    root, first = root.expanduser(), pattern.split("/")[0]
    return root.parent if root.name == first and not (root / first).is_dir() else root


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
