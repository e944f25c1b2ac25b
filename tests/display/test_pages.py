"""The MLflow UI in a real browser, on a store that real runs filled; and the comparison's page."""

import json
import re
import subprocess
import sys

import pytest

from docs import make_pictures as pictures
from sft import compare
from sft.past.find import find
from sft.sweeps import report
from sft.tracking.store import open_client
from tests.browser import skip_without
from tests.finished_run import finished_run, overrides

pytestmark = pytest.mark.slow
skip_without()


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model):
    """Two runs of different learning rates, and a sweep of two trials."""
    folder = tmp_path_factory.mktemp("place")
    finished_run(folder, tiny_model, "run_name=slow", directory="slow")
    finished_run(folder, tiny_model, "run_name=fast", "lr=0.03", directory="fast")
    sweep = ["lr=1e-3,1e-2", "hydra.sweeper.study_name=mystudy", "hydra.sweeper.n_jobs=2"]
    done = subprocess.run(
        [sys.executable, "-m", "sft", "--multirun", *overrides(tiny_model), *sweep],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_ui_shows_runs_columns_curves_sweeps_and_checkpoints(place):
    uri = f"sqlite:///{place / 'mlflow.db'}"
    client = open_client(uri)
    run = find(str(place / "fast"))
    experiment = client.get_run(run.run_id).info.experiment_id
    with pictures.served(uri) as link, pictures.browser(1280, 1200) as page:
        pictures.runs_list(page, link, "slow")
        assert page.get_by_text("fast", exact=True).first.is_visible()
        ends = [0]
        for column in ("lr", "lora.rank", "batch_size", "eval/nll", "train/nll"):
            header = page.get_by_role("columnheader").filter(has_text=re.compile(f"^{column}$"))
            box = header.first.bounding_box()
            ends.append(box["x"] + box["width"])
        assert ends == sorted(ends) and ends[-1] < 1280
        page.set_viewport_size({"width": 2400, "height": 1200})
        page.get_by_role("gridcell").get_by_text("0.03", exact=True).first.wait_for()

        assert page.get_by_text("0-lr0.001", exact=True).count() == 0
        parent = page.get_by_role("gridcell").filter(has=page.get_by_text("mystudy", exact=True))
        parent.locator("button").first.click()
        page.get_by_text("0-lr0.001", exact=True).first.wait_for()
        page.get_by_text("1-lr0.01", exact=True).first.wait_for()

        pictures.chart(page, link)
        page.locator("path.js-line").nth(1).wait_for(state="attached")

        pictures.run_page(page, link, run.run_id)
        last = run.rows()[-1]["eval/nll"]
        page.get_by_text(str(last)[:6]).first.wait_for()

        url = link.split("/#/")[0]
        page.goto(f"{url}/#/experiments/{experiment}/models?workflowType=machine_learning")
        page.get_by_text("fast-final", exact=True).first.wait_for()
        page.get_by_text("slow-000003", exact=True).first.wait_for()
        state = json.loads((place / "fast" / "mlflow.json").read_text())
        model = f"{url}/#/experiments/{experiment}/models/{state['models']['final']['id']}"
        page.goto(f"{model}?workflowType=machine_learning")
        page.get_by_text("eval/nll", exact=True).first.wait_for()
        page.get_by_text("chats.jsonl").first.wait_for()


@pytest.mark.parametrize("width", [1280, 400])
def test_a_sweeps_page_fits(place, monkeypatch, width):
    monkeypatch.chdir(place)
    assert report.main(["mystudy"]) == 0
    with pictures.browser(width) as page:
        page.goto((place / "outputs/sweeps/mystudy/report/report.html").as_uri())
        assert page.get_by_text("best trial:").is_visible()
        assert page.locator("img").count() >= 2
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [1280, 400])
def test_the_comparisons_page_works_offline_and_fits(place, tmp_path, monkeypatch, width):
    monkeypatch.chdir(place)
    file = tmp_path / "page.html"
    assert compare.main(["slow", "fast", "--html", str(file)]) == 0
    with pictures.browser(width) as page:
        problems, requests = [], []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(file.as_uri())
        assert page.locator("#chart path").count() == 2
        texts = [text.text_content() for text in page.locator("#chart text").all()]
        assert "step (updates applied)" in texts and "eval/nll (nats per token)" in texts
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        outside = page.evaluate(
            "(() => { const box = document.getElementById('chart').getBoundingClientRect();"
            "return [...document.querySelectorAll('#chart text')].filter(t => {"
            "const b = t.getBoundingClientRect();"
            "return b.left < box.left - 1 || b.right > box.right + 1; }).length })()"
        )
        assert outside == 0
        page.locator("#chart").hover()
        assert "slow" in page.locator("#reading").inner_text()
        page.get_by_role("button", name="fast").click()
        assert page.locator("#chart path").count() == 1
        page.locator("#metric").select_option(label="train/nll (nats per token)")
        assert page.locator("#chart path").count() == 1
        assert problems == [] and requests == [file.as_uri()]
