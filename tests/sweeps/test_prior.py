"""What published sweeps say of a new model, and how trials overrule it."""

import json
import math
from dataclasses import astuple

import numpy as np
import pytest

from sft.errors import BadInput
from sweeps.prior import published
from sweeps.prior.response import PUBLISHED, Prior, fit

TABLES, SOURCE = published.load()
QWEN3 = [table for table in TABLES if table.model.startswith("Qwen/Qwen3-")]
CELLS = [(rate, rank) for rank in (4, 64) for rate in (4e-5, 1e-4, 3e-4, 1e-3, 3e-3)]


def test_the_packaged_tables_name_their_source_and_hold_every_model():
    assert "tinker-cookbook" in SOURCE
    assert len(TABLES) == 22
    table = next(t for t in TABLES if t.model == "Qwen/Qwen3-4B-Instruct-2507")
    assert table.nll[0.003, 64] == math.inf
    assert table.parameters == 4


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("meta-llama/Llama-3.1-8B", 8),
        ("openai/gpt-oss-120b", 120),
        ("Qwen/Qwen3-30B-A3B", 30),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 0.135),
        ("moonshotai/Kimi-K2.6", None),
    ],
)
def test_a_models_size_is_read_from_its_name(name, billions):
    assert published.parameters_of(name) == billions


def test_the_hyperparameters_are_those_that_the_fit_finds_on_qwen3():
    assert astuple(fit(QWEN3)) == pytest.approx(astuple(PUBLISHED), rel=0.05)


def test_a_new_model_is_expected_to_do_best_between_the_published_optima():
    expected = Prior(TABLES).expected(CELLS, 14.0)
    best = CELLS[int(expected.argmin())]
    assert best in [(3e-4, 64), (1e-3, 64)]
    assert expected[CELLS.index((3e-3, 64))] > expected[CELLS.index((4e-5, 64))]


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_trials_overrule_a_prior_that_is_a_decade_off(factor):
    prior = Prior(QWEN3)
    rates = [rate * factor for rate in (4e-5, 1e-4, 3e-4, 1e-3, 3e-3)]
    trials = [((rate, 64), nll) for rate, nll in zip(rates, (0.52, 0.51, 0.502), strict=False)]
    trials.append(((rates[4], 64), math.inf))
    cells = [(rate, 64) for rate in rates]
    surfaces = prior.sample(cells, trials, 8.0, np.random.default_rng(0), 500)
    best = np.bincount(surfaces.argmin(axis=1), minlength=5) / 500
    assert best[2] + best[3] > 0.9


def test_a_file_of_ones_own_replaces_the_published_tables(tmp_path):
    file = tmp_path / "ours.json"
    runs = [{"lr": 1e-4, "rank": 8, "test_nll": 1.0}, {"lr": 1e-4, "rank": 8, "test_nll": 2.0}]
    diverged = {"runs": 1, "lr": [1e-2], "rank": [8]}
    file.write_text(json.dumps({"models": {"ours-1B": {"runs": runs, "diverged": diverged}}}))
    tables, _ = published.load(file)
    assert tables[0].nll == {(1e-4, 8): 1.5, (1e-2, 8): math.inf}


@pytest.mark.parametrize("text", ["", "[]", '{"models": {"a": {"runs": [{"lr": 1}]}}}', "{}"])
def test_a_file_of_another_form_is_bad_input(tmp_path, text):
    file = tmp_path / "odd.json"
    file.write_text(text)
    with pytest.raises(BadInput, match="warm_start"):
        published.load(file)
    with pytest.raises(BadInput, match="no such file"):
        published.load(tmp_path / "absent.json")
