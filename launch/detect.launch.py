"""The detector behind a camera: `ros2 launch flowclas_ros detect.launch.py image_topic:=... checkpoint:=...`.

Arguments that are left empty leave the value of the parameter file as it is. The launch file drives the lifecycle:
it configures the node once its process runs, and activates it once that succeeded.
"""

import os

from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnProcessStart
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.substitutions import FindPackageShare
from lifecycle_msgs.msg import Transition

from flowclas_ros.node.environment import settings_for_large_images
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity

ARGUMENTS = {  # name: (default, description)
    "image_topic": ("image", "Topic of the camera's sensor_msgs/Image."),
    "checkpoint": ("", "Path of the .safetensors checkpoint; empty: the parameter file's."),
    "params_file": (
        PathJoinSubstitution([FindPackageShare("flowclas_ros"), "config", "detector.yaml"]),
        "Parameter file of the detector.",
    ),
    "namespace": ("", "Namespace of the detector."),
    "device": ("", "auto, cpu, cuda or cuda:<n>; empty: the parameter file's."),
    "use_sim_time": ("false", "Take the time from /clock, as with a bag played with --clock or a simulation."),
    "autostart": ("true", "Configure and activate the detector; false leaves that to a lifecycle manager."),
    "log_level": ("info", "debug, info, warn, error or fatal."),
}


def generate_launch_description() -> LaunchDescription:
    """Arguments, environment, detector."""
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=description)
                for name, (default, description) in ARGUMENTS.items()
            ),
            # before the node, and for every process started after it: the camera's sending side wants it as well
            *(SetEnvironmentVariable(name, value) for name, value in settings_for_large_images(os.environ).items()),
            OpaqueFunction(function=detector),
        ]
    )


def detector(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The node with the arguments that were given, and the events that drive it."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    overrides: dict[str, object] = {name: given[name] for name in ("checkpoint", "device") if given[name]}
    overrides["use_sim_time"] = is_true("use_sim_time", given["use_sim_time"])
    overrides["autostart"] = False  # one driver of the lifecycle is enough, and it is this file
    node = LifecycleNode(
        package="flowclas_ros",
        executable="detector",
        name="detector",
        namespace=given["namespace"],
        output="screen",
        parameters=[given["params_file"], overrides],
        remappings=[("image", given["image_topic"])],
        arguments=["--ros-args", "--log-level", given["log_level"]],
    )
    if not is_true("autostart", given["autostart"]):
        return [node]
    configure = EmitEvent(
        event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=Transition.TRANSITION_CONFIGURE)
    )
    activate = EmitEvent(
        event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=Transition.TRANSITION_ACTIVATE)
    )
    return [
        # from configuring alone: a node that someone deactivated stays so
        RegisterEventHandler(
            OnStateTransition(
                target_lifecycle_node=node, start_state="configuring", goal_state="inactive", entities=[activate]
            )
        ),
        RegisterEventHandler(OnProcessStart(target_action=node, on_start=[configure])),
        node,
    ]


def is_true(name: str, value: str) -> bool:
    """The argument's value as a bool. Raises RuntimeError for any other word."""
    if value.lower() not in ("true", "false", "1", "0"):
        raise RuntimeError(f"{name}:={value} is neither true nor false")
    return value.lower() in ("true", "1")
