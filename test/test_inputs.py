"""One camera's subscriptions in this process: what they hand on, and what they leave behind."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from node_support import ANSWER_TIMEOUT, hand, image_message, ros_context

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
from builtin_interfaces.msg import Time  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import DurabilityPolicy, HistoryPolicy, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import CameraInfo, CompressedImage, Image  # noqa: E402

from flowclas_ros.errors import FlowclasError  # noqa: E402
from flowclas_ros.node.inputs import Inputs  # noqa: E402
from flowclas_ros.node.parameters import Settings  # noqa: E402
from flowclas_ros.node.self_mask import SelfMask  # noqa: E402


@pytest.fixture
def made():
    """Makes Inputs on a node with parameters: .inputs, .node, .delivered, .wanted to set, and .spin_until."""
    nodes = []

    def make(**parameters):
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        node = rclpy.create_node("detector", context=context, parameter_overrides=overrides)
        nodes.append(node)
        executor.add_node(node)
        found = SimpleNamespace(node=node, delivered=[], wanted=True)
        found.inputs = Inputs(node, "", lambda *_: None, lambda: found.wanted, found.delivered.append)
        found.spin_until = spin_until
        return found

    def spin_until(condition, what):
        end = time.monotonic() + ANSWER_TIMEOUT
        while not condition():
            assert time.monotonic() < end, what
            executor.spin_once(timeout_sec=0.02)

    with ros_context() as context:
        executor = SingleThreadedExecutor(context=context)
        yield make
        executor.shutdown()
        for node in nodes:
            node.destroy_node()


def subscriptions(node):
    """By topic, without rclpy's own."""
    return {one.topic_name: one for one in node.subscriptions if one.topic_name not in ("/clock", "/parameter_events")}


def image(seconds=1):
    return image_message(np.zeros((4, 6, 3), np.uint8), stamp=Time(sec=seconds))


def depth(seconds=1):
    return image_message(np.ones((4, 6), np.float32), "32FC1", Time(sec=seconds))


def test_what_is_shut_leaves_no_subscription_and_no_timer_and_tells_how_many_frames_were_held_back(made):
    one = made()
    before = len(list(one.node.timers))
    settings = Settings(depth=True, depth_wait=10.0)
    for _ in range(2):
        one.inputs.open(settings, SelfMask(live=True))
        assert set(subscriptions(one.node)) == {"/image", "/depth", "/camera_info", "/self_mask"}
        hand(one.node, "/depth", depth(1))
        for second in (100, 101):
            hand(one.node, "/image", image(second))
        assert not one.delivered  # held back for their depth
        assert one.inputs.shut() == 2
        assert not subscriptions(one.node) and len(list(one.node.timers)) == before
        assert one.inputs.shut() == 0
    assert not one.delivered


def test_opened_again_depth_knows_the_camera_info_that_came_once(made):
    one = made()
    info = CameraInfo(width=6)
    one.inputs.open(Settings(depth=True), None)
    hand(one.node, "/camera_info", info)
    one.inputs.shut()
    one.inputs.open(Settings(depth=True), None)
    hand(one.node, "/depth", depth(1))
    hand(one.node, "/image", image(1))
    assert [(frame.camera_info, frame.reason) for frame in one.delivered] == [(info, "")]


def test_a_frame_waits_for_its_depth_by_the_wall_clock_also_where_the_simulations_stands_still(made):
    one = made(use_sim_time=True)
    one.inputs.open(Settings(depth=True, depth_wait=0.05), None)
    hand(one.node, "/depth", depth(1))
    sent = image(100)
    hand(one.node, "/image", sent)
    one.spin_until(lambda: one.delivered, "the frame without its depth")
    (frame,) = one.delivered
    assert frame.image is sent and frame.depth is None and "no depth within" in frame.reason


@pytest.mark.parametrize(
    ("values", "delivered", "paired"),
    [
        ({"depth_wait": 10.0}, [], False),
        ({"depth_wait": 0.0, "depth_slop": 0.5}, [3, 4, 5], False),
        ({"depth_wait": 10.0, "depth_queue": 2}, [3], False),
        ({"depth_wait": 10.0, "depth_slop": 3.0}, [3], True),  # with the depth of second 1
    ],
    ids=["held", "wait", "queue", "slop"],
)
def test_how_long_how_many_and_how_far_from_its_depth_a_frame_waits_is_the_parameters(made, values, delivered, paired):
    one = made()
    one.inputs.open(Settings(depth=True, **values), None)
    hand(one.node, "/depth", depth(1))
    for second in (3, 4, 5):
        hand(one.node, "/image", image(second))
    assert [frame.image.header.stamp.sec for frame in one.delivered] == delivered
    assert all((frame.depth is not None) == paired for frame in one.delivered)


@pytest.mark.parametrize("with_depth", [False, True])
def test_a_frame_carries_the_newest_camera_info(made, with_depth):
    """For the outputs' own, which depth has no part in."""
    one = made()
    one.inputs.open(Settings(depth=with_depth), None)
    infos = [CameraInfo(width=6), CameraInfo(width=7)]
    hand(one.node, "/image", image(1))
    for second, info in enumerate(infos, 2):
        hand(one.node, "/camera_info", info)
        hand(one.node, "/image", image(second))
    assert [frame.camera_info for frame in one.delivered] == [None, *infos]


