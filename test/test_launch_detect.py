"""detect.launch.py and config/detector.yaml: in step with the node everywhere, and run where launch is installed."""

from __future__ import annotations

import ast
import importlib.util
import math
import os
import py_compile
from pathlib import Path

import pytest
import yaml
from node_support import ros_context

from flowclas_ros.node.environment import (
    PROFILE,
    PROFILE_VARIABLES,
    settings_for_large_images,
    settings_for_this_machine_alone,
)
from flowclas_ros.node.parameters import TABLE

pytestmark = pytest.mark.alone

ROOT = Path(__file__).resolve().parent.parent
LAUNCH_FILE = ROOT / "launch" / "detect.launch.py"
ARGUMENTS = {
    "image_topic",
    "depth_topic",
    "camera_info_topic",
    "self_mask_topic",
    "cameras",
    "checkpoint",
    "params_file",
    "namespace",
    "device",
    "transport",
    "use_sim_time",
    "rviz",
    "fixed_frame",
    "autostart",
    "log_level",
}
needs_launch = pytest.mark.skipif(
    importlib.util.find_spec("launch_ros") is None,
    reason="launch and launch_ros are not installed here (not on PyPI; apt install ros-$ROS_DISTRO-launch-ros)",
)


def file_parameters():
    return yaml.safe_load((ROOT / "config" / "detector.yaml").read_text())["/**"]["ros__parameters"]


def test_the_parameter_file_lists_every_parameter_of_the_node_and_no_other():
    assert set(file_parameters()) == set(TABLE)


def test_the_parameter_file_holds_the_nodes_defaults():
    for name, value in file_parameters().items():
        default = TABLE[name].default
        default = list(default) if isinstance(default, tuple) else default  # as ROS has them
        assert type(value) is type(default), name
        assert value == default or (math.isnan(value) and math.isnan(default)), name


def test_the_parameter_file_is_read_by_ros_as_it_stands(tmp_path):
    pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
    import rclpy

    from flowclas_ros.node import parameters

    with ros_context(["--ros-args", "--params-file", str(ROOT / "config" / "detector.yaml")]) as context:
        node = rclpy.create_node("detector", context=context)
        parameters.declare(node)
        read = parameters.read(node)
        assert math.isnan(read.threshold) and read.min_area == TABLE["min_area"].default
        node.destroy_node()


def test_the_launch_file_compiles_and_declares_the_documented_arguments(tmp_path):
    py_compile.compile(str(LAUNCH_FILE), cfile=str(tmp_path / "out.pyc"), doraise=True)
    declared = next(
        node.value
        for node in ast.parse(LAUNCH_FILE.read_text()).body
        if isinstance(node, ast.Assign) and node.targets[0].id == "ARGUMENTS"
    )
    assert {key.value for key in declared.keys} == ARGUMENTS


def test_the_launch_file_overrides_only_parameters_that_the_node_declares():
    words = {node.value for node in ast.walk(ast.parse(LAUNCH_FILE.read_text())) if isinstance(node, ast.Constant)}
    assert {"checkpoint", "device", "autostart"} <= words & set(TABLE)


def test_the_large_image_settings_are_given_unless_the_user_has_set_them():
    assert settings_for_large_images({}) == {name: str(PROFILE.resolve()) for name in PROFILE_VARIABLES}
    for name in PROFILE_VARIABLES:
        assert settings_for_large_images({name: "mine.xml"}) == {}


def test_a_profile_does_not_open_what_humble_was_told_to_keep_on_this_machine():
    humble = {"ROS_DISTRO": "humble", "ROS_LOCALHOST_ONLY": "1"}
    assert settings_for_large_images(humble) == {}
    assert settings_for_large_images({**humble, "ROS_LOCALHOST_ONLY": "0"})
    assert settings_for_large_images({**humble, "ROS_DISTRO": "jazzy"})  # confined by whom it discovers


def test_every_distribution_is_told_in_its_own_words_to_stay_on_this_machine():
    assert settings_for_this_machine_alone({"ROS_DISTRO": "humble"}) == {"ROS_LOCALHOST_ONLY": "1"}
    for environment in ({}, {"ROS_DISTRO": "jazzy"}, {"ROS_DISTRO": "rolling"}):
        assert settings_for_this_machine_alone(environment) == {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    for chosen in ({"ROS_LOCALHOST_ONLY": "0"}, {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}):
        assert settings_for_this_machine_alone({"ROS_DISTRO": "humble", **chosen}) == {}


if importlib.util.find_spec("launch_pytest") is not None and importlib.util.find_spec("launch_ros") is not None:
    import launch_pytest
    from node_support import LOAD_TIMEOUT, Peer, image_message, make_checkpoint, picture

    @launch_pytest.fixture(scope="module")
    def launched(tmp_path_factory):
        from launch.actions import IncludeLaunchDescription
        from launch.launch_description_sources import PythonLaunchDescriptionSource
        from launch_pytest.actions import ReadyToTest

        from launch import LaunchDescription

        checkpoint = make_checkpoint(tmp_path_factory.mktemp("model") / "small.safetensors")
        return LaunchDescription(
            [
                IncludeLaunchDescription(
                    PythonLaunchDescriptionSource(str(LAUNCH_FILE)),
                    launch_arguments={
                        "checkpoint": str(checkpoint),
                        "image_topic": "/cam/image_raw",
                        "self_mask_topic": "/cam/arm",
                        "namespace": "robot",
                        "device": "cpu",
                        "params_file": str(ROOT / "config" / "detector.yaml"),
                    }.items(),
                ),
                ReadyToTest(),
            ]
        )

    @pytest.mark.launch(fixture=launched)
    def test_the_launched_detector_becomes_active_and_answers():
        peer = Peer("/robot/detector", "/cam/image_raw")
        try:
            peer.listen("mask", "state")
            peer.until(lambda: peer.state() == "active", "activation by the launch file", LOAD_TIMEOUT)
            peer.until(lambda: peer.node.count_subscribers("/cam/arm"), "the self mask's subscription")
            assert peer.set("max_age", 0.0).successful  # on a busy test machine every frame may be too old
            peer.connected("mask", "state")
            peer.exchange(image_message(picture(1), stamp=peer.now()), "mask", "state")
        finally:
            peer.close()
else:

    @pytest.mark.skip(
        reason="launch_pytest is not installed here (not on PyPI; apt install ros-$ROS_DISTRO-launch-pytest)"
    )
    def test_the_launched_detector_becomes_active_and_answers():
        """Stands in, so that the skip is seen by name."""


@needs_launch
def test_a_word_that_is_no_bool_is_refused():
    spec = importlib.util.spec_from_file_location("detect_launch", LAUNCH_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.is_true("autostart", "True") and not module.is_true("autostart", "false")
    with pytest.raises(RuntimeError, match="autostart:=maybe is neither true nor false"):
        module.is_true("autostart", "maybe")
    assert os.environ
