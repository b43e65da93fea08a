"""Detector for Autoware: `ros2 launch flowclas_ros autoware.launch.py checkpoint:=... depth_topic:=...`.

The driving parameters, and the hazard points as PointXYZIRC on <namespace>/detector/points_xyzirc, ready for Autoware's
concatenation; docs/integration.md. Every argument of detect.launch.py is taken as well.
"""

import os

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """The layout's converter beside detect.launch.py with the driving parameters."""
    detect = os.path.join(os.path.dirname(os.path.realpath(__file__)), "detect.launch.py")
    parameters = PathJoinSubstitution([FindPackageShare("flowclas_ros"), "config", "driving.yaml"])
    return LaunchDescription(
        [
            DeclareLaunchArgument("params_file", default_value=parameters, description="Parameters of the detector."),
            DeclareLaunchArgument(
                "namespace", default_value="perception/flowclas", description="Namespace of detector and points."
            ),
            Node(
                package="flowclas_ros",
                executable="autoware_points",
                name="autoware_points",
                namespace=LaunchConfiguration("namespace"),
                output="screen",
                remappings=[("points", "detector/points"), ("points_xyzirc", "detector/points_xyzirc")],
            ),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(detect)),
        ]
    )
