"""A node from its first line to its last: made, at work until it is stopped, and taken down however that ended."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Callable
from typing import TypeVar

import rclpy
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException, NameValidationException
from rclpy.executors import ExternalShutdownException
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.signals import uninstall_signal_handlers

from flowclas_ros.allocator import keep_freed_memory
from flowclas_ros.errors import FlowclasError

Made = TypeVar("Made", bound=Node)


def run(
    make: Callable[[], Made], work: Callable[[Made], object] = rclpy.spin, arguments: list[str] | None = None
) -> int:
    """`work` on the node of `make` until it returns, SIGINT or SIGTERM. arguments: the process's own for None.

    Returns the exit status: 2 with one line on stderr for what the user can act on, a parameter for instance.
    """
    keep_freed_memory()
    # Python's last look through what torch holds takes a second of a core: on a busy robot the launch loses patience
    atexit.register(gc.freeze)
    node = None
    try:
        try:
            rclpy.init(args=arguments)
        except RuntimeError as error:  # rclpy's several, of the arguments: a file that is not there, a bad remapping
            raise FlowclasError(" ".join(str(error).split())) from error
        node = make()
        work(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (
        FlowclasError,
        InvalidParameterTypeException,
        InvalidParameterValueException,
        NameValidationException,
    ) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except rclpy_implementation.RCLError:
        if rclpy.ok():
            raise  # else SIGTERM, which shuts ROS down from a thread of its own, came amid a publication
    finally:
        if node is not None:
            node.destroy_node()
        # rclpy's thread for signals goes first: it may log while the log is taken down (as in ros2/rclcpp issue 1418)
        uninstall_signal_handlers()
        rclpy.try_shutdown()
    return 0
