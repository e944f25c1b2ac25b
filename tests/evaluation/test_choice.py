"""Multiple choice by log-probability: what is scored, what is right, and which rows are refused."""

import asyncio
import json
import math

import pytest

from sft.errors import BadInput
from sft.evaluators import ChoiceBuilder
from sft.models.tokenizers import load_tokenizer
from sft.types import ChatDatasetBuilderCommonConfig
from tests.conftest import TINY_MODEL
from tests.more_chat_templates import NAMES, arguments_of, tokenizer_with

QUESTIONS = [
    {"question": "What is red?", "choices": ["blood", "a leaf", "the sky"], "answer": 0},
    {"question": "What is green?", "choices": ["blood", "a leaf", "the sky"], "answer": 1},
    {"question": "What is blå?", "choices": ["blod", "ett löv", "himlen"], "answer": 2},
]


def written(folder, *rows):
    path = folder / "questions.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def builder(tiny_model, path, **options):
    renderer = options.pop("renderer", None)
    common = ChatDatasetBuilderCommonConfig(str(tiny_model), renderer)
    return ChoiceBuilder(common, path, **options)


def run(evaluator, service):
    from sft.run.client import Connection, Service, await_client

    async def measured():
        connection = await Connection.open(await Service.reach(service))
        client = await await_client(
            lambda: connection.service.create_sampling_client(base_model=TINY_MODEL)
        )
        found = await evaluator(client)
        await connection.close("success")
        return found

    return asyncio.run(measured())


