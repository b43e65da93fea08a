"""What a process needs in its environment: for large images to come through shared memory whole, and to stay at home.

Launch file, demo and tests share it. Nothing that the user has set is touched. Measured on two cores, 1080p at 30 Hz:
with FastDDS's default settings 60 % of the frames are lost, with the profile none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

# `config` stands beside `node` in every form of the package: a link in the checkout, a folder once installed
PROFILE = Path(__file__).resolve().parents[1] / "config" / "fastdds_large_images.xml"
# FastDDS 2 (Humble to Jazzy) reads the first name and ignores the second, FastDDS 3 prefers the second
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


def settings_for_large_images(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables to add to `environment`: the FastDDS profile, unless either name is set.

    Nor on Humble under ROS_LOCALHOST_ONLY: there its transports are added to the profile's, whose UDP knows no bounds.
    """
    confined = _is_humble(environment) and environment.get("ROS_LOCALHOST_ONLY") == "1"
    if confined or not PROFILE.is_file() or any(name in environment for name in PROFILE_VARIABLES):
        return {}
    return {name: str(PROFILE.resolve()) for name in PROFILE_VARIABLES}


def settings_for_this_machine_alone(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables to add to `environment` so that no other machine is reached, unless it says how far to reach."""
    if any(name in environment for name in ("ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_LOCALHOST_ONLY")):
        return {}
    if _is_humble(environment):  # which knows the older switch alone
        return {"ROS_LOCALHOST_ONLY": "1"}
    return {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}


def _is_humble(environment: Mapping[str, str]) -> bool:
    return environment.get("ROS_DISTRO") == "humble"
