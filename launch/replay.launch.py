"""A recorded bag through the detector: `ros2 launch flowclas_ros replay.launch.py bag:=... checkpoint:=...`.

The bag is played with --clock once the detector is active, so that no frame is played to a model that still loads, and
everything ends with it, or at once and with an error where the detector or the player fails. Every argument of
detect.launch.py is taken as well; RViz and simulated time are on. Unlike there, this file drives the lifecycle: a node
that starts itself may fail before the launch has found it.
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
from launch.event_handlers import OnProcessExit, OnProcessStart
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from lifecycle_msgs.msg import Transition

from flowclas_ros.node.launch_arguments import is_true
from launch import Action, LaunchContext, LaunchDescription, LaunchDescriptionEntity

ARGUMENTS: dict[str, tuple[str, str]] = {  # name: (default, description)
    "rate": ("1.0", "Speed of the replay, 1.0 as recorded."),
    "loop": ("false", "Play the bag again and again."),
    "rviz": ("true", "Start RViz."),
    "use_sim_time": ("true", "Take the time from the bag's --clock."),
    "autostart": ("true", "Configure and activate the detector; false leaves that to a lifecycle manager."),
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
            # the player's function has read the argument by then
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(detect), launch_arguments={"autostart": "false"}.items()
            ),
        ]
    )


def player(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Plays the bag once the detector is active; ends everything when the bag ends."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ("bag", *ARGUMENTS)}
    if not os.path.exists(given["bag"]):
        raise RuntimeError(f"bag:={given['bag']} does not exist")
    # 200 Hz: frames' ages are told by this clock. The delay lets the player find its subscribers first.
    command = ["ros2", "bag", "play", given["bag"], "--clock", "200", "--rate", given["rate"], "--delay", "1.0"]
    if is_true("loop", given["loop"]):
        command.append("--loop")
    play = ExecuteProcess(cmd=command, output="screen")
    failed = failure("the detector has failed, see above")
    return [
        *(driver() if is_true("autostart", given["autostart"]) else []),
        RegisterEventHandler(OnStateTransition(goal_state="active", entities=[play], handle_once=True)),
        RegisterEventHandler(
            OnStateTransition(start_state="configuring", goal_state="unconfigured", entities=[failed])
        ),
        RegisterEventHandler(OnStateTransition(goal_state="errorprocessing", entities=[failed])),
        RegisterEventHandler(OnProcessExit(target_action=is_detector, on_exit=[failure("the detector has ended")])),
        RegisterEventHandler(OnProcessExit(target_action=play, on_exit=played)),
    ]


def driver() -> list[LaunchDescriptionEntity]:
    """Configures the detector once its process runs, and activates it once that succeeded."""
    configure, activate = (
        EmitEvent(event=ChangeState(lifecycle_node_matcher=is_detector, transition_id=transition))
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)
    )
    return [
        RegisterEventHandler(OnProcessStart(target_action=is_detector, on_start=[configure])),
        # from configuring alone: a node that someone deactivated stays so
        RegisterEventHandler(OnStateTransition(start_state="configuring", goal_state="inactive", entities=[activate])),
    ]


def is_detector(action: Action) -> bool:
    """The one lifecycle node here; it is made in the included file."""
    return isinstance(action, LifecycleNode)


def played(event: ProcessExited, context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Ends everything with the bag. While everything ends already nothing must: launch_ros fails at a second end."""
    if context.is_shutdown:
        return []
    if event.returncode:
        return [failure("the bag could not be played, see above")]
    return [EmitEvent(event=Shutdown(reason="the bag has ended"))]


def failure(reason: str) -> OpaqueFunction:
    """Ends everything, unless it ends already, as an error: only what is raised gives the launch an exit status."""

    def end(context: LaunchContext) -> None:
        if not context.is_shutdown:
            raise RuntimeError(reason)

    return OpaqueFunction(function=end)