def direct(tiny_model, before, choice):
    """The log-probability of `choice` behind `before`, token after token, computed by torch."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    tokenizer = load_tokenizer(str(tiny_model))
    start = tokenizer.encode(before, add_special_tokens=False)
    tokens = start + tokenizer.encode(choice, add_special_tokens=False)
    with torch.no_grad():
        logprobs = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
    return sum(float(logprobs[i - 1, tokens[i]]) for i in range(len(start), len(tokens)))


TEMPLATES = [
    (None, "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"),
    ("role_colon", "User: {}\n\nAssistant: "),
]


@pytest.mark.parametrize("normalise", ["none", "tokens", "bytes"])
@pytest.mark.parametrize(("renderer", "before"), TEMPLATES, ids=["template", "role_colon"])
def test_it_picks_the_choice_that_a_direct_computation_finds_likeliest(
    local_service, tiny_model, tmp_path, renderer, before, normalise
):
    made = builder(
        tiny_model, written(tmp_path, *QUESTIONS), normalise=normalise, renderer=renderer
    )
    evaluator = made()
    measured = run(evaluator, local_service)
    right = []
    for row, asked in zip(evaluator.table, QUESTIONS, strict=True):
        size = {
            "none": lambda choice: 1,
            "tokens": lambda choice: len(choice.encode()),  # a token a byte
            "bytes": lambda choice: len(choice.encode()),
        }[normalise]
        scores = [
            direct(tiny_model, before.format(asked["question"]), choice) / size(choice)
            for choice in asked["choices"]
        ]
        assert row["answer"] == asked["choices"][scores.index(max(scores))]
        others = [s for place, s in enumerate(scores) if place != asked["answer"]]
        margin = scores[asked["answer"]] - max(others)
        assert row["margin"] == pytest.approx(margin, abs=1e-3)
        right.append(row["answer"] == asked["choices"][asked["answer"]])
    assert [row["right"] for row in evaluator.table] == right
    assert measured == {"eval/choice/accuracy": sum(right) / 3}
    assert evaluator.examples["eval/choice/accuracy"].value == measured["eval/choice/accuracy"]


class Scores:
    """A sampling client to which the last token of a sequence has the log-probability that `of`
    gives its character, and every other 0."""

    def __init__(self, of, tokenizer):
        self.of, self.tokenizer = of, tokenizer

    async def compute_logprobs(self, tokens):
        last = self.tokenizer.decode(tokens.to_ints()[-1:])
        return [None, *[0.0] * (len(tokens.to_ints()) - 2), self.of[last]]


TIED = [
    # choices, which is right, the log-probability of each, whether that is a right answer
    (["x", "y"], 0, {"x": -1.0, "y": -1.0}, False),
    (["x", "y"], 1, {"x": -1.0, "y": -1.0}, False),
    (["x", "y"], 1, {"x": -1.0, "y": -0.5}, True),
    (["x", "x ", "y"], 1, {"x": -1.0, "y": -2.0}, True),
    (["x", "x", "y"], 0, {"x": -1.0, "y": -0.5}, False),
    (["y", "x", "x"], 0, {"x": -1.0, "y": -0.5}, True),
    (["y", "x", "z"], 0, {"x": -1.0, "y": -0.5, "z": -0.5}, False),
]


@pytest.mark.parametrize(("choices", "answer", "logprobs", "right"), TIED)
def test_a_tie_is_not_right_and_of_two_equal_choices_either_is(
    tiny_model, tmp_path, choices, answer, logprobs, right
):
    row = {"question": "?", "choices": choices, "answer": answer}
    evaluator = builder(tiny_model, written(tmp_path, row))()
    measured = asyncio.run(evaluator(Scores(logprobs, load_tokenizer(str(tiny_model)))))
    [shown] = evaluator.table
    assert measured == {"eval/choice/accuracy": float(right)}
    assert (shown["answer"].strip() == choices[answer].strip()) is shown["right"] is right
    assert (shown["margin"] > 0) is right


@pytest.mark.parametrize("name", [name for name in NAMES if name != "deepseek-r1"])
def test_what_is_scored_are_a_choices_own_words_whatever_the_template_writes_around_them(
    name, tmp_path, monkeypatch
):
    tokenizer = tokenizer_with(name)
    monkeypatch.setattr("sft.evaluation.questions.load_tokenizer", lambda name: tokenizer)
    choices = ["The sky.", "ett löv, über all", " a sea "]
    path = written(tmp_path, {"question": "What is blå?", "choices": choices, "answer": 0})
    renderer = "role_colon" if name == "role_colon" else None
    common = ChatDatasetBuilderCommonConfig(
        "x", renderer, chat_template_kwargs=arguments_of(name), date="2026-11-26"
    )
    [found] = ChoiceBuilder(common, path)().choices
    words = [tokenizer.decode(choice.tokens[choice.start :]).strip() for choice in found]
    assert words == [choice.strip() for choice in choices]


MEANT = [
    ({"question": "?", "choices": ["x", "y"], "answer": 1}, 1),
    ({"prompt": "?", "options": ["x", "y"], "answer": "B"}, 1),
    ({"question": "?", "choices": ["x", "y"], "answer": "b"}, 1),
    ({"question": "?", "choices": ["x", "y"], "answer": " y "}, 1),
    ({"ctx": "The cat", "endings": ["sits.", "codes."], "label": "0"}, 0),
    ({"question": "?", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B"}, 1),
    ({"question": "?", "choices": {"text": ["2", "1"], "label": ["1", "2"]}, "answerKey": "1"}, 0),
    ({"question": "?", "choices": {"text": ["x", "y"], "label": [1, 2]}, "answer": 2}, 1),
    ({"question": "?", "choices": ["0", "1"], "answer": "1"}, 1),
    ({"messages": [{"role": "user", "content": "?"}], "choices": ["x", "y"], "answer": 0}, 0),
    ({"question": "?", "choices": ["x", "y", "y "], "answer": "y"}, 1),
]


@pytest.mark.parametrize(("row", "right"), MEANT)
def test_the_columns_of_published_sets_say_which_choice_is_right(tiny_model, tmp_path, row, right):
    [question] = builder(tiny_model, written(tmp_path, row))().questions
    assert question.right == right


GOOD = {"question": "?", "choices": ["x", "y"], "answer": 0}
BAD = [
    ("", "questions.jsonl is empty; expected a question a line"),
    ("{", "questions.jsonl line 1: not JSON"),
    ("[1]", "questions.jsonl line 1: expected a JSON object, not list"),
    ({**GOOD, "question": None}, "line 1: has no 'question' or 'prompt' or"),
    ({"quesion": "?", "choices": ["x", "y"]}, "did you mean 'question'?"),
    ({**GOOD, "question": " "}, "the question is empty"),
    ({**GOOD, "question": 3}, "the question is 3; expected text, or a list of messages"),
    ({**GOOD, "question": [{"role": "usr", "content": "?"}]}, "did you mean 'user'?"),
    ({**GOOD, "choices": ["x"]}, "the choices are ['x']; expected a list of two or more"),
    ({**GOOD, "choices": ["x", 3]}, "choice 1 is 3; expected text"),
    ({**GOOD, "choices": ["x", " "]}, "choice 1 is ' '; expected text"),
    ({**GOOD, "choices": {"text": ["x", "y"]}}, "without the lists 'text' and 'label'"),
    ({**GOOD, "choices": {"text": ["x", "y"], "label": ["A"]}}, "2 choices have 1 labels"),
    ({**GOOD, "choices": ["x", "x "]}, "all choices are 'x'; expected two that differ"),
    ({**GOOD, "answer": 2}, "the answer is 2; expected a choice's place, from 0 to 1"),
    ({**GOOD, "answer": "C"}, "the answer 'C' is none of the choices; expected its place, letter"),
    ({**GOOD, "answer": True}, "the answer True is none of the choices"),
    ({**GOOD, "choices": ["1", "0"], "answer": "1"}, "the answer '1' may mean choice 0 or 1"),
    (
        {"question": "?", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "C"},
        "the answer 'C' is none of the choices; expected one of the labels A, B",
    ),
]


@pytest.mark.parametrize(("row", "words"), BAD)
def test_a_row_that_is_no_question_is_refused_by_file_and_line(tiny_model, tmp_path, row, words):
    path = written(tmp_path, row)
    if isinstance(row, str):
        (tmp_path / "questions.jsonl").write_text(row)
    with pytest.raises(BadInput) as error:
        builder(tiny_model, path)()
    assert str(error.value).startswith("evaluators.args.path: ") and words in str(error.value)
    assert "questions.jsonl" in str(error.value)


def test_a_bad_row_is_named_by_its_own_line(tiny_model, tmp_path):
    with pytest.raises(BadInput, match=r"questions\.jsonl line 2: "):
        builder(tiny_model, written(tmp_path, GOOD, {}))()


@pytest.mark.parametrize(
    ("encoding", "end"),
    [("utf-8-sig", "\n"), ("utf-8-sig", "\r\n"), ("utf-8", "\r"), ("utf-16", "\n")],
)
def test_a_file_is_read_as_editors_write_it_with_its_blank_lines(
    tiny_model, tmp_path, encoding, end
):
    path = tmp_path / "questions.jsonl"
    text = end.join(["", *(json.dumps(row, ensure_ascii=False) for row in QUESTIONS), "", ""])
    path.write_bytes(text.encode(encoding))
    made = builder(tiny_model, str(path))()
    assert [one.asked[0]["content"] for one in made.questions] == [
        row["question"] for row in QUESTIONS
    ]
    assert [one.where for one in made.questions] == [f"{path} line {n}" for n in (2, 3, 4)]


def test_a_file_of_half_a_character_is_refused_by_its_own_key(tiny_model, tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_bytes(json.dumps(GOOD).encode("utf-16")[:-1])
    with pytest.raises(BadInput, match=r"^evaluators\.args\.path: .*is not UTF-16"):
        builder(tiny_model, str(path))()


def test_a_file_that_is_not_there_is_named_with_its_key(tiny_model, tmp_path):
    for path, words in [("nowhere.jsonl", "there is no such file"), (tmp_path, "is a folder")]:
        with pytest.raises(BadInput, match=f"evaluators.args.path: .*: {words}"):
            builder(tiny_model, str(path))()


def test_two_sets_of_examples_have_one_digest_only_if_they_are_the_same(
    local_service, tiny_model, tmp_path
):
    def digest(*rows, **options):
        evaluator = builder(tiny_model, written(tmp_path, *rows), **options)()
        run(evaluator, local_service)
        [examples] = evaluator.examples.values()
        assert len(examples.totals) == len(rows) and not math.isnan(examples.value)
        return examples.digest

    one, two, three = QUESTIONS
    same = digest(one, two, three)
    assert digest(one, two, three, name="again") == same
    assert digest(one, two, three, normalise="bytes") != same
    others = [(two, one, three), (one, two), (one, two, {**three, "answer": 0})]
    others.append((one, two, {**three, "choices": ["blod", "löv", "himlen"]}))
    assert len({same, *(digest(*rows) for rows in others)}) == 5
