"""The node's services: ~/enable pauses and resumes, ~/load_checkpoint swaps the model."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.exceptions import InvalidHandle
from rclpy.task import Future
from std_srvs.srv import SetBool

from flowclas_ros.errors import FlowclasError
from flowclas_ros.node.search import load, reason_of
from flowclas_ros.srv import LoadCheckpoint

if TYPE_CHECKING:
    from flowclas_ros.detection.detector import Detector
    from flowclas_ros.node.detector_node import DetectorNode
    from flowclas_ros.node.parameters import Settings


class Control:
    """Offers the services for the node's whole life; before it is configured they say what is missing."""

    def __init__(self, node: Any, controlled: DetectorNode):
        self._controlled = controlled
        node.create_service(SetBool, "~/enable", self._enable)
        # a group of its own: while a load is awaited, everything else of the node goes on, and a second load waits
        group = MutuallyExclusiveCallbackGroup()
        node.create_service(LoadCheckpoint, "~/load_checkpoint", self._load_checkpoint, callback_group=group)
        self._wake = node.create_guard_condition(lambda: None)

    def _enable(self, request: Any, response: Any) -> Any:
        try:
            self._controlled.enable(request.data)
            response.success, response.message = True, "looking" if request.data else "paused"
        except (FlowclasError, TimeoutError) as error:  # the latter of a device that hangs; raised, it ends the node
            response.message = str(error)
        return response

    async def _load_checkpoint(self, request: Any, response: Any) -> Any:
        controlled = self._controlled
        if controlled.detector is None:
            response.message = "the node is not configured: set the parameter checkpoint, then configure"
            return response
        done: Future = Future()
        arguments = (request.path, controlled.settings, controlled.swapper(), done)
        # a thread of its own: the worker goes on with the old model, and the executor goes on parking frames. The
        # process waits for it at its end: a daemon that is torn out of PyTorch there aborts it
        threading.Thread(target=self._load, args=arguments, name="checkpoint_loader", daemon=False).start()
        reason = await done
        if not reason:
            controlled.adopted(request.path)
        response.success = not reason
        detector = controlled.detector
        if detector is not None:
            response.name, response.sha256 = str(detector.header["name"]), str(detector.header["sha256"])
        stays = "" if detector is None else "; the one in use stays"  # None: cleaned up meanwhile
        response.message = reason + stays if reason else f"checkpoint '{response.name}' is in use"
        return response

    def _load(self, path: str, settings: Settings, swap: Callable[[Detector], None], done: Future) -> None:
        reason = ""
        try:
            if not path:
                raise FlowclasError("path is empty: give that of a .safetensors checkpoint")
            detector = load(settings, path)
            try:
                swap(detector)
            except BaseException:
                detector.close()
                raise
        except Exception as error:
            reason = reason_of(error)
        done.set_result(reason)
        with contextlib.suppress(InvalidHandle):  # the node is gone, and who asked with it
            self._wake.trigger()  # or the executor would notice with its next timer only
