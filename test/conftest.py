"""What every test shares: the kit, and a ROS 2 environment of the run's own."""

import os
import signal
from pathlib import Path

import pytest

from flowclas_ros.allocator import keep_freed_memory
from flowclas_ros.node.environment import settings_for_large_images, settings_for_this_machine_alone

ROOT = Path(__file__).resolve().parent.parent

# A background job of a non-interactive shell, as CI may be one, has SIGINT ignored, and so would every process that a
# test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Set before anything imports rclpy, and inherited by the processes that tests start. Domain and range are not the
# user's to choose: a test must never reach a robot.
os.environ["ROS_DOMAIN_ID"] = str(os.getpid() % 101 + 1)
for name in ("ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_LOCALHOST_ONLY"):
    os.environ.pop(name, None)
os.environ.update(settings_for_this_machine_alone(os.environ))
# Humble checks the type of every field that is set, newer distributions only if told to: float32 is no float there.
os.environ["ROS_PYTHON_CHECK_FIELDS"] = "1"
os.environ.update(settings_for_large_images(os.environ))
keep_freed_memory()


@pytest.fixture(scope="session")
def kit() -> Path:
    """The folder of real images, weights and bags; the test is skipped where there is none."""
    folder = Path(os.environ.get("FLOWCLAS_KIT") or ROOT.parent / "shared" / "kit")
    if not (folder / "README.md").is_file():
        pytest.skip(f"no kit at {folder}: set FLOWCLAS_KIT")
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small checkpoint of node_support; tests read it, and make one of their own to change it."""
    from node_support import make_checkpoint

    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "small.safetensors")


@pytest.fixture(scope="session")
def fit_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data and settings of fit_running's small fit, and the runs of all tests that fit it, each in a folder."""
    from fit_running import write_root

    return write_root(tmp_path_factory.mktemp("fit"))


@pytest.fixture(scope="session")
def whole_fit(fit_root: Path) -> Path:
    """The folder of a run that nothing disturbed."""
    from fit_running import fit

    return fit(fit_root, "whole").parent
