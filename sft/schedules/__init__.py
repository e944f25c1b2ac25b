"""The learning rate over the steps of a run."""

from sft.schedules.base import Schedule
from sft.schedules.constant import Constant
from sft.schedules.cosine import Cosine
from sft.schedules.linear import Linear
from sft.schedules.wsd import Wsd

SCHEDULES: dict[str, type[Schedule]] = {
    "linear": Linear,
    "cosine": Cosine,
    "constant": Constant,
    "wsd": Wsd,
}
"""By the name that `schedule=NAME` and `train.Config.lr_schedule` know them by."""

__all__ = ["SCHEDULES", "Schedule"]
