"""What published sweeps say of a new model, and how trials overrule it."""

import json
import math

import numpy as np
import pytest

from sft.errors import BadInput
from sft.prior import packaged_fit, prior, published
from sft.prior.fitting import fit
from sft.prior.names import Size, family_of, size_of
from sft.prior.setting import PUBLISHED, Setting

TABLES, SOURCE = published.load()
PRIOR = prior.published()
RATES = (4e-5, 1e-4, 3e-4, 1e-3, 3e-3)
CELLS = [(rate, rank) for rank in (4, 64) for rate in RATES]


def best(cells, model, setting=PUBLISHED):
    return cells[int(PRIOR.expected(cells, model, setting).argmin())]


def test_the_packaged_tables_name_their_source_and_hold_every_model():
    assert "tinker-cookbook" in SOURCE
    assert len(TABLES) == 35
    table = next(t for t in TABLES if t.model == "Qwen/Qwen3-4B-Instruct-2507")
    assert table.nll[0.003, 64] == math.inf


def test_every_published_model_has_a_family_and_a_size():
    assert [t.model for t in TABLES if not family_of(t.model) or not size_of(t.model)] == []


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("meta-llama/Llama-3.1-8B", Size(8, 8)),
        ("Qwen/Qwen3-30B-A3B", Size(30, 3)),
        ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", Size(30, 3)),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", Size(0.135, 0.135)),
        ("moonshotai/Kimi-K2.6", Size(1000, 32)),
        ("openai/gpt-oss-20b", Size(21, 3.6)),
        ("./my-model", None),
        ("/disks/2T/models/Qwen3-8B/", Size(8, 8)),
        ("ckpt-1b/Qwen2.5-0.5B", Size(0.5, 0.5)),
        ("deepseek-v3.1-lite-16B", Size(16, 16)),
        ("models--Qwen--Qwen3-8B/snapshots/fd5aa5", Size(8, 8)),
        ("/disks/2T/100m-tokens/my-model", None),
        ("a-0B", None),
        ("new-3B-A0B", Size(3, 3)),
    ],
)
def test_a_models_size_is_read_from_its_name(name, size):
    assert size_of(name) == size


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("meta-llama/Llama-3.1-8B", "Llama"),
        ("/home/llama/qwen-project/new-8B", None),
        ("Qwen3-8B/final", "Qwen"),
        ("outputs/Qwen3-8B/Llama-3.2-1B", "Llama"),
    ],
)
def test_a_models_family_is_read_where_its_size_is(name, family):
    assert family_of(name) == family


def test_a_small_model_is_expected_to_take_a_higher_rate_than_a_large_one():
    assert best(CELLS, "new-1B") == (1e-3, 64)
    assert best(CELLS, "new-70B") == (3e-4, 64)


def test_of_a_mixture_of_experts_the_active_parameters_count_too():
    fine = [(10 ** (k / 40), 32) for k in range(-160, -110)]
    assert best(fine, "new-30B-A3B") > best(fine, "new-30B")


def test_a_family_that_is_known_tells_more_than_one_that_is_not():
    _, spread = PRIOR.fitted.known("Qwen/Qwen4-8B")
    _, unknown = PRIOR.fitted.known("new-8B")
    assert (spread < unknown).all()


def test_a_higher_rank_is_expected_to_be_better_at_the_best_rate_alone():
    expected = PRIOR.expected(CELLS, "new-14B")
    by_rate = dict(zip(RATES, expected[:5] - expected[5:], strict=True))
    assert by_rate[3e-4] > 2 * by_rate[4e-5] > 0


def test_smaller_batches_take_a_lower_rate_and_shorter_runs_a_higher_one():
    fine = [(10 ** (k / 40), 32) for k in range(-200, -100)]
    shorter = Setting(128, 100)
    smaller = Setting(8, 16 * 780)  # on the same data
    rates = [best(fine, "new-8B", setting)[0] for setting in (smaller, PUBLISHED, shorter)]
    assert rates == sorted(rates)
    assert rates[0] < rates[1] < rates[2]


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_trials_overrule_a_prior_that_is_a_decade_off(factor):
    rates = [rate * factor for rate in RATES]
    trials = [((rate, 64), nll) for rate, nll in zip(rates, (0.52, 0.51, 0.502), strict=False)]
    trials.append(((rates[4], 64), math.inf))
    cells = [(rate, 64) for rate in rates]
    surfaces = PRIOR.sample(cells, trials, "new-8B", np.random.default_rng(0), 500)
    found = np.bincount(surfaces.argmin(axis=1), minlength=5) / 500
    assert found[2] + found[3] > 0.9


def test_trials_that_all_diverged_send_the_next_one_to_lower_rates():
    trials = [((1e-3, 64), math.inf), ((3e-4, 64), math.inf)]
    surfaces = PRIOR.sample(CELLS, trials, "new-8B", np.random.default_rng(0), 500)
    rates = np.array([CELLS[i][0] for i in surfaces.argmin(axis=1)])
    assert (rates < 3e-4).mean() > 0.9


def test_a_surface_is_an_excess_over_the_best_cell():
    surfaces = PRIOR.sample(CELLS, [], "new-8B", np.random.default_rng(0), 50)
    assert surfaces.shape == (50, len(CELLS))
    assert (surfaces.min(axis=1) == 0).all() and surfaces.max() <= 0.1


def test_one_small_table_is_enough_to_fit():
    nll = {(2e-5, 8): 1.15, (1e-4, 8): 1.1, (5e-4, 8): 1.2, (3e-3, 8): math.inf}
    expected = prior.Prior(fit([published.Table("mine-1B", nll)])).expected(list(nll), "mine-1B")
    assert expected.argmin() == 1


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


def test_the_packaged_fit_is_the_one_of_the_packaged_tables():
    kept, made = packaged_fit.read(), fit(TABLES)
    for model in ("Qwen/Qwen3-8B", "SmolLM2-135M", "meta-llama/Llama-3.2-1B", "new"):
        for found, again in zip(kept.known(model), made.known(model), strict=True):
            assert found == pytest.approx(again, abs=0.01)
    assert kept.noise == pytest.approx(made.noise, rel=0.01)
