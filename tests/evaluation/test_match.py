"""Generated answers against references: each way to compare, and which rows are refused."""

import asyncio
import json
from types import SimpleNamespace

import pytest

from sft.errors import BadInput
from sft.evaluation.matching import HOW
from sft.evaluators import MatchBuilder
from sft.models.tokenizers import load_tokenizer
from sft.types import ChatDatasetBuilderCommonConfig
from tests.evaluation.test_choice import run, written

COMPARED = [
    ("exact", "Yes.", "Yes.", True),
    ("exact", "Yes.", " Yes.\n", True),
    ("exact", "Yes.", "yes.", False),
    ("exact", "Yes.", "Yes. It is.", False),
    ("normalised", "New York", "  new\tyork.", True),
    ("normalised", "don't", "DON’T!", True),
    ("normalised", "ﬁve", "five", True),
    ("normalised", "A", "a", True),
    ("normalised", "A", "", False),
    ("normalised", "काम", "कम", False),
    ("normalised", "C++", "C#", False),
    ("normalised", "the", "A", False),
    ("normalised", "5", "-5", False),
    ("normalised", "3.14", "314", False),
    ("normalised", "well known", "well known fact", False),
    ("normalised", "red, blue", "red,blue", True),
    ("normalised", "New York", "New-York", True),
    ("normalised", "and/or", "and or", True),
    ("normalised", "e-mail", "email", True),
    ("normalised", "the U.S.", "the US", True),
    ("normalised", "-5", "−5", True),
    ("normalised", "10-12", "10–12", True),
    ("normalised", "-$5", "$5", False),
    ("normalised", "50%", "50 %.", True),
    ("normalised", "No. 5", "no.5", True),
    ("normalised", "Covid-19", "COVID 19", True),
    ("normalised", "3 4", "34", False),
    ("normalised", "3; 4", "3 (4)", True),
    ("normalised", "10:30", "1030", False),
    ("normalised", "x", "`x`", True),
    ("regex", "^yes", "yes, it is", True),
    ("regex", "^yes", "Yes, it is", False),
    ("regex", "(?i)yes|yep", "I say Yep.", True),
    ("regex", r"^\d+$", "12 eggs", False),
    ("number", "42", "The answer is 42.", True),
    ("number", "42", "42, not 43", False),
    ("number", "42", "none", False),
    ("number", "She eats 2 + 3 = 5.\n#### 5", "so 5", True),
    ("number", "2 eggs #### 1,234", "that makes $1,234.00", True),
    ("number", "-3", "It is −3", True),
    ("number", "-3", "10-3", False),
    ("number", "-5", "-$5", True),
    ("number", "0.5", ".5", True),
    ("number", "0.5", "50%", False),
    ("number", "1000", "1e3", True),
    ("number", "12", "**12**", True),
    ("number", "42", r"\boxed{42}", True),
    ("number", "1234567", "1,234,567 people", True),
    ("number", "1000", "1 000 eggs", True),
    ("number", "1000", "1\u202f000", True),
    ("number", "0", "1 000", False),
    ("number", "200", "5 10 200", True),
    ("number", "100000", "1,00,000", True),
    ("number", "1234567.5", "1.234.567,5", True),
    ("number", "1234.5", "1.234,5", True),
    ("number", "3.5", "3,5", True),
    ("number", "5", "3,5", False),
    ("number", "0.5", "1/2", True),
    ("number", "2", "1/2", False),
    ("number", "2.5", "2 1/2", True),
    ("number", "1/3", r"$\frac{1}{3}$", True),
    ("number", "2024", "01/05/2024", False),
    ("number", "3", "version 1.2.3", False),
    ("number", "3", "1,2,3", False),
    ("number", "1", "1/0", False),
    ("number", "1", f"{'1' * 5000} 1/{'1' * 5000}", False),
    ("number", "-5", "–5", True),
    ("number", "12", "10–12", True),
    ("number", "42", "42 (100%)", True),
    ("number", "42", "12 + 30 = 42 (7 more than 35).", True),
    ("number", "42", r"12 and 30 make \(42\).", True),
    ("number", "-42", "(−42)", True),
    ("number", "12000", r"12{,}000 or 12\,000", True),
    ("number", "1e16", "10,000,000,000,000,000", True),
    ("number", "7", "1e99999999999999999999 or 7", True),
]


@pytest.mark.parametrize(("how", "reference", "answer", "right"), COMPARED)
def test_an_answer_is_compared_in_the_way_that_is_asked_for(how, reference, answer, right):
    assert HOW[how](reference)(answer) is right


class Says:
    """A sampling client that answers every prompt with `text`, and what it was asked."""

    def __init__(self, text, tokenizer):
        self.tokens = [*tokenizer.encode(text), tokenizer.eos_token_id]
        self.asked = []

    async def sample(self, prompt, num_samples, sampling_params):
        self.asked.append((prompt.to_ints(), sampling_params))
        return SimpleNamespace(sequences=[SimpleNamespace(tokens=self.tokens, stop_reason="stop")])


