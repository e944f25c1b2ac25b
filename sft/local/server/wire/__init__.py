"""The SDK's messages to and from the engine's plain values.

Requests are decoded into what engine_api.py describes and checked on the way: the engine gets
nothing that is malformed. What is malformed raises `BadRequest` with a sentence. Results become the
protobuf messages and JSON that the SDK's proto/response_conv.py and types read.
"""

from sft.local.server.wire.sampling import sample_reply, sample_work
from sft.local.server.wire.tensors import BadRequest
from sft.local.server.wire.training import (
    adam_step,
    parse_training,
    training_data,
    training_reply,
)

__all__ = [
    "BadRequest",
    "adam_step",
    "parse_training",
    "sample_reply",
    "sample_work",
    "training_data",
    "training_reply",
]
