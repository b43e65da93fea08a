"""Detector for Autoware: `ros2 launch flowclas_ros autoware.launch.py checkpoint:=... depth_topic:=...`.

The driving parameters, and the hazard points as PointXYZIRC on <namespace>/detector/points_xyzirc, ready for Autoware's
concatenation; docs/integration.md. Every argument of detect.launch.py is taken as well; with `cameras`, which must be
given here even where the parameter file names them, the points of each are on
<namespace>/detector/<camera>/points_xyzirc.
"""

import os

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity


def generate_launch_description() -> LaunchDescription:
    """The layout's converters beside detect.launch.py with the driving parameters."""
    detect = os.path.join(os.path.dirname(os.path.realpath(__file__)), "detect.launch.py")
    parameters = PathJoinSubstitution([FindPackageShare("flowclas_ros"), "config", "driving.yaml"])
    return LaunchDescription(
        [
            DeclareLaunchArgument("params_file", default_value=parameters, description="Parameters of the detector."),
            DeclareLaunchArgument(
                "namespace", default_value="perception/flowclas", description="Namespace of detector and points."
            ),
            # first: what it refuses would end the launch before it knows of a process it has just begun, and leave that
            IncludeLaunchDescription(PythonLaunchDescriptionSource(detect)),
            OpaqueFunction(function=converters),
        ]
    )


def converters(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """One for the detector's points, or for each camera's."""
    cameras = LaunchConfiguration("cameras", default="").perform(context).replace(",", " ").split()
    return [converter(camera) for camera in cameras or [""]]


def converter(camera: str) -> Node:
    """The node that turns the points of `camera`, empty for the only one, into Autoware's layout."""
    source = f"detector/{camera}" if camera else "detector"
    return Node(
        package="flowclas_ros",
        executable="autoware_points",
        name=f"autoware_points_{camera}" if camera else "autoware_points",
        namespace=LaunchConfiguration("namespace"),
        output="screen",
        remappings=[(name, f"{source}/{name}") for name in ("points", "points_xyzirc")],
    )
