"""Samplers keep the order of numeric choices, never repeat a trial, and continue as they began."""

import math

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from sft.errors import BadInput
from sft.prior.prior import published as published_prior
from sft.prior.setting import PUBLISHED
from sft.sweeps import samplers
from sft.sweeps.parameters import combinations
from sft.sweeps.samplers.ordered import Ordered
from sft.sweeps.samplers.warm_start import WarmStart
from sft.sweeps.scheduling import pruners

SPACE = {
    "lr": FloatDistribution(1e-5, 3e-3, log=True),
    "lora.rank": CategoricalDistribution([4, 16, 64]),
}
GRID = {
    "lr": CategoricalDistribution([4e-5, 1e-4, 3e-4, 1e-3, 3e-3]),
    "lora.rank": CategoricalDistribution([4, 16, 64]),
}


def loss(params):
    return 1 + (math.log10(params["lr"]) + 3.5) ** 2 - 0.01 * math.log2(params["lora.rank"])


def propose(sampler, space, count, study=None):
    study = study or optuna.create_study()
    study.sampler = sampler
    trials = []
    for _ in range(count):
        trial = study.ask(space)
        trials.append(trial.params)
        study.tell(trial, loss(trial.params))
    return study, trials


@pytest.mark.parametrize("name", ["tpe", "gp", "random"])
def test_a_sampler_proposes_values_and_continues_as_it_would_have(name):
    count = 6 if name == "gp" else 12  # fits of Gaussian processes take their time
    study, trials = propose(samplers.make(name, SPACE, seed=1), SPACE, count)
    assert {t["lora.rank"] for t in trials} <= {4, 16, 64}
    assert study.trials[0].distributions == SPACE
    again, first = propose(samplers.make(name, SPACE, seed=1), SPACE, count // 2)
    _, rest = propose(samplers.make(name, SPACE, seed=1), SPACE, count // 2, again)
    assert first + rest == trials


def test_ordered_choices_reach_the_sampler_as_whole_numbers():
    seen = []

    class Spy(optuna.samplers.RandomSampler):
        def sample_independent(self, study, trial, param_name, param_distribution):
            seen.append(param_distribution)
            return super().sample_independent(study, trial, param_name, param_distribution)

    propose(Ordered(SPACE, lambda seed: Spy(seed=seed), 0), SPACE, 1)
    assert IntDistribution(0, 2) in seen


@pytest.mark.parametrize("name", ["tpe", "random"])
def test_no_combination_is_tried_twice_while_there_are_others(name):
    _, trials = propose(samplers.make(name, GRID, seed=0), GRID, 15)
    assert len({tuple(t.items()) for t in trials}) == 15


def test_trials_of_another_process_count():
    study = optuna.create_study()
    study.enqueue_trial({"lr": 3e-4, "lora.rank": 16})
    mine = samplers.make("tpe", GRID, seed=0)
    study.sampler = mine
    running = study.ask(GRID)
    _, trials = propose(mine, GRID, 14, study)
    assert running.params not in trials


def test_the_grid_runs_every_combination_by_trial_number():
    _, trials = propose(samplers.make("grid", GRID, seed=0), GRID, 15)
    assert trials == combinations(GRID)


def test_a_grid_over_an_interval_is_bad_input():
    with pytest.raises(BadInput, match="grid"):
        samplers.make("grid", SPACE, seed=0)


def test_an_unknown_sampler_is_bad_input_with_the_nearest_name():
    with pytest.raises(BadInput, match="did you mean 'tpe'"):
        samplers.make("tpee", SPACE, seed=0)


def test_cmaes_searches_numbers():
    _, trials = propose(samplers.make("cmaes", SPACE, seed=0), SPACE, 12)
    assert len(trials) == 12


def warm(seed=0, space=GRID):
    base = samplers.make("tpe", space, seed)
    return WarmStart(base, published_prior(), "Qwen/Qwen3-8B", PUBLISHED, rank=32, seed=seed)


def test_the_first_trial_is_the_published_best_guess():
    _, (first,) = propose(warm(), GRID, 1)
    assert first == {"lr": 3e-4, "lora.rank": 64}


def test_the_next_trials_settle_the_rate_and_then_the_smallest_rank():
    study, trials = propose(warm(), GRID, 4)
    assert len({tuple(t.items()) for t in trials}) == 4
    assert any(t["lora.rank"] < 64 for t in trials[1:])


def test_trials_that_start_together_differ():
    study = optuna.create_study(sampler=warm())
    proposals = [tuple(study.ask(GRID).params.items()) for _ in range(8)]
    assert len(set(proposals)) == 8


def test_a_failed_cell_is_not_proposed_again_and_teaches_nothing():
    study = optuna.create_study(sampler=warm())
    first = study.ask(GRID)
    study.tell(first, state=TrialState.FAIL)
    assert study.ask(GRID).params != first.params


def test_a_divergence_moves_the_search_to_lower_rates():
    study = optuna.create_study(sampler=warm())
    first = study.ask(GRID)
    first.set_user_attr("diverged", True)
    first.report(9.0, 5)
    study.tell(first, state=TrialState.PRUNED)
    assert study.ask(GRID).params["lr"] < first.params["lr"]


@pytest.mark.slow
def test_an_interval_is_proposed_in_round_numbers():
    study = optuna.create_study(sampler=warm(space=SPACE))
    rate = study.ask(SPACE).params["lr"]
    assert 2e-4 <= rate <= 1e-3
    assert rate == float(f"{rate:.2g}")


@pytest.mark.slow
def test_only_learning_rate_in_the_space_is_enough():
    space = {"lr": SPACE["lr"]}
    study = optuna.create_study(sampler=warm(space=space))
    assert 1e-4 <= study.ask(space).params["lr"] <= 1e-3


def test_the_base_sampler_goes_on_after_ten_trials():
    study, _ = propose(warm(), GRID, 10)
    trial = study.ask(GRID)
    frozen = study.trials[-1]
    assert study.sampler.propose(study, frozen, GRID) is None
    assert trial.params


@pytest.mark.slow
def test_brackets_of_hyperband_do_not_repeat_each_others_trials():
    study = optuna.create_study(sampler=warm(), pruner=pruners.make("hyperband", max_steps=20))
    proposals = []
    for _ in range(8):
        trial = study.ask(GRID)
        proposals.append(tuple(trial.params.items()))
        study.tell(trial, loss(trial.params))
    assert len(set(proposals)) == 8
