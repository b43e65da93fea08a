"""Detector and Servo guard for a manipulator: `ros2 launch flowclas_ros servo_guard.launch.py checkpoint:=...`.

The guard pauses MoveIt Servo (Jazzy and newer) on a hazard and on a detector that does not see; docs/integration.md.
Every argument of detect.launch.py is taken as well but `cameras`, which the parameter file must not name either: the
guard listens to one camera's state.
"""

import os

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity


def generate_launch_description() -> LaunchDescription:
    """The guard beside detect.launch.py with the manipulator's parameters."""
    detect = os.path.join(os.path.dirname(os.path.realpath(__file__)), "detect.launch.py")
    parameters = PathJoinSubstitution([FindPackageShare("flowclas_ros"), "config", "manipulator.yaml"])
    return LaunchDescription(
        [
            DeclareLaunchArgument("params_file", default_value=parameters, description="Parameters of the detector."),
            DeclareLaunchArgument("namespace", default_value="", description="Namespace of detector and guard."),
            DeclareLaunchArgument(
                "pause_service", default_value="/servo_node/pause_servo", description="Servo's pause service."
            ),
            OpaqueFunction(function=refuse_cameras),
            # first: what it refuses would end the launch before it knows of a process it has just begun, and leave that
            IncludeLaunchDescription(PythonLaunchDescriptionSource(detect)),
            Node(
                package="flowclas_ros",
                executable="servo_guard",
                name="servo_guard",
                namespace=LaunchConfiguration("namespace"),
                output="screen",
                parameters=[{"pause_service": LaunchConfiguration("pause_service")}],
                remappings=[("state", "detector/state")],
            ),
        ]
    )


def refuse_cameras(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Their states are on other topics than the guard's: it would hear none, and Servo would stay paused."""
    cameras = LaunchConfiguration("cameras", default="").perform(context)
    if cameras:
        raise RuntimeError(
            f"cameras:={cameras}: the guard listens to one camera's state; launch multi_camera.launch.py, and guard "
            "Servo by a node of your own that listens to all of them"
        )
    return []
