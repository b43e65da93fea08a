"""Several cameras, one detector: `ros2 launch flowclas_ros multi_camera.launch.py cameras:=front,left checkpoint:=...`.

Their frames share a batch on the device; the outputs are ~/front/mask, ~/left/mask and so on. Every argument of
detect.launch.py is taken as well, `{camera}` in a topic standing for each camera's name.
"""

import os

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

from launch import LaunchDescription

ARGUMENTS: dict[str, tuple[str, str]] = {  # name: (default, description)
    "cameras": ("front,left,right", "Names of the cameras."),
    "image_topic": ("{camera}/image_raw", "Topic of each camera's sensor_msgs/Image."),
}


def generate_launch_description() -> LaunchDescription:
    """Other defaults for detect.launch.py."""
    detect = os.path.join(os.path.dirname(os.path.realpath(__file__)), "detect.launch.py")
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=description)
                for name, (default, description) in ARGUMENTS.items()
            ),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(detect)),
        ]
    )
