"""A fresh MLflow store for each test, copied from one that was made once."""

import pytest

from sft.tracking.store import open_client
from tests.tracking.tracked_run import fresh_store


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    open_client(f"sqlite:///{file}")
    return file


@pytest.fixture
def uri(template, tmp_path):
    return fresh_store(template, tmp_path / "store")
