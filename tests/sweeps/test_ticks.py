"""Side by side on a service that ticks, trials leave no tick unused."""

import pytest

from tests import tick_service

TRIALS, STEPS = 8, 20


@pytest.mark.slow
def test_eight_trials_side_by_side_use_every_tick(sweep, monkeypatch):
    with tick_service.running(steps=STEPS, model="tick") as service:
        monkeypatch.setenv("TINKER_API_KEY", service.key)
        rates = ",".join(f"{i}e-4" for i in range(1, TRIALS + 1))
        code = sweep(
            f"lr={rates}", "model.name=tick", f"service.base_url={service.url}",
            f"max_steps={STEPS}", "epochs=4", "eval_every=10", "save_every=10",
            f"hydra.sweeper.n_jobs={TRIALS}", "hydra.sweeper.study_name=s",
        )  # fmt: skip
        assert code == 0
        models = list(service.engine.ticks)
        assert [service.used(model) for model in models] == TRIALS * [STEPS]
        assert [service.missed(model) for model in models] == TRIALS * [0]
