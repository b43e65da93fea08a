"""The parameters' rules, without ROS: what is refused, when, and in which words."""

from __future__ import annotations

import math
from array import array

import pytest

from flowclas_ros.node import parameters
from flowclas_ros.node.parameters import OUTPUTS, Settings


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"precision": "fp8"}, "precision 'fp8' is none of fp32, bf16, fp16"),
        ({"transport": "theora"}, "transport 'theora' is none of raw, compressed"),
        ({"qos": "best"}, "qos 'best' is none of sensor_data, reliable"),
        ({"threshold": -math.inf}, "threshold -inf is not a score"),
        ({"threshold": -1e39}, "threshold -1e+39 is not a score"),
        ({"false_alarm_rate": 0.0}, "false_alarm_rate 0 is not between 0 and 1"),
        ({"false_alarm_rate": 1.0}, "false_alarm_rate 1 is not between 0 and 1"),
        ({"region_of_interest": (0.0, 0.0, 1.0)}, "four shares"),
        ({"region_of_interest": (0.5, 0.0, 0.5, 1.0)}, "left < right"),  # empty
        ({"region_of_interest": (0.0, 0.7, 1.0, 0.3)}, "top < bottom"),
        ({"region_of_interest": (0.0, 0.5, 1.0, 0.5)}, "top < bottom"),
        ({"region_of_interest": (-0.1, 0.0, 1.0, 1.0)}, "in 0..1"),
        ({"region_of_interest": (0.0, -0.1, 1.0, 1.0)}, "in 0..1"),
        ({"region_of_interest": (0.0, 0.0, 640.0, 1.0)}, "in 0..1"),  # in pixels
        ({"region_of_interest": (0.0, 0.0, 1.0, 480.0)}, "in 0..1"),
        ({"region_of_interest": (0.0, math.nan, 1.0, 1.0)}, "top < bottom"),
        ({"device": "gpu"}, "device 'gpu' is none of auto, cpu, cuda"),
        ({"device": "cuda:"}, "device 'cuda:'"),
        ({"device": "cpu:0"}, "device 'cpu:0'"),
        ({"publish": ("", "mask")}, "publish: '' is none of score"),
        ({"cameras": ()}, "needs at least one name"),
        ({"cameras": ("front", "left", "front")}, "each once"),
        ({"cameras": ("front", "")}, "'' cannot stand in a topic name"),
        ({"cameras": ("front/wide",)}, "'front/wide' cannot stand in a topic name"),
        ({"cameras": ("2nd",)}, "'2nd' cannot stand in a topic name"),
    ],
)
def test_settings_that_contradict_themselves_are_one_line_naming_the_parameter_and_the_value(values, words):
    found = parameters.contradiction(parameters.changed(Settings(), values))
    assert words in found and found.startswith(next(iter(values))) and "\n" not in found


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"threshold": 3.4e38},
        {"threshold": -2.0},  # scores may lie below zero
        {"threshold": 2.0, "false_alarm_rate": 0.0},  # which a threshold overrules
        {"region_of_interest": (0.0, 0.25, 1.0, 1.0)},
        {"device": "cuda:10"},
        {"publish": ("",)},
        {"publish": OUTPUTS[:1]},
        {"cameras": ("front_2", "Left")},
    ],
)
def test_settings_that_go_together_are_taken(values):
    assert parameters.contradiction(parameters.changed(Settings(), values)) == ""


def test_while_configured_only_live_parameters_change_and_the_others_may_be_set_to_what_they_are():
    settings = Settings(checkpoint="site.safetensors", cameras=("front", "left"))
    assert parameters.refusal(settings, {"min_area": 7, "threshold": 2.0}, configured=True) == ""
    for name, value in (("checkpoint", "other.safetensors"), ("cameras", ["left", "front"]), ("qos_depth", 6)):
        refused = parameters.refusal(settings, {"min_area": 7, name: value}, configured=True)
        assert refused == f"{name} takes effect when the node configures: deactivate and clean up first"
        assert parameters.refusal(settings, {name: value}, configured=False) == ""
    # as a parameter file that is loaded once more, or a tool that sets all of them, does
    same = {"checkpoint": "site.safetensors", "cameras": ["front", "left"], "depth": False, "depth_slop": 0.02}
    assert parameters.refusal(settings, same, configured=True) == ""


def test_what_is_refused_is_what_the_values_and_those_at_hand_come_to_together():
    narrow = Settings(threshold=2.0, false_alarm_rate=0.0)
    refused = parameters.refusal(narrow, {"threshold": math.nan}, configured=True)
    assert "false_alarm_rate 0 is not between 0 and 1" in refused
    both = {"threshold": math.nan, "false_alarm_rate": 0.01}
    assert parameters.refusal(narrow, both, configured=True) == ""


def test_the_parameters_of_others_pass_and_lists_and_arrays_become_tuples():
    """rclpy gives arrays of numbers as array.array; use_sim_time and the QoS overrides are not the table's."""
    changes = {"use_sim_time": True, "region_of_interest": array("d", [0.0, 0.5, 1.0, 1.0]), "publish": ["mask"]}
    assert parameters.refusal(Settings(), changes, configured=True) == ""
    settings = parameters.changed(Settings(min_area=7), changes)
    expected = Settings(min_area=7, region_of_interest=(0.0, 0.5, 1.0, 1.0), publish=("mask",))
    assert vars(settings) == vars(expected)  # from Python 3.13 on settings with a NaN are not equal
