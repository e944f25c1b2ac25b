"""Every registered loss trains."""

import math

import pytest

from sft.losses import LOSSES
from tests.test_train import chats as chats
from tests.test_train import make_config as make_config
from tests.test_train import rows, run


@pytest.mark.parametrize("name", LOSSES)
def test_a_few_steps_are_trained_with_each_loss(make_config, name):
    config = make_config(loss_fn=name, max_steps=3)
    assert run(config).status == "FINISHED"
    trained = [row["train/nll"] for row in rows(config) if "train/nll" in row]
    assert len(trained) == 3 and all(map(math.isfinite, trained))
