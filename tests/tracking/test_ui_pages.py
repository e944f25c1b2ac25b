"""What MLflow's UI shows, in a real browser, of a run's data, its answers and its names."""

import json

import pytest

from docs import make_pictures as pictures
from sft.past.find import find
from sft.promote import promote
from tests.browser import skip_without
from tests.chat_data import write_chats
from tests.finished_run import finished_run

pytestmark = pytest.mark.slow
skip_without()


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model):
    """A run with two held-out sets and answers, one checkpoint of which has a name."""
    folder = tmp_path_factory.mktemp("place")
    write_chats(folder / "exam.jsonl", count=5)
    answers = ["evaluators=answers", "evaluators.held_out_answers=2", "evaluators.max_tokens=8"]
    words = ["run_name=first", "dataset.eval_sets.exam.path=exam.jsonl", *answers]
    made = find(str(finished_run(folder, tiny_model, *words)))
    promote(str(made.directory), "qwen-faq@champion", "000003")
    return made


@pytest.fixture(scope="module")
def ui(run):
    experiment = run.client().get_run(run.run_id).info.experiment_id
    with pictures.served(run.uri) as link, pictures.browser(2800, 1200) as page:
        url = link.split("/#/")[0]
        yield page, f"{url}/#/experiments/{experiment}", url


def test_the_runs_page_shows_what_it_trained_on_and_what_was_held_out(ui, run):
    page, at, _ = ui
    page.goto(f"{at}/runs/{run.run_id}?workflowType=machine_learning")
    page.get_by_text("chats.jsonl (").first.wait_for()
    page.get_by_text("chats.jsonl (held out) (").first.click()
    page.get_by_text("3 datasets used").wait_for()
    page.get_by_text("conversations:").first.wait_for()
    shown = page.get_by_role("dialog").inner_text()
    assert "Eval" in shown and "exam (" in shown


def test_a_checkpoints_metrics_are_those_of_the_held_out_sets(ui, run):
    page, at, _ = ui
    model = json.loads((run.directory / "mlflow.json").read_text())["models"]["000003"]["id"]
    page.goto(f"{at}/models/{model}?workflowType=machine_learning")
    page.get_by_text("About this logged model").wait_for()
    for metric, data in (
        ("eval/nll", "chats.jsonl (held out) (#"),
        ("eval/bpb", "chats.jsonl (held out) (#"),
        ("eval/exam/nll", "exam (#"),
    ):
        row = page.get_by_role("row").filter(has=page.get_by_text(metric, exact=True))
        row.first.wait_for()
        assert data in row.first.inner_text(), metric
    page.get_by_text("qwen-faq", exact=True).first.wait_for()


def test_answers_are_shown_as_a_table_and_compared_by_prompt(ui, run):
    page, at, _ = ui
    page.goto(f"{at}/runs/{run.run_id}/artifacts/answers.json?workflowType=machine_learning")
    page.get_by_text("View as table").wait_for()
    for column in ("prompt", "answer", "reference", "step"):
        page.get_by_role("columnheader").filter(has_text=column).first.wait_for()
    page.goto(f"{at}/runs?compareRunsMode=ARTIFACT&workflowType=machine_learning")
    for chosen in ("Table:answers.json", "Group by:prompt", "Compare:answer"):
        page.get_by_text(chosen).first.wait_for()


def test_a_registered_version_leads_to_its_run_and_its_checkpoint(ui, run):
    page, _, url = ui
    page.goto(f"{url}/#/models/qwen-faq/versions/1")
    page.get_by_text("Source Model", exact=True).wait_for()
    page.get_by_text("first-000003").first.wait_for()
    page.get_by_text("champion").first.wait_for()
    page.get_by_text("eval/nll", exact=True).first.wait_for()
