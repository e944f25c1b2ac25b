"""The day of a run: its data, its prompts and its saved config have the same one."""

import datetime

from sft import train
from sft.config.day import on_its_day, with_day
from sft.config.saved import from_train
from sft.datasets import FromConversationFileBuilder
from sft.evaluators import SamplingEvaluatorBuilder
from sft.files import dump_yaml
from sft.types import ChatDatasetBuilderCommonConfig


def config(folder, date=None):
    common = ChatDatasetBuilderCommonConfig(model_name_for_tokenizer="tiny", date=date)
    return train.Config(
        log_path=str(folder),
        model_name="tiny",
        dataset_builder=FromConversationFileBuilder(path="chats.jsonl", common_config=common),
        infrequent_evaluator_builders=[SamplingEvaluatorBuilder(["Hi."], "tiny", date=date)],
    )


def days(dated):
    [prompts] = dated.infrequent_evaluator_builders
    saved = with_day(from_train(dated), dated)
    return dated.dataset_builder.common_config.date, prompts.date, saved["date"]


def test_a_new_run_begins_today_with_its_prompts(tmp_path):
    given = config(tmp_path / "new")
    assert days(on_its_day(given)) == (datetime.date.today().isoformat(),) * 3
    assert given.dataset_builder.common_config.date is None  # what the caller made is left alone


def test_a_run_that_is_gone_on_with_keeps_its_day(tmp_path):
    (tmp_path / "config.yaml").write_text(dump_yaml({"date": "2026-03-01"}))
    assert days(on_its_day(config(tmp_path))) == ("2026-03-01",) * 3


def test_a_day_that_is_given_is_the_runs(tmp_path):
    assert days(on_its_day(config(tmp_path, "2020-02-29"))) == ("2020-02-29",) * 3


def test_prompts_of_the_runs_day_are_saved_as_those_of_the_command_line(tmp_path):
    saved = from_train(on_its_day(config(tmp_path / "new")))
    assert saved["evaluators"]["prompts"] == ["Hi."] and saved["evaluators"]["builder"] is None
