"""Hydra's other launchers run batches of trials in processes of their own."""

import pytest
from optuna.trial import TrialState

from .conftest import rows_of, study_of

pytest.importorskip(
    "hydra_plugins.hydra_joblib_launcher", reason="hydra-joblib-launcher is not installed"
)


@pytest.mark.slow
def test_joblib_runs_batches_that_report_through_the_storage(sweep, tiny_model, tmp_path):
    """On the sweep's own service, whose URL and key the jobs get."""
    code = sweep(
        "service=local", "service.base_url=null", f"service.root={tmp_path}/service",
        f"model.name={tiny_model}", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2",
        "lr=1e-3,3e-3,1e-2", "hydra.sweeper.n_jobs=2", "max_steps=2", "hydra.sweeper.study_name=s",
    )  # fmt: skip
    assert code == 0
    trials = study_of("s").trials
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 3
    for trial in trials:
        rows = rows_of("s", trial.number)
        assert (rows[-1]["eval/nll"], rows[0]["lr"]) == (trial.value, trial.params["lr"])
        assert trial.intermediate_values[2] == trial.value
