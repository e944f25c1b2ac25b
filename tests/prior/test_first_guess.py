"""The learning rate that `lr=auto` stands for."""

import pytest

from sft.prior.first_guess import DEFAULT, HIGHEST, first_guess
from sft.prior.setting import PUBLISHED, Setting


def test_of_a_published_model_it_lies_where_its_table_is_best():
    guess = first_guess("Qwen/Qwen3.5-9B", 128, PUBLISHED)
    assert 3e-4 <= guess.lr <= 7e-4  # of 1e-4, 3e-4 and 1e-3 the second is best
    assert guess.regret is not None and 0 < guess.regret < 0.01


def test_it_names_its_source_the_model_it_saw_and_what_it_expects():
    source = first_guess("Qwen/Qwen3-30B-A3B", 16, Setting(8, 500)).source
    assert "tinker-cookbook" in source and "30B parameters, 3B active, Qwen, rank 16" in source
    assert "moved from 780 steps of 128 to 500 steps of 8" in source
    assert "% above the best rate's" in source


@pytest.mark.parametrize("setting", [Setting(1024, 10), Setting(1, 10**6)])
def test_far_from_all_that_is_published_it_does_not_say_what_it_is_worth(setting):
    guess = first_guess("Qwen/Qwen3-8B", 32, setting)
    assert guess.regret is None
    assert "what it is worth is not known" in guess.source and "%" not in guess.source


def test_a_best_rate_above_the_highest_that_is_guessed_counts():
    guess = first_guess("SmolLM2-135M", 32, Setting(8, 100))  # its best may well be 3e-3 or more
    assert guess.regret is not None and guess.regret > 0.012
    assert first_guess("SmolLM2-135M", 32, Setting(128, 100)).regret is None  # at the highest


@pytest.mark.parametrize("schedule", ["constant", "wsd", "cosine"])
def test_the_published_runs_say_nothing_of_what_it_is_worth_with_another_schedule(schedule):
    guess = first_guess("Qwen/Qwen3-8B", 32, PUBLISHED, schedule)
    assert guess.regret is None and guess.lr == first_guess("Qwen/Qwen3-8B", 32, PUBLISHED).lr
    assert "published with schedule=linear" in guess.source and schedule in guess.source


def test_it_is_nearly_independent_of_the_rank():
    low, high = (first_guess("new-8B", rank, PUBLISHED).lr for rank in (4, 64))
    assert low <= high <= 2 * low


def test_a_name_without_a_size_gives_the_plain_default_and_says_so():
    guess = first_guess("./my-model", 32, PUBLISHED)
    assert (guess.lr, guess.regret) == (DEFAULT, None)
    assert "the plain default" in guess.source and "./my-model" in guess.source


@pytest.mark.parametrize("setting", [Setting(512, 1), Setting(1, 1), Setting(1, 10**7)])
def test_no_setting_leads_it_beyond_what_was_ever_seen_to_train(setting):
    assert 1e-5 <= first_guess("new-135M", 32, setting).lr <= HIGHEST


def test_the_same_run_gets_the_same_number():
    guesses = {first_guess("new-3B", 32, Setting(16, 300)).lr for _ in range(3)}
    assert len(guesses) == 1
