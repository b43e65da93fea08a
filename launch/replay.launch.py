"""A recorded bag through the detector: `ros2 launch flowclas_ros replay.launch.py bag:=... checkpoint:=...`.

The bag is played with --clock once the detector is active, so that no frame is played to a model that still loads, and
everything ends with it, or at once where the detector fails or has ended. Every argument of detect.launch.py is taken
as well; RViz and simulated time are on.
"""

import os

from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity

ARGUMENTS: dict[str, tuple[str, str]] = {  # name: (default, description)
    "rate": ("1.0", "Speed of the replay, 1.0 as recorded."),
    "loop": ("false", "Play the bag again and again."),
    "rviz": ("true", "Start RViz."),
    "use_sim_time": ("true", "Take the time from the bag's --clock."),
}


def generate_launch_description() -> LaunchDescription:
    """Arguments, the player's start and end, and detect.launch.py."""
    detect = os.path.join(os.path.dirname(os.path.realpath(__file__)), "detect.launch.py")
    return LaunchDescription(
        [
            DeclareLaunchArgument("bag", description="Path of the rosbag2 recording: a folder, .mcap or .db3."),
            *(
                DeclareLaunchArgument(name, default_value=default, description=description)
                for name, (default, description) in ARGUMENTS.items()
            ),
            OpaqueFunction(function=player),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(detect)),
        ]
    )


def player(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Plays the bag once the detector is active; ends everything when the bag ends."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ("bag", *ARGUMENTS)}
    if not os.path.exists(given["bag"]):
        raise RuntimeError(f"bag:={given['bag']} does not exist")
    # 200 Hz: frames' ages are told by this clock. The delay lets the player find its subscribers first.
    command = ["ros2", "bag", "play", given["bag"], "--clock", "200", "--rate", given["rate"], "--delay", "1.0"]
    if given["loop"].lower() in ("true", "1"):
        command.append("--loop")
    play = ExecuteProcess(cmd=command, output="screen")
    failed = EmitEvent(event=Shutdown(reason="the detector has failed, see above"))
    gone = EmitEvent(event=Shutdown(reason="the detector has ended"))
    return [
        RegisterEventHandler(OnStateTransition(goal_state="active", entities=[play], handle_once=True)),
        RegisterEventHandler(
            OnStateTransition(start_state="configuring", goal_state="unconfigured", entities=[failed])
        ),
        RegisterEventHandler(OnStateTransition(goal_state="errorprocessing", entities=[failed])),
        RegisterEventHandler(
            OnProcessExit(target_action=lambda action: isinstance(action, LifecycleNode), on_exit=[gone])
        ),
        RegisterEventHandler(
            OnProcessExit(target_action=play, on_exit=[EmitEvent(event=Shutdown(reason="the bag has ended"))])
        ),
    ]
