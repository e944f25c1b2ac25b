"""The README's pictures of the MLflow UI, taken by a real browser from a store that runs filled.

    python docs/make_pictures.py sqlite:///mlflow.db      # writes docs/mlflow-*.png

Needs playwright (pip install playwright) and Chromium (Debian: apt-get install chromium). The
newest finished run with an evaluation, no trial of a sweep, is shown, and the list and the chart
of its experiment.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
WAIT_MS = 60_000


def chromium() -> str | None:
    """The path of an installed Chromium, None where there is none."""
    return next(filter(None, map(shutil.which, CHROMIUM)), None)


@contextmanager
def served(uri: str, experiment: str | None = None) -> Iterator[str]:
    """`python -m sft.ui` on the store: the link that it prints, to the experiment's runs list."""
    named = [experiment] if experiment else []
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "sft.ui", *named, "--uri", uri],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stdout or ():
            if found := re.match(r"MLflow UI: (\S+)", line):
                yield found[1]
                break
        else:
            raise SystemExit("the MLflow UI did not start")
    finally:
        process.terminate()
        process.wait()


@contextmanager
def browser(width: int = 1280, height: int = 800) -> Iterator[Any]:
    """A page of a headless Chromium, with MLflow's assistant closed."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        try:
            page = opened.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(WAIT_MS)
            page.add_init_script(
                "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');"
                "localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');"
            )
            yield page
        finally:
            opened.close()


def runs_list(page: Any, link: str, name: str) -> None:
    """Open the runs list at `link` and wait for the run `name` in it."""
    page.goto(link)
    page.get_by_text(name, exact=True).first.wait_for()


def run_page(page: Any, link: str, run_id: str) -> None:
    """Open a run of the list at `link` and wait for its metrics."""
    page.goto(link.replace("/runs?", f"/runs/{run_id}?"))
    page.get_by_text("train/nll").first.wait_for()


def chart(page: Any, link: str) -> None:
    """Open the chart view of the runs list at `link` and wait for curves in it."""
    page.goto(link.replace("/runs?", "/runs?compareRunsMode=CHART&"))
    page.locator("path.js-line").first.wait_for(state="attached")


def main(uri: str) -> None:
    """Write the pictures of the store at `uri`."""
    from sft.tracking.store import absolute, open_client
    from sft.tracking.view import dress

    client = open_client(absolute(uri))
    experiments = {e.experiment_id: e.name for e in client.search_experiments()}
    runs = client.search_runs(list(experiments), filter_string="status = 'FINISHED'")
    alone = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    run = next(r for r in alone if {"eval/nll", "train/nll"} <= r.data.metrics.keys())
    experiment_id = run.info.experiment_id
    dress(client, client.get_experiment(experiment_id))
    with served(uri, experiments[experiment_id]) as link, browser() as page:
        runs_list(page, link, run.info.run_name)
        page.wait_for_timeout(1_000)
        page.screenshot(path=FOLDER / "mlflow-runs.png")
        page.set_viewport_size({"width": 1280, "height": 1300})
        chart(page, link)
        page.wait_for_timeout(3_000)
        page.screenshot(path=FOLDER / "mlflow-compare.png")
        page.set_viewport_size({"width": 1280, "height": 800})
        run_page(page, link, run.info.run_id)
        page.wait_for_timeout(1_000)
        page.screenshot(path=FOLDER / "mlflow-run.png")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
