"""Evaluators of one's own, and sampled answers."""

import asyncio
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from sft.errors import BadInput
from sft.evaluators import (
    NLLEvaluator,
    Prompt,
    SamplingEvaluator,
    SamplingEvaluatorBuilder,
    full_sequence,
)
from sft.hooks import BaseHook
from sft.record import metrics
from sft.run.plan import Plan
from tests.test_train import TINY_MODEL, chats, make_config, run  # noqa: F401 - fixtures


@dataclass
class CountCalls:
    """A metric that says how often it was measured."""

    name: str
    calls: int = 0

    async def __call__(self, sampling_client):
        self.calls += 1
        return {f"eval/{self.name}": float(self.calls)}


def test_evaluators_of_ones_own_run_at_their_own_cadence(make_config):  # noqa: F811
    config = make_config(
        num_epochs=2,
        evaluator_builders=[lambda: CountCalls("often")],
        eval_every=2,
        infrequent_evaluator_builders=[lambda: CountCalls("rarely")],
        infrequent_eval_every=5,
    )
    from sft.config.compose import compose
    from sft.config.saved import to_saved

    settings = to_saved(compose(["model=folder", "model.name=tiny"]))
    assert run(config, settings=settings).status == "FINISHED"
    from pathlib import Path

    rows = metrics.read(Path(config.log_path) / "metrics.jsonl")
    assert [r["step"] for r in rows if "eval/often" in r] == [0, 2, 4, 6, 8, 10]
    assert [r["step"] for r in rows if "eval/rarely" in r] == [0, 5, 10]


def rows(config):
    from pathlib import Path

    return metrics.read(Path(config.log_path) / "metrics.jsonl")


def prompts(tiny_model, *texts, **options):
    """A builder of answers to prompts, as `evaluators.prompts` makes one."""
    return SamplingEvaluatorBuilder(
        list(texts), model_name_for_tokenizer=str(tiny_model), max_tokens=8, **options
    )


def test_held_out_answers_and_prompts_have_tables_and_metrics_of_their_own(
    make_config,  # noqa: F811
    tiny_model,
):
    config = make_config(
        max_steps=1,
        held_out_answers=1,
        held_out_answer_tokens=20,
        infrequent_evaluator_builders=[prompts(tiny_model, "Hi.", references=["red"])],
    )
    result = run(config)
    assert result.status == "FINISHED", result.error
    for when in ("", "@start"):
        assert "Say" in result.tables[f"answers{when}"][0]["prompt"]
        assert [row["prompt"] for row in result.tables[f"prompts{when}"]] == ["Hi."]
    for row in (rows(config)[0], rows(config)[-1]):
        assert {"eval/exact_match", "eval/prompts/exact_match"} <= row.keys()


def test_an_evaluator_of_another_name_measures_under_that_name(make_config, tiny_model):  # noqa: F811
    config = make_config(max_steps=1)
    _, held_out = config.dataset_builder()
    config.evaluator_builders = [
        lambda: NLLEvaluator(held_out, name="same"),
        prompts(tiny_model, "Hi.", references=["red"], name="greetings"),
    ]
    result = run(config)
    assert set(result.tables) == {"greetings", "greetings@start"}
    assert result.last["eval/same/nll"] == result.last["eval/nll"]
    assert "eval/greetings/exact_match" in result.last


async def measures_nothing(sampling_client):
    return {}


@pytest.mark.parametrize(
    ("name", "builders"),
    [
        ("prompts", lambda model, held_out: 2 * [prompts(model, "Hi.")]),
        ("answers", lambda model, held_out: [prompts(model, "Hi.", name="answers")]),
        ("nll", lambda model, held_out: [lambda: NLLEvaluator(held_out)]),
        ("code-set", lambda model, held_out: [
            lambda: CountCalls("Code/set"), lambda: CountCalls("code-set"),
        ]),
        ("Unnamed", lambda model, held_out: 2 * [type("Unnamed", (), {})]),
        ("measures_nothing", lambda model, held_out: [
            lambda: measures_nothing, type("measures_nothing", (), {}),
        ]),
    ],
)  # fmt: skip
def test_two_evaluators_of_one_name_are_refused_before_anything_is_made(
    make_config,  # noqa: F811
    tiny_model,
    name,
    builders,
):
    from pathlib import Path

    config = make_config(held_out_answers=1)
    _, held_out = config.dataset_builder()
    config.infrequent_evaluator_builders = builders(tiny_model, held_out)
    with pytest.raises(BadInput, match=f"two evaluators are called '{name}'"):
        run(config)
    assert not Path(config.log_path).exists()


def result_of(config):
    from pathlib import Path

    return Path(config.log_path)


@dataclass
class Measures:
    """An evaluator called `name` that measures `metric`."""

    name: str
    metric: str

    async def __call__(self, sampling_client):
        return {self.metric: 1.0}


