"""The launch files, parameter files and the RViz view: in step with the node and with each other."""

from __future__ import annotations

import ast
import importlib.util
import math
import py_compile
import re
from pathlib import Path

import pytest
import yaml

from flowclas_ros.node.parameters import TABLE

ROOT = Path(__file__).resolve().parent.parent
LAUNCH = ROOT / "launch"
LAUNCH_FILES = sorted(LAUNCH.glob("*.launch.py"))
EXAMPLES = ("driving", "manipulator")
needs_launch = pytest.mark.skipif(
    importlib.util.find_spec("launch_ros") is None,
    reason="launch and launch_ros are not installed here (not on PyPI; apt install ros-$ROS_DISTRO-launch-ros)",
)


def parameters_of(name):
    return yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text())["/**"]["ros__parameters"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_parameter_file_for_a_stack_names_only_parameters_of_the_node(name):
    assert set(parameters_of(name)) <= set(TABLE)


@pytest.mark.parametrize("name", EXAMPLES)
def test_its_values_have_the_nodes_types_and_lie_in_its_ranges(name):
    for key, value in parameters_of(name).items():
        entry = TABLE[key]
        expected = list if isinstance(entry.default, tuple) else type(entry.default)
        assert type(value) is expected, key
        bounds, choices = entry.metadata["bounds"], entry.metadata["choices"]
        assert not bounds or bounds[0] <= value <= bounds[1], key
        assert not choices or value in choices, key


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_value_of_a_parameter_file_for_a_stack_is_explained(name):
    """By a comment above it or above the lines it stands with."""
    lines = (ROOT / "config" / f"{name}.yaml").read_text().splitlines()
    commented = False
    for line in lines[lines.index("  ros__parameters:") + 1 :]:
        if line.strip().startswith("#"):
            commented = True
        elif not line.strip():
            commented = False
        else:
            assert commented, line


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.name)
def test_every_launch_file_compiles(path, tmp_path):
    py_compile.compile(str(path), cfile=str(tmp_path / "out.pyc"), doraise=True)


def test_the_launch_file_sets_only_parameters_that_the_node_declares():
    tree = ast.parse((LAUNCH / "detect.launch.py").read_text())
    names = {
        node.slice.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "overrides"
    }
    assert {"depth", "cameras", "use_sim_time"} <= names
    assert names - {"use_sim_time"} <= set(TABLE)


def test_the_rviz_view_shows_what_the_launch_file_remaps():
    view = yaml.safe_load((ROOT / "rviz" / "overlay.rviz").read_text())
    displays = {display["Name"]: display for display in view["Visualization Manager"]["Displays"]}
    assert {"Camera", "Overlay", "Heatmap", "Hazard points", "Hazards", "TF"} <= set(displays)
    topics = {display["Topic"]["Value"] for display in displays.values() if "Topic" in display}
    text = (LAUNCH / "detect.launch.py").read_text()
    for topic in topics:
        assert topic == "/image" or topic.removeprefix("/detector/") in text, topic
    assert displays["Hazard points"]["Channel Name"] == "score"


def test_the_build_installs_what_the_launch_files_point_to():
    installed = re.search(
        r"install\(DIRECTORY ([\w ]+) DESTINATION share/\$\{PROJECT_NAME\}", (ROOT / "CMakeLists.txt").read_text()
    )
    assert installed and {"launch", "config", "rviz", "docs"} <= set(installed[1].split())
    packed = (ROOT / "MANIFEST.in").read_text()
    assert all(f"graft {folder}\n" in packed for folder in ("launch", "config", "rviz", "docs"))


