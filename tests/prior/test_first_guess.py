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
