"""The detector behind a camera: `ros2 launch flowclas_ros detect.launch.py image_topic:=... checkpoint:=...`.

Arguments that are left empty leave the value of the parameter file as it is. The node configures and activates itself,
since who drives it from here waits on after it has died, and so would the launch. With `cameras` the topics hold
`{camera}` in the place of each one's name; multi_camera.launch.py has such defaults.
"""

import os

from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode, Node
from launch_ros.substitutions import FindPackageShare

from flowclas_ros.node import parameters
from flowclas_ros.node.environment import settings_for_large_images
from flowclas_ros.node.launch_arguments import is_true
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity

ARGUMENTS = {  # name: (default, description)
    "image_topic": ("image", "Topic of the camera's sensor_msgs/Image; with transport compressed its base name."),
    "depth_topic": ("", "Topic of the depth image (16UC1 or 32FC1), registered to the camera's; empty: no depth."),
    "camera_info_topic": ("", "Topic of the camera's CameraInfo; empty: camera_info beside image_topic."),
    "self_mask_topic": ("", "Topic of mono8 masks, nonzero on the robot; empty: the parameter file's self_mask."),
    "cameras": ("", "Names of several cameras, front,left for instance; empty: the parameter file's."),
    "checkpoint": ("", "Path of the .safetensors checkpoint; empty: the parameter file's."),
    "params_file": (
        PathJoinSubstitution([FindPackageShare("flowclas_ros"), "config", "detector.yaml"]),
        "Parameter file of the detector.",
    ),
    "namespace": ("", "Namespace of the detector."),
    "device": ("", "auto, cpu, cuda or cuda:<n>; empty: the parameter file's."),
    "transport": ("", "raw or compressed; empty: the parameter file's."),
    "use_sim_time": ("false", "Take the time from /clock, as with a bag played with --clock or a simulation."),
    "rviz": ("false", "Start RViz with the camera (if raw), the overlay, the heat map, points and markers."),
    "fixed_frame": ("", "Frame that RViz draws in; empty: base_link. The samples and camera_sim have map."),
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
    """The node with the arguments that were given, and RViz if asked for."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    if not os.path.isfile(given["params_file"]):  # launch_ros would warn, and start the node on its defaults
        raise RuntimeError(f"params_file:={given['params_file']} is not a file")
    cameras = [name for name in given["cameras"].replace(",", " ").split() if name]
    overrides: dict[str, object] = {name: given[name] for name in ("checkpoint", "device", "transport") if given[name]}
    if cameras:
        overrides["cameras"] = cameras
    if given["depth_topic"]:
        overrides["depth"] = True
    if given["self_mask_topic"]:
        overrides["self_mask"] = "topic"
    overrides["use_sim_time"] = is_true("use_sim_time", given["use_sim_time"])
    overrides["autostart"] = is_true("autostart", given["autostart"])
    reason = parameters.contradiction(parameters.changed(parameters.Settings(), overrides))
    if reason:  # before anything runs: the node would end, and what was started beside it go on
        raise RuntimeError(reason)
    node = LifecycleNode(
        package="flowclas_ros",
        executable="detector",
        name="detector",
        namespace=given["namespace"],
        output="screen",
        parameters=[given["params_file"], overrides],
        remappings=remappings(given, cameras),
        arguments=["--ros-args", "--log-level", given["log_level"]],
    )
    extras = [viewer(given, cameras)] if is_true("rviz", given["rviz"]) else []
    return [*extras, node]


def remappings(given: dict[str, str], cameras: list[str]) -> list[tuple[str, str]]:
    """From the node's topics, under each camera's name where there are several, to those of the arguments."""
    topics = {name: given[f"{name}_topic"] for name in ("image", "depth", "camera_info", "self_mask")}
    if not topics["camera_info"] and topics["image"] != "image":
        beside, slash, _ = topics["image"].rpartition("/")
        topics["camera_info"] = f"{beside}{slash}camera_info"  # /image_raw has it at the root, whatever the namespace
    pairs = []
    for name, topic in topics.items():
        if cameras and topic and "{camera}" not in topic:
            if name == "image" and topic == "image":  # the default: the cameras' own names are right as they are
                continue
            raise RuntimeError(f"{name}_topic:={topic} must hold {{camera}} where there are several cameras")
        if not cameras and "{camera}" in topic:
            raise RuntimeError(f"{name}_topic:={topic} wants names for {{camera}}: cameras:=front,left for instance")
        if topic:
            pairs += [(f"{camera}/{name}", topic.replace("{camera}", camera)) for camera in cameras] or [(name, topic)]
    return pairs


def viewer(given: dict[str, str], cameras: list[str]) -> Node:
    """RViz on the detector's topics; with several cameras on the first one's."""
    camera = cameras[0] if cameras else ""
    source = f"detector/{camera}" if camera else "detector"  # relative: who includes this may push a namespace
    topics = [(f"/detector/{name}", f"{source}/{name}") for name in ("overlay", "heatmap", "points", "markers")]
    own = f"{camera}/image" if camera else "image"
    topics.append(("/image", dict(remappings(given, cameras)).get(own, own)))
    frame = ["--fixed-frame", given["fixed_frame"]] if given["fixed_frame"] else []
    return Node(
        package="rviz2",
        executable="rviz2",
        name="rviz",
        namespace=given["namespace"],
        arguments=["-d", PathJoinSubstitution([FindPackageShare("flowclas_ros"), "rviz", "overlay.rviz"]), *frame],
        parameters=[{"use_sim_time": is_true("use_sim_time", given["use_sim_time"])}],
        remappings=topics,
    )
