"""What is scored of a text, token by token, and what is read from a log of lm-evaluation-harness.

None of it needs the harness.
"""

import math

import pytest

from sft.evaluation.harnesses import lm_eval_log
from sft.evaluation.harnesses.texts import Scored, Texts
from sft.models.tokenizers import load_tokenizer
from sft.renderers import get_renderer


def texts(tiny_model):
    tokenizer = load_tokenizer(str(tiny_model))
    return Texts(tokenizer, get_renderer(None, tokenizer)), tokenizer


@pytest.mark.parametrize(
    ("behind", "text", "scored"),
    [("Red as", " blood", " blood"), ("Red as ", "blood", " blood"), ("", "blood", "blood")],
)
def test_white_space_that_ends_a_prompt_belongs_to_what_is_scored(tiny_model, behind, text, scored):
    made, tokenizer = texts(tiny_model)
    for messages in (None, [{"role": "user", "content": "Hi"}]):
        found = made.continuation(messages, behind, text)
        assert tokenizer.decode(found.tokens[found.start :]) == scored
        assert tokenizer.decode(found.tokens).endswith(behind + text)
    prompt = made.prompt([{"role": "user", "content": "Hi"}], behind)
    assert tokenizer.decode(prompt).endswith(f"<|im_start|>assistant\n{behind}")


def test_a_token_that_would_reach_over_the_border_costs_no_character():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {"<end>": 0, "a": 1, "t": 2, "s": 3, "at": 4}
    model = Tokenizer(models.BPE(words, [("a", "t")]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, eos_token="<end>")
    made = Texts(tokenizer, get_renderer("role_colon", tokenizer))
    assert made.continuation(None, "sa", "ts") == Scored([3, 1, 2, 3], 2)
    assert made.continuation(None, "s", "ats") == Scored([3, 4, 3], 1)


@pytest.mark.parametrize("length", [2, 3, 4, 5, 6, 7])
def test_each_token_of_a_long_text_is_scored_once_in_full_windows(tiny_model, length):
    made, tokenizer = texts(tiny_model)
    windows = list(made.windows("abcdef", length))
    assert "".join(tokenizer.decode(one.tokens[one.start :]) for one in windows) == "abcdef"
    assert all(len(one.tokens) == length and one.start >= 1 for one in windows)
    assert windows[0] == Scored(windows[0].tokens, 1)
    assert windows[0].tokens[0] == tokenizer.eos_token_id  # of a tokenizer that has no other


def sample(doc, filter_, **values):
    row = {"prompt": "p", "answer": "x", "reference": "y"}
    return {"id": doc, "filter": filter_, "row": row, "asked": str(doc), "values": values}


LOG = {
    "roots": ["all"],
    "groups": {"all": ["part", "c"], "part": ["a", "b"]},
    "aggregations": {
        "a": {"acc": "mean", "spread": "median"},
        "b": {"acc": "mean"},
        "c": {"bits_per_byte": "bits_per_byte"},
    },
    "results": {
        "all": {"acc,none": 0.6},
        "part": {},
        "a": {"acc,none": 0.5, "acc,other": 0.0, "spread,none": 0.5},
        "b": {"acc,none": 1.0},
        "c": {"bits_per_byte,none": 2.0},
    },
    "samples": {
        "a": [
            sample(0, "none", acc=1.0, spread=0.5),
            sample(1, "none", acc=0.0, spread=0.5),
            sample(0, "other", acc=0.0),
            sample(1, "other", acc=0.0),
        ],
        "b": [sample(0, "none", acc=1.0), sample(1, "none", acc=None)],
        "c": [sample(0, "none", bits_per_byte=[-20 * math.log(2), 10.0])],
    },
}


def test_a_group_without_metrics_of_its_own_is_seen_through_to_its_members():
    assert lm_eval_log.metrics(LOG, "mine") == {
        "eval/mine/acc": 0.6,
        "eval/mine/a/none/acc": 0.5,
        "eval/mine/a/other/acc": 0.0,
        "eval/mine/a/spread": 0.5,
        "eval/mine/b/acc": 1.0,
        "eval/mine/c/bits_per_byte": 2.0,
    }
    assert lm_eval_log.names({"results": None}, "mine") is None


def test_metrics_that_are_means_of_their_examples_have_them_and_no_others():
    found = lm_eval_log.examples(LOG, "mine")
    assert set(found) == {
        "eval/mine/a/none/acc",
        "eval/mine/a/other/acc",
        "eval/mine/b/acc",
        "eval/mine/c/bits_per_byte",
    }  # not the group's, in which the tasks count the same
    assert list(found["eval/mine/c/bits_per_byte"].weights) == [10.0]
    assert found["eval/mine/a/none/acc"].digest != found["eval/mine/a/other/acc"].digest


def test_a_row_holds_what_each_filter_makes_of_the_answer():
    rows = lm_eval_log.rows(LOG)
    assert rows[0]["none acc"] == 1.0 and rows[0]["other acc"] == 0.0
    assert rows[2]["acc"] == 1.0 and rows[2]["task"] == "b" and "acc" not in rows[3]
