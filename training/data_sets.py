"""The public data sets: how each lies on disk, what its labels mean, and what its benchmark reports."""

from __future__ import annotations

from dataclasses import dataclass

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
        overlay: a label file's .npz of the difference (`rgb`) from another data set's image.
        overlaid: that image, in place of images where there is an overlay.
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
    overlay: tuple[str, ...] = ()
    overlaid: tuple[str, ...] = ()
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
        labels=("{path/}{number}_{id}_labels.png", "{path/}{id}_labels.png", "Static/labels/{id}.png"),
        images=(
            "{path/}{number}_{id}_rgb.png",
            "{path/}{number}_{id}_rgb.jpg",
            "{path/}{id}_rgb.png",
            "{path/}{id}_rgb.jpg",
            "Static/original/{id}.png",
            "Static/images/{id}.png",
        ),
        overlay=("{path/}{number}_*rgb.npz",),  # as the archives have it
        overlaid=("leftImg8bit/val/*/{id}_leftImg8bit.png", "*/leftImg8bit/val/*/{id}_leftImg8bit.png"),
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
