"""What the banner says of the data."""

from sft.data.mixing.held_out import built
from sft.display.terminal import _describe_data
from tests.chat_data import common as common
from tests.chat_data import conversation, jsonl, write_jsonl


def test_conversations_that_are_held_out_elsewhere_are_counted(common, tmp_path):
    chats = write_jsonl(tmp_path / "a.jsonl", [conversation(i % 10) for i in range(20)])
    data = built(jsonl(common, chats, eval_size=2))
    facts = {"data": data.train.statistics, "held_out": data.held_out.statistics}
    said = _describe_data("a.jsonl", facts)
    assert said.endswith(", 2 conversations left out since the same ones are held out; held out: 2")
    assert ": 16 sequences, " in said
