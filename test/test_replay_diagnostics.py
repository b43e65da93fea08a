"""/diagnostics in the annotated bag: the node's own statuses, beside what was recorded there."""

from __future__ import annotations

from replay_support import SECOND, TOPIC, frames, read, replay
from test_frames import TYPES, record


def test_diagnostics_come_once_a_second_beside_those_that_were_recorded(tmp_path, checkpoint):
    recorded = [TYPES["diagnostic_msgs/msg/DiagnosticArray"](header=frames()[0].header, status=[])]
    topics = {TOPIC: frames(), "/diagnostics": recorded}
    bag = record(tmp_path / "drive", topics, start_ns=5 * SECOND, step_ns=SECOND // 2)
    assert replay(bag, checkpoint, tmp_path / "out", "--keep", "/diagnostics") == 0
    found = [entry[1:] for entry in read(tmp_path / "out" / "annotated.mcap") if entry[0] == "/diagnostics"]
    own = [(stamp, message) for stamp, message in found if message.status]
    assert len(found) == len(own) + 1 and [stamp for stamp, _ in own] == [5 * SECOND, 6 * SECOND, 7 * SECOND]
    assert [message.header.stamp.sec for _, message in own] == [5, 6, 7]
    names = ["/detector: health", "/detector: hazard"]
    assert all([status.name for status in message.status] == names for _, message in own)
    assert [message.status[1].level for _, message in own] == [0, 0, 2]  # OK, OK, ERROR
    health = own[-1][1].status[0]
    assert health.level == 0 and {"frames processed": "5"}.items() <= {v.key: v.value for v in health.values}.items()


def test_another_type_on_the_diagnostics_topic_is_an_error(tmp_path, checkpoint, capsys):
    text = [TYPES["std_msgs/msg/String"](data="hello")]
    bag = record(tmp_path / "drive", {TOPIC: frames(), "/diagnostics": text})
    assert replay(bag, checkpoint, tmp_path / "out", "--keep", "/diagnostics") == 2
    assert "topic /diagnostics of bag" in capsys.readouterr().err