@pytest.mark.parametrize("with_depth", [False, True])
def test_a_frame_that_is_not_wanted_goes_nowhere(made, with_depth):
    one = made()
    one.inputs.open(Settings(depth=with_depth), None)
    one.wanted = False
    hand(one.node, "/image", image())
    assert not one.delivered and one.inputs.shut() == 0


def test_where_no_image_comes_from_is_told_with_the_other_transport_if_that_is_there(made):
    one = made()
    one.inputs.open(Settings(transport="compressed"), None)
    assert one.inputs.absence() == ": nobody publishes /image/compressed"
    one.node.create_publisher(Image, "image", 1)
    told = ": nobody publishes /image/compressed, but /image is there (transport: raw)"
    one.spin_until(lambda: one.inputs.absence() == told, "the raw image being found")
    one.node.create_publisher(CompressedImage, "image/compressed", 1)
    one.spin_until(lambda: one.inputs.absence() == " on /image/compressed", "the compressed image being found")


@pytest.mark.parametrize(
    ("transport", "told"),
    [
        ("raw", ": /x/compressed carries sensor_msgs/msg/CompressedImage, not sensor_msgs/msg/Image: set transport: "
         "compressed, remap image to /x"),
        ("compressed", ": nobody publishes /x/compressed/compressed: remap image to /x"),
    ],
)  # fmt: skip
def test_an_image_that_was_remapped_to_the_compressed_topic_itself_is_told_with_the_way_out(made, transport, told):
    one = made()
    one.inputs._prefix = ""
    one.node.resolve_topic_name = lambda name: "/x/compressed" if name == "image" else f"/{name}"
    one.inputs.open(Settings(transport=transport), None)
    one.node.create_publisher(CompressedImage, "/x/compressed", 1)
    one.spin_until(lambda: one.inputs.absence() == told, f"the way out, not {one.inputs.absence()}")


def test_every_subscription_has_the_qos_of_the_parameters_and_the_overrides_of_its_own_topic(made):
    one = made(
        **{
            "qos_overrides./image.subscription.depth": 3,
            "qos_overrides./depth.subscription.reliability": "best_effort",
            "qos_overrides./camera_info.subscription.durability": "transient_local",
            "qos_overrides./self_mask.subscription.history": "keep_all",
            "qos_overrides./image.publisher.depth": 9,  # another side's
        }
    )
    one.inputs.open(Settings(depth=True, qos="reliable", qos_depth=7), SelfMask(live=True))
    found = {topic: one_of.qos_profile for topic, one_of in subscriptions(one.node).items()}
    assert {topic: qos.depth for topic, qos in found.items() if qos.history == HistoryPolicy.KEEP_LAST} == {
        "/image": 3,
        "/depth": 7,
        "/camera_info": 7,
    }
    best_effort = {topic for topic, qos in found.items() if qos.reliability == ReliabilityPolicy.BEST_EFFORT}
    latched = {topic for topic, qos in found.items() if qos.durability == DurabilityPolicy.TRANSIENT_LOCAL}
    assert (best_effort, latched) == ({"/depth"}, {"/camera_info"})


def test_what_ros2_param_dump_writes_of_the_overrides_is_read_back_as_none(made, tmp_path):
    """It asks for every parameter and writes YAML's null for one without a value, which ROS reads as a word."""
    one = made(**{"qos_overrides./image.subscription.depth": 3})
    one.inputs.open(Settings(), None)
    found = one.node.get_parameters_by_prefix("qos_overrides")
    values = {f"qos_overrides.{name}": parameter.value for name, parameter in found.items()}
    assert len(values) == 8  # four policies of two topics
    dump = tmp_path / "dump.yaml"
    dump.write_text(yaml.dump({"/detector": {"ros__parameters": values}}))
    with ros_context(["--ros-args", "--params-file", str(dump)]) as context:
        node = rclpy.create_node("detector", context=context)
        inputs = Inputs(node, "", lambda *_: None, lambda: True, lambda _: None)
        inputs.open(Settings(qos="reliable"), None)
        found = {topic: one_of.qos_profile for topic, one_of in subscriptions(node).items()}
        assert {topic: qos.depth for topic, qos in found.items()} == {"/image": 3, "/camera_info": 5}
        assert {qos.reliability for qos in found.values()} == {ReliabilityPolicy.RELIABLE}
        node.destroy_node()


@pytest.mark.parametrize(
    ("policy", "value"),
    [
        ("reliability", "sometimes"),
        ("durability", 1),
        ("history", ["keep_all"]),
        ("depth", "many"),
        ("depth", -1),
        ("depth", 2.5),
        ("depth", True),
        ("depth", [5]),
    ],
)
def test_a_qos_override_that_cannot_be_is_one_line_naming_it(made, policy, value):
    """And not rcl's `invalid allocator`, of which nobody could tell what to correct."""
    name = f"qos_overrides./image.subscription.{policy}"
    one = made(**{name: value})
    with pytest.raises(FlowclasError, match=f"{name} '.*' is not a value of that policy") as caught:
        one.inputs.open(Settings(), None)
    assert "\n" not in str(caught.value)
    one.inputs.shut()
    assert not subscriptions(one.node)
