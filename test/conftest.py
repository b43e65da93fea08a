"""What every test shares: the kit, and a ROS 2 environment of the run's own."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Set before anything imports rclpy, and inherited by the processes that tests start. Domain and range are not the
# user's to choose: a test must never reach a robot.
os.environ["ROS_DOMAIN_ID"] = str(os.getpid() % 101 + 1)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ.pop("ROS_LOCALHOST_ONLY", None)  # the older switch would overrule the range
_PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
if not any(os.environ.get(name) for name in _PROFILE_VARIABLES):
    os.environ.update(dict.fromkeys(_PROFILE_VARIABLES, str(ROOT / "config" / "fastdds_large_images.xml")))
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "1073741824")
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", "2147483647")
os.environ.setdefault("MALLOC_TOP_PAD_", "67108864")


@pytest.fixture(scope="session")
def kit() -> Path:
    """The folder of real images, weights and bags; the test is skipped where there is none."""
    folder = Path(os.environ.get("FLOWCLAS_KIT") or ROOT.parent / "shared" / "kit")
    if not (folder / "README.md").is_file():
        pytest.skip(f"no kit at {folder}: set FLOWCLAS_KIT")
    return folder