@pytest.mark.parametrize(
    ("metric", "others", "words"),
    [
        ("eval/score", [Measures("first", "eval/score")], "'first' and 'mine' both measure"),
        ("eval/nll", [], "'nll' and 'mine' both measure"),
        ("train/nll", [], "'mine' measures 'train/nll', which is what training writes"),
        ("lr", [], "'mine' measures 'lr', which is what training writes"),
        ("step", [], "'mine' measures 'step', which is what training writes"),
    ],
)
def test_a_metric_that_has_a_writer_already_costs_its_evaluation_alone(
    make_config,  # noqa: F811
    metric,
    others,
    words,
):
    evaluators = [*others, Measures("mine", metric), Measures("last", "eval/last")]
    builders = [lambda e=e: e for e in evaluators]
    result = run(make_config(max_steps=1, evaluator_builders=builders))
    assert result.status == "FINISHED", result.error
    assert result.last["eval/last"] == 1.0 and "eval/nll" in result.last
    assert [failed.name for failed in result.failed_evaluations] == ["mine", "mine"]
    assert all(words in failed.error for failed in result.failed_evaluations)


def test_two_evaluators_that_say_they_measure_the_same_are_refused_before_anything_is_made(
    make_config,  # noqa: F811
    tmp_path,
):
    mine = Measures("mine", "eval/nll")
    mine.metrics = ("eval/nll",)
    with pytest.raises(BadInput, match="'nll' and 'mine' both measure 'eval/nll'"):
        run(make_config(evaluator_builders=[lambda: mine]))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("metric", ["", "plain", "eval/", "eval/two\nlines", "eval/\t", "eval/a "])
def test_a_metric_without_a_name_that_can_be_shown_costs_its_evaluation_alone(
    make_config,  # noqa: F811
    metric,
):
    result = run(make_config(max_steps=1, evaluator_builders=[lambda: Measures("mine", metric)]))
    assert result.status == "FINISHED" and metric not in result.last
    words = f"'mine' measures {metric!r}; a metric's name begins with eval/"
    assert words in result.failed_evaluations[0].error


def test_a_metric_is_shown_under_the_name_that_it_has(make_config, capsys):  # noqa: F811
    from sft.config.schema import Settings
    from sft.display.terminal import Terminal

    config = make_config(max_steps=1, evaluator_builders=[lambda: Measures("m", "eval/[red]m")])
    result = run(config, hooks=[Terminal(Settings(), result_of(config), [])])
    shown = capsys.readouterr().out
    assert result.last["eval/[red]m"] == 1.0 and "│ eval/[red]m" in shown


def test_a_table_of_ones_own_called_answers_need_not_be_of_answers(make_config, capsys):  # noqa: F811
    from sft.config.schema import Settings
    from sft.display.terminal import Terminal

    class Mine(Measures):
        async def __call__(self, sampling_client):
            self.table = [{"question": "1 + 1?"}]
            return await super().__call__(sampling_client)

    config = make_config(max_steps=1, evaluator_builders=[lambda: Mine("answers", "eval/a")])
    result = run(config, hooks=[Terminal(Settings(), result_of(config), [])])
    assert result.status == "FINISHED" and result.tables["answers"] == [{"question": "1 + 1?"}]
    assert "talk to it" in capsys.readouterr().out


def test_answers_are_compared_with_their_references(local_service, tiny_model):
    from sft.models.tokenizers import load_tokenizer
    from sft.run.client import Connection, Service, await_client

    tokenizer = load_tokenizer(str(tiny_model))
    tokens = tokenizer.encode("Hello")

    async def answers(references, stop=(tokenizer.eos_token_id,)):
        connection = await Connection.open(await Service.reach(local_service))
        client = await await_client(
            lambda: connection.service.create_sampling_client(base_model=TINY_MODEL)
        )
        prompts = [Prompt(tokens, "Hello", reference) for reference in references]
        evaluator = SamplingEvaluator(prompts, tokenizer, stop=list(stop), max_tokens=5)
        measured = await evaluator(client)
        await connection.close("success")
        return measured, evaluator.table

    measured, table = asyncio.run(answers([None]))
    assert measured == {} and set(table[0]) == {"prompt", "answer", "stop_reason"}
    said = table[0]["answer"]
    measured, table = asyncio.run(answers([said, said + "!"]))
    assert measured == {"eval/exact_match": 0.5}
    assert [row["exact_match"] for row in table] == [True, False]

    # As the tokenizer writes text: no white space around it, no special tokens.
    measured, _ = asyncio.run(answers([f" {said}\n", f"{said}<|im_end|>"]))
    assert measured == {"eval/exact_match": 1.0}
    # Several at once need the service's tokenizer, to find a stop string that is not there.
    measured, _ = asyncio.run(answers([said, said], stop=["not there"]))
    assert measured == {"eval/exact_match": 1.0}