def test_the_snippets_of_the_integration_page_are_well_formed_and_name_what_exists():
    page = (ROOT / "docs" / "integration.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 4 and all(isinstance(yaml.safe_load(block), dict) for block in blocks)
    for name in re.findall(r"flowclas_ros (\w+\.launch\.py)", page):
        assert (LAUNCH / name).is_file(), name
    for name in re.findall(r"config/(\w+\.yaml)` and `servo_guard", page):
        assert (ROOT / "config" / name).is_file(), name


@pytest.mark.parametrize(
    ("health", "hazard", "drives"),
    [
        ("OK", "OK", True),
        ("OK", "WARN", True),  # CAUTION
        ("WARN", "OK", True),  # drift, no depth
        ("OK", "ERROR", False),
        ("ERROR", "STALE", False),
        ("WARN", "STALE", False),  # paused
    ],
)
def test_autowares_graph_stops_for_a_hazard_and_a_detector_that_does_not_look_and_not_for_a_caution(
    health, hazard, drives
):
    """By the rules of Autoware's graph: `and` is the worst, of a diag STALE is ERROR, and a mode needs OK."""
    page = (ROOT / "docs" / "integration.md").read_text()
    (graph,) = re.findall(r"```yaml\n(units:.*?)```", page, re.DOTALL)
    units = {unit["path"]: unit for unit in yaml.safe_load(graph)["units"]}
    said = {"health": health, "hazard": hazard}

    def level(unit):
        if unit["type"] == "and":
            return max(map(level, unit["list"]), key=["OK", "WARN", "ERROR"].index)
        if unit["type"] == "link":
            return level(units[unit["link"]])
        if unit["type"] == "warn-to-ok":
            return level(unit["item"]).replace("WARN", "OK")
        return said[unit["name"]].replace("STALE", "ERROR")

    assert (level(units["/autoware/perception/flowclas"]) == "OK") == drives


def load(name):
    spec = importlib.util.spec_from_file_location(f"{name}_launch", LAUNCH / f"{name}.launch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def topics(**given):
    names = ("depth_topic", "camera_info_topic", "self_mask_topic", "namespace", "fixed_frame")
    return {"image_topic": "image", "use_sim_time": "0", **dict.fromkeys(names, ""), **given}


@needs_launch
def test_camera_info_is_looked_for_beside_the_image():
    remappings = load("detect").remappings
    assert dict(remappings(topics(image_topic="/cam/image_raw", depth_topic="/cam/depth"), [])) == {
        "image": "/cam/image_raw",
        "depth": "/cam/depth",
        "camera_info": "/cam/camera_info",
    }
    assert dict(remappings(topics(image_topic="/a/b", camera_info_topic="/c"), []))["camera_info"] == "/c"
    assert dict(remappings(topics(image_topic="/image_raw"), []))["camera_info"] == "/camera_info"
    assert "camera_info" not in dict(remappings(topics(), []))


@needs_launch
def test_several_cameras_have_their_names_in_the_topics():
    remappings = load("detect").remappings
    given = topics(image_topic="/{camera}/image_raw", depth_topic="/{camera}/depth", self_mask_topic="/{camera}/arm")
    assert dict(remappings(given, ["front", "left"])) == {
        f"{camera}/{own}": f"/{camera}/{theirs}"
        for camera in ("front", "left")
        for own, theirs in (
            ("image", "image_raw"),
            ("depth", "depth"),
            ("camera_info", "camera_info"),
            ("self_mask", "arm"),
        )
    }
    assert remappings(topics(), ["front"]) == []
    with pytest.raises(RuntimeError, match=r"image_topic:=/cam/image must hold \{camera\}"):
        remappings(topics(image_topic="/cam/image"), ["front"])
    with pytest.raises(RuntimeError, match=r"image_topic:=/\{camera\}/image wants names for \{camera\}: cameras:="):
        remappings(topics(image_topic="/{camera}/image"), [])


@needs_launch
def test_several_cameras_bring_their_camera_info_beside_their_images():
    from launch import LaunchContext

    context = LaunchContext()
    context.launch_configurations["image_topic"] = "/rig/{camera}/image_rect"
    for name in ("multi_camera", "detect"):
        for argument in load(name).generate_launch_description().get_launch_arguments():
            if argument.default_value is not None and argument.name in ("image_topic", "camera_info_topic", "cameras"):
                argument.execute(context)
    found = dict(load("detect").remappings(topics(**context.launch_configurations), ["left"]))
    assert found["left/camera_info"] == "/rig/left/camera_info"


@needs_launch
@pytest.mark.parametrize("namespace", ["", "robot"])
def test_rviz_listens_where_the_detector_speaks_in_a_pushed_namespace_too(namespace):
    from launch_ros.actions import PushRosNamespace

    from launch import LaunchContext

    context = LaunchContext()
    PushRosNamespace("fleet").execute(context)
    node = load("detect").viewer(topics(image_topic="cam/image", namespace=namespace), [])
    node._perform_substitutions(context)
    own = f"/fleet/{namespace}".rstrip("/")
    assert node.node_name == f"{own}/rviz"  # what its relative topics are resolved in
    remapped = dict(node.expanded_remapping_rules)
    assert remapped["/detector/overlay"] == "detector/overlay" and remapped["/image"] == "cam/image"


@needs_launch
@pytest.mark.parametrize("frame, drawn_in", [("", []), ("map", ["--fixed-frame", "map"])])
def test_rviz_draws_in_the_frame_asked_for(frame, drawn_in):
    node = load("detect").viewer(topics(fixed_frame=frame), [])
    texts = [word for word in node._Node__arguments if isinstance(word, str)]
    assert texts == ["-d", *drawn_in]


@needs_launch
@pytest.mark.parametrize("name", ["replay", "multi_camera", "autoware", "servo_guard"])
def test_the_other_launch_files_take_every_argument_of_detect(name):
    arguments = {
        each: [argument.name for argument in load(each).generate_launch_description().get_launch_arguments()]
        for each in ("detect", name)
    }
    assert set(arguments["detect"]) <= set(arguments[name])
    assert len(arguments[name]) == len(set(arguments[name]))


@needs_launch
def test_autoware_gets_a_converter_for_the_points_of_each_camera():
    from launch import LaunchContext

    module, context = load("autoware"), LaunchContext()
    assert len(module.converters(context)) == 1
    context.launch_configurations.update(cameras="front, left", namespace="perception")
    found = module.converters(context)
    for node in found:
        node._perform_substitutions(context)
    assert [node.node_name for node in found] == [f"/perception/autoware_points_{name}" for name in ("front", "left")]
    assert found[1].expanded_remapping_rules == [
        (name, f"detector/left/{name}") for name in ("points", "points_xyzirc")
    ]


@needs_launch
def test_the_servo_guard_refuses_several_cameras_whose_states_it_would_not_hear():
    from launch import LaunchContext

    module, context = load("servo_guard"), LaunchContext()
    assert module.refuse_cameras(context) == []
    context.launch_configurations["cameras"] = "front,left"
    with pytest.raises(RuntimeError, match=r"cameras:=front,left: the guard listens to one camera"):
        module.refuse_cameras(context)


@needs_launch
def test_replay_refuses_a_bag_that_is_not_there(tmp_path):
    from launch import LaunchContext

    module = load("replay")
    context = LaunchContext()
    values = {name: default for name, (default, _) in module.ARGUMENTS.items()}
    context.launch_configurations.update(values, bag=str(tmp_path / "none"))
    with pytest.raises(RuntimeError, match="none does not exist"):
        module.player(context)
    context.launch_configurations["bag"] = str(tmp_path)
    assert len(module.player(context)) == 7 and not math.isnan(float(values["rate"]))
