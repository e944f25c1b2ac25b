"""Sweeps on servers that cannot do, or do not heed, what a sweep varies."""

from pathlib import Path

import pytest

from sft.service.child import api_key
from tests import poor_service


@pytest.fixture
def sweep_on(sweep, local_service, monkeypatch, capsys):
    """Runs a sweep on a server that lacks what is named; exit code, errors and the server."""
    monkeypatch.setenv("TINKER_API_KEY", api_key(local_service))

    def run(lacks, *arguments):
        with poor_service.before(local_service, *lacks) as poor:
            code = sweep(f"service.base_url={poor.url}", *arguments)
        return code, capsys.readouterr().err, poor

    return run


def test_a_sweep_over_a_setting_that_the_server_ignores_is_refused(sweep_on):
    code, said, _ = sweep_on(["adapts_all"], "lora.train_mlp=true,false", "lr=1e-3")
    assert code == 2 and "lora.train_mlp: the service at http://127.0.0.1" in said
    assert "ignores it" in said and "compares nothing" in said
    assert not Path("outputs/sweeps").exists()


def test_a_rank_at_the_end_of_the_space_that_the_server_refuses_is_said_before_trial_0(sweep_on):
    code, said, _ = sweep_on(["small_ranks"], "lora.rank=2,4,16", "lr=1e-3")
    assert code == 2 and "makes no adapter of rank 16" in said
    assert not Path("outputs/sweeps").exists()


@pytest.mark.slow
def test_the_server_is_asked_once_for_all_trials(sweep_on):
    code, _, poor = sweep_on(["no_ids"], "lr=1e-3,2e-3,3e-3", "hydra.sweeper.study_name=s")
    assert code == 0
    assert poor.asked["POST /api/v1/create_session"] == 1 + 3