def test_a_reference_longer_than_an_answer_may_be_is_refused_before_anything_is_made(
    make_config,  # noqa: F811
    tiny_model,
):
    from pathlib import Path

    references = ["12345678<|im_end|> ", "123456789"]
    builder = prompts(tiny_model, "One?", "Two?", references=references)
    config = make_config(infrequent_evaluator_builders=[builder])
    words = "evaluators.references: entry 2 has 9 tokens, more than evaluators.max_tokens=8"
    with pytest.raises(BadInput, match=words):
        run(config)
    assert not Path(config.log_path).exists()


def test_exact_match_is_of_the_held_out_answers_whose_reference_fits_and_says_of_how_many(
    make_config,  # noqa: F811
):
    class Listen(BaseHook):
        def on_message(self, text):
            told.append(text)

    told = []
    config = make_config(max_steps=1, held_out_answers=4, held_out_answer_tokens=9)
    result = run(config, hooks=[Listen()])
    table = result.tables["answers"]
    fits = [len(row["reference"]) <= 9 for row in table]  # a token a byte
    assert {True, False} == set(fits) and ["exact_match" in row for row in table] == fits
    assert any(f"eval/exact_match is of {sum(fits)} of the 4 held-out answers" in t for t in told)


class SaysWhatFollows:
    """A sampling client that answers every prompt as the held-out data does."""

    def __init__(self, dataset):
        batches = [dataset.get_batch(index) for index in range(len(dataset))]
        self.sequences = [full_sequence(datum).to_ints() for batch in batches for datum in batch]

    async def sample(self, prompt, num_samples, sampling_params):
        tokens = prompt.to_ints()
        [whole] = {tuple(s) for s in self.sequences if s[: len(tokens)] == tokens}
        answer = SimpleNamespace(tokens=list(whole[len(tokens) :]), stop_reason="stop")
        return SimpleNamespace(sequences=[answer])


@pytest.mark.parametrize("renderer", [None, "role_colon"])
def test_a_model_that_answers_as_the_held_out_data_does_matches_all_of_it(
    make_config,  # noqa: F811
    renderer,
):
    config = make_config(held_out_answers=4)
    config.dataset_builder.common_config.renderer_name = renderer
    plan = asyncio.run(Plan.make(config))
    [answers] = plan.infrequent
    measured = asyncio.run(answers(SaysWhatFollows(plan.held_out)))
    assert measured == {"eval/exact_match": 1.0} and len(answers.table) == 4
    assert not plan.notes
    assert all(row["answer"] == row["answer"].strip("\n").split(":")[0] for row in answers.table)


@pytest.mark.parametrize("renderer", [None, "role_colon"])
def test_a_held_out_reference_that_was_cut_is_shown_and_not_compared(
    make_config,  # noqa: F811
    renderer,
):
    config = make_config(held_out_answers=4)
    common = config.dataset_builder.common_config
    common.renderer_name = renderer
    whole = SaysWhatFollows(asyncio.run(Plan.make(config)).held_out).sequences
    common.max_length = max(map(len, whole)) - 1
    plan = asyncio.run(Plan.make(config))
    [answers] = plan.infrequent
    ends = [prompt.compared for prompt in answers.prompts]
    assert set(ends) == {True, False} and all(prompt.reference for prompt in answers.prompts)
    assert f"of {sum(ends)} of the 4 held-out answers" in plan.notes[0]


def test_prompts_as_text_are_rendered_like_the_training_data(tiny_model):
    evaluator = SamplingEvaluatorBuilder(["Hi."], model_name_for_tokenizer=str(tiny_model))()
    text = evaluator.tokenizer.decode(evaluator.prompts[0].tokens)
    assert text == "<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\n"


def test_the_closing_lines_show_two_answers_to_one_prompt(make_config, tiny_model, capsys):  # noqa: F811
    from pathlib import Path

    from sft.config.schema import Settings
    from sft.display.terminal import Terminal

    config = make_config(
        max_steps=2,
        held_out_answers=1,
        held_out_answer_tokens=20,
        infrequent_evaluator_builders=[prompts(tiny_model, "Hi.")],
    )
    result = run(config)
    Terminal(Settings(), Path(config.log_path), []).on_end(result)
    shown = capsys.readouterr().out
    first, last = result.tables["answers@start"][0], result.tables["answers"][0]
    assert first["prompt"] == last["prompt"]
    for name, text in (
        ("prompt", first["prompt"]), ("before", first["answer"]), ("after", last["answer"])
    ):  # fmt: skip
        assert f"{name}  {' '.join(text.split())}\n" in shown
