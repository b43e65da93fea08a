"""The ROS 2 face: the lifecycle detector node, its parameters and messages."""
