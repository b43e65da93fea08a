"""What ends up where: sdist, wheel and the ament install tree, and that the three descriptions of the package agree."""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
import zipfile
from email.parser import Parser
from pathlib import Path
from types import ModuleType

import pytest

import flowclas_ros

ROOT = Path(__file__).resolve().parent.parent
DEPENDENCIES = {"depend", "build_depend", "buildtool_depend"}


def build(hook: str, source: Path, target: Path) -> Path:
    """Run one of setuptools' PEP 517 hooks (`build_sdist`, `build_wheel`) in `source`. Returns the file it made."""
    target.mkdir()
    program = f"from setuptools import build_meta; build_meta.{hook}({str(target)!r})"
    run = subprocess.run([sys.executable, "-c", program], cwd=source, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return next(target.iterdir())


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("needs setuptools: pip install -e '.[dev]'")
    folder = tmp_path_factory.mktemp("sdist")
    tracked = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("needs a git checkout, to tell sources from what runs left behind")
    for name in tracked.stdout.splitlines():
        if not os.path.lexists(ROOT / name):  # deleted, and that not committed yet
            continue
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / "source" / name, follow_symlinks=False)
    with tarfile.open(build("build_sdist", folder / "source", folder / "dist")) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    return next((folder / "unpacked").iterdir())


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel built from the source distribution."""
    return zipfile.ZipFile(build("build_wheel", sdist, tmp_path_factory.mktemp("wheel") / "dist"))


def test_setup_package_xml_and_module_agree(sdist: Path) -> None:
    metadata = Parser().parsestr((sdist / "PKG-INFO").read_text())
    manifest = ElementTree.parse(ROOT / "package.xml").getroot()
    assert metadata["Name"].replace("-", "_") == manifest.findtext("name") == "flowclas_ros"
    assert metadata["Version"] == manifest.findtext("version") == flowclas_ros.__version__
    license_name = metadata["License-Expression"] or metadata["License"]
    assert license_name == manifest.findtext("license") == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"


def test_cmake_builds_every_message_and_finds_only_declared_packages() -> None:
    cmake = (ROOT / "CMakeLists.txt").read_text()
    manifest = ElementTree.parse(ROOT / "package.xml").getroot()
    declared = {element.text for element in manifest if element.tag in DEPENDENCIES}
    assert set(re.findall(r"find_package\((\w+)", cmake)) <= declared
    interfaces = {str(file.relative_to(ROOT)) for kind in ("msg", "srv") for file in (ROOT / kind).glob(f"*.{kind}")}
    assert set(re.findall(r'"((?:msg|srv)/\w+\.\w+)"', cmake)) == interfaces


def test_importing_the_package_loads_no_heavy_library() -> None:
    program = "import sys, flowclas_ros; print(*{'torch', 'cv2', 'numpy', 'rclpy'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "\n"), run.stderr


def test_wheel_carries_training_config_and_samples_inside_the_package_only(wheel: zipfile.ZipFile) -> None:
    files = set(wheel.namelist())
    expected = {
        f"flowclas_ros/{file.relative_to(ROOT)}"
        for file in [*ROOT.glob("training/**/*.py"), *ROOT.glob("config/**/*.yaml"), *ROOT.glob("config/*.xml")]
    }
    expected |= {str(file.relative_to(ROOT)) for file in ROOT.glob("flowclas_ros/samples/*.*")}
    assert "flowclas_ros/samples/MODEL_CARD.md" in expected
    assert "flowclas_ros/training/__init__.py" in expected
    assert expected <= files
    top_level = {name.split("/")[0] for name in files}
    assert {name for name in top_level if not name.endswith(".dist-info")} == {"flowclas_ros"}


def test_wheel_holds_every_module_and_no_generated_one(wheel: zipfile.ZipFile) -> None:
    files = set(wheel.namelist())
    generated = ("msg", "srv", "lib")
    modules = (file.relative_to(ROOT) for file in ROOT.glob("flowclas_ros/**/*.py"))
    assert {str(module) for module in modules if module.parts[1] not in generated} <= files
    assert not [name for name in files if name.endswith(".so") or name.split("/")[1] in generated]


def test_sdist_can_be_built_by_colcon_too(sdist: Path) -> None:
    for name in ("package.xml", "CMakeLists.txt", "training/__init__.py", "scripts/detector", "config", "msg", "srv"):
        assert (sdist / name).exists(), name
    assert not (sdist / "flowclas_ros" / "msg").exists()


def test_readme_and_makefile_hold_pip_back_alike_where_a_distribution_is_sourced() -> None:
    line = re.search(r"pip install -e .*", (ROOT / "README.md").read_text())
    assert line is not None
    bounds = r'"((?:numpy|opencv[\w-]*|setuptools)<\d+)"'
    told = set(re.findall(bounds, line[0]))
    # a venv's own setuptools is not colcon's, but what the README installs is: from 80 on, --symlink-install fails
    assert told == {*re.findall(bounds, (ROOT / "Makefile").read_text()), "setuptools<80"}


def message_build() -> ModuleType:
    """tools/build_messages.py as a module."""
    spec = importlib.util.spec_from_file_location("build_messages", ROOT / "tools" / "build_messages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.timeout(300)  # compiles the messages, beside whatever else the machine does
def test_ament_install_tree_carries_the_package_whole(tmp_path: Path) -> None:
    tool = message_build()
    reason = tool.why_not()
    if reason:
        pytest.skip(f"nothing to build with, {reason}")
    stage = tool.run_cmake(tmp_path / "build")
    package = next(stage.glob("lib/python*/site-packages/flowclas_ros"))
    sources = [file.relative_to(ROOT) for file in (ROOT / "training").glob("**/*.py")]
    for folder in (package / "training", package / "config"):
        assert folder.is_dir() and not folder.is_symlink()
    for source in sources:
        assert (package / source).is_file()
    whole = ("__init__.py", "errors.py", "msg/__init__.py", "config/fastdds_large_images.xml")
    for name in (*whole, *(f"samples/{file.name}" for file in ROOT.glob("flowclas_ros/samples/*.*"))):
        assert (package / name).is_file(), name
    assert not (package / "lib").exists()
    assert not (package.parent / "training").exists()
    folders = ("launch", "config", "rviz", "docs")
    shared = [file for name in folders for file in (ROOT / name).glob("**/*") if file.is_file()]
    for file in [ROOT / "package.xml", *(file for file in shared if file.suffix != ".pyc")]:
        assert (stage / "share/flowclas_ros" / file.relative_to(ROOT)).is_file(), file
    for executable in ("autoware_points", "camera_sim", "detector", "flowclas", "replay", "servo_guard"):
        assert os.access(stage / "lib/flowclas_ros" / executable, os.X_OK)


def test_message_build_steps_aside_for_a_sourced_distribution() -> None:
    run = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "build_messages.py")],
        env={**os.environ, "ROS_DISTRO": "jazzy"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0
    assert "jazzy is sourced: run `colcon build`" in run.stdout


@pytest.mark.parametrize("name", ["autoware_points", "camera_sim", "detector", "servo_guard"])
def test_ctrl_c_amid_a_nodes_imports_ends_it_without_a_traceback(name: str, tmp_path: Path) -> None:
    package = tmp_path / "flowclas_ros"
    package.mkdir()
    (package / "__init__.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    ended = subprocess.run(
        [sys.executable, ROOT / "scripts" / name],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, "")
