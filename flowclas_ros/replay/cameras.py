"""Which of a bag's topics are whose: image, depth, camera info and ground truth of each camera."""

from __future__ import annotations

import re
from dataclasses import dataclass

from flowclas_ros.errors import FlowclasError

# the last parts of an image topic, which say what it carries and not whose it is
_CARRIED = re.compile(r"image(_\w+)?|compressed|color|rgb")


@dataclass(frozen=True)
class Camera:
    """One camera's topics. name: as the node's parameter `cameras` has it, "" for a single one. camera_info: None for
    the one beside the image topic, if there is one.
    """

    name: str
    image: str | None  # None: the bag's only one
    depth: str | None = None
    camera_info: str | None = None
    mask: str | None = None


def cameras_of(
    images: list[str], depths: list[str], infos: list[str], masks: list[str], names: tuple[str, ...] = ("",)
) -> tuple[Camera, ...]:
    """Cameras of parallel lists, of which only the first must be complete; no image topic stands for the bag's only
    one. names: the node's `cameras`, taken when there are as many. Raises FlowclasError for lists of unequal lengths.
    """
    count = max(1, len(images))
    for option, given in (("--depth-topic", depths), ("--camera-info-topic", infos), ("--mask-topic", masks)):
        if given and len(given) != count:
            raise FlowclasError(
                f"{len(given)} {option} for {count} image topic(s): give one for each --topic, in order"
            )
    if len(set(images)) < len(images):
        raise FlowclasError(f"image topics {', '.join(images)}: one is named twice")
    if infos and not depths:
        raise FlowclasError("--camera-info-topic serves the depth: give --depth-topic too")
    chosen = names if len(names) == count else _names(images)
    missing: list[str | None] = [None] * count
    columns = [list(given) or missing for given in (images, depths, infos, masks)]
    return tuple(Camera(*row) for row in zip(chosen, *columns, strict=True))


def _names(images: list[str]) -> tuple[str, ...]:
    """`/sensors/front/image_raw` is "front" where no other is, else "sensors_front"; a single camera has no name."""
    if len(images) < 2:
        return ("",)
    parts = [_owner(topic) for topic in images]
    last = [part[-1] for part in parts]
    names = [part[-1] if last.count(part[-1]) == 1 else "_".join(part) for part in parts]
    if len(set(names)) < len(names):
        names = ["_".join(part for part in topic.split("/") if part) for topic in images]
    return tuple(re.sub(r"\W", "_", name) for name in names)


def _owner(topic: str) -> list[str]:
    whole = [part for part in topic.split("/") if part]
    parts = list(whole)
    while len(parts) > 1 and _CARRIED.fullmatch(parts[-1]):
        parts.pop()
    return parts