def builder(tiny_model, path, **options):
    return MatchBuilder(ChatDatasetBuilderCommonConfig(str(tiny_model)), path, **options)


ROWS = [
    {"question": "2 + 2?", "answer": "4"},
    {"prompt": "2 + 3?", "reference": 5},
    {"prompt": [{"role": "system", "content": "Count."}, {"role": "user", "content": "1?"}],
     "answer": "It is 4."},
]  # fmt: skip


def test_its_table_shows_prompt_answer_and_reference_and_what_is_right(tiny_model, tmp_path):
    tokenizer = load_tokenizer(str(tiny_model))
    evaluator = builder(tiny_model, written(tmp_path, *ROWS), how="number", max_tokens=9)()
    client = Says("It is 4.", tokenizer)
    measured = asyncio.run(evaluator(client))
    assert measured == {"eval/match/accuracy": pytest.approx(2 / 3)}
    assert evaluator.examples["eval/match/accuracy"].value == measured["eval/match/accuracy"]
    assert evaluator.metrics == ("eval/match/accuracy",)
    assert evaluator.table[1] == {
        "prompt": "2 + 3?", "answer": "It is 4.", "reference": "5", "right": False,
        "stop_reason": "stop",
    }  # fmt: skip
    assert evaluator.table[2]["prompt"] == "system: Count.\nuser: 1?"
    prompt, params = client.asked[0]
    assert tokenizer.decode(prompt) == (
        "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert (params.max_tokens, params.temperature, params.seed) == (9, 0.0, 0)


def test_answers_above_temperature_0_are_seeded(local_service, tiny_model, tmp_path):
    path = written(tmp_path, *ROWS)

    def answers(seed):
        evaluator = builder(tiny_model, path, temperature=2.0, seed=seed, max_tokens=9)()
        run(evaluator, local_service)
        return [row["answer"] for row in evaluator.table]

    assert answers(1) == answers(1) != answers(7)


def test_an_answer_that_the_service_gives_is_right_if_it_is_the_reference(
    local_service, tiny_model, tmp_path
):
    options = {"how": "exact", "temperature": 2.0, "max_tokens": 9}
    evaluator = builder(tiny_model, written(tmp_path, ROWS[0]), **options)()
    run(evaluator, local_service)
    said = evaluator.table[0]["answer"]
    path = written(tmp_path, {**ROWS[0], "answer": f" {said}"}, {**ROWS[0], "answer": "no"})
    measured = run(builder(tiny_model, path, **options)(), local_service)
    assert measured == {"eval/match/accuracy": 0.5}


BAD = [
    ("exact", {"question": "?"}, "line 1: has no 'answer' or 'reference'; it has question"),
    ("exact", {"question": "?", "answr": "x"}, "did you mean 'answer'?"),
    ("exact", {"question": "?", "answer": " "}, "the answer is ' '; expected text or a number"),
    ("exact", {"question": "?", "answer": ["x"]}, "the answer is ['x']; expected text or a"),
    ("exact", {"question": "?", "answer": True}, "the answer is True; expected text or a number"),
    ("normalised", {"question": "?", "answer": "?!"}, "'?!' holds no word that could be compared"),
    ("regex", {"question": "?", "answer": "("}, "the answer '(' is no regular expression"),
    ("number", {"question": "?", "answer": "four"}, "the answer 'four' holds no number"),
    ("number", {"question": "?", "answer": "1.2.3"}, "'1.2.3' holds a number that may be read in"),
    (
        "number",
        {"question": "?", "answer": "42 of 100"},
        "'42 of 100' holds several numbers; write",
    ),
    ("normalised", {"question": "?", "answer": "`"}, "'`' holds no word that could be compared"),
    (
        "exact",
        {"messages": [{"role": "assistant", "content": "!"}], "answer": "x"},
        "ends with an assistant's message; expected a user's",
    ),
]


@pytest.mark.parametrize(("how", "row", "words"), BAD)
def test_a_row_that_cannot_be_compared_is_refused_by_file_and_line(
    tiny_model, tmp_path, how, row, words
):
    with pytest.raises(BadInput) as error:
        builder(tiny_model, written(tmp_path, row), how=how)()
    assert str(error.value).startswith("evaluators.args.path: ") and words in str(error.value)
    assert "questions.jsonl line 1: " in str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"how": "exactly"}, "evaluators.args.how: 'exactly' is not one of exact"),
        ({"name": "a/b"}, "evaluators.args.name: 'a/b' is no name"),
        ({"name": "nll"}, "evaluators.args.name.nll: is the name of a metric"),
    ],
)
def test_an_option_that_is_none_is_refused_by_its_key(tiny_model, tmp_path, options, words):
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps(ROWS[0]))
    with pytest.raises(BadInput, match=words):
        builder(tiny_model, str(path), **options)()
