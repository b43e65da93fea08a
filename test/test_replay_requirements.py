"""Requirements of a replay: parsing and judging."""

import pytest

from flowclas_ros.errors import FlowclasError
from flowclas_ros.replay.requirements import line, parse


@pytest.mark.parametrize(
    ("text", "figure", "met"),
    [
        ("fpr95<=0.1", 0.1, True),
        ("fpr95 < 0.1", 0.1, False),
        ("auprc>=9e-1", 0.95, True),
        ("frames==3", 3, True),
        ("peak_max>2", 2.0, False),
        ("auprc>=0.1", None, False),
        ("fpr95<=0.1", float("nan"), False),
    ],
)
def test_a_requirement_holds_or_not_and_what_has_no_figure_does_not(text, figure, met):
    requirement = parse(text, masks=True)
    verdict = requirement.check({requirement.name: figure})
    assert verdict["met"] is met
    assert line(verdict).startswith("met" if met else "FAILED") and ("no figure" in line(verdict)) == (figure is None)


@pytest.mark.parametrize("text", ["fpr95", "fpr95=0.1", "fpr95<=nan", "fpr95<=low", "<=1", ""])
def test_what_is_no_requirement_is_refused(text):
    with pytest.raises(FlowclasError, match=r"not of the form fpr95<=0\.1"):
        parse(text, masks=True)
