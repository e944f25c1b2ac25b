"""Data to train on: the built-in builders by kind, and the parts that builders are made of."""

from __future__ import annotations

from sft.data.builders import (
    DemoBuilder,
    FaqBuilder,
    FromConversationFileBuilder,
    HFChatBuilder,
    NoRobotsBuilder,
    Tulu3Builder,
)
from sft.data.custom import custom_builder
from sft.data.hf_datasets import (
    StreamingSupervisedDatasetFromHFDataset,
    SupervisedDatasetFromHFDataset,
)
from sft.data.import_path import import_path
from sft.data.mixing.builder import MixBuilder, Part
from sft.data.streaming import HFStreamBuilder
from sft.tokens.datums import (
    conversation_to_datum,
    conversation_to_datums,
    datum_from_model_input_weights,
)
from sft.types import ChatDatasetBuilder, EvalSet

BUILDERS: dict[str, type[ChatDatasetBuilder]] = {
    "faq": FaqBuilder,
    "demo": DemoBuilder,
    "jsonl": FromConversationFileBuilder,  # its name in configs saved earlier
    "file": FromConversationFileBuilder,
    "no_robots": NoRobotsBuilder,
    "tulu3": Tulu3Builder,
    "hf_chat": HFChatBuilder,
    "hf_stream": HFStreamBuilder,
    "mix": MixBuilder,
}
"""What `dataset=KIND` builds: fields but `common_config` are the keys of `dataset.*`."""

__all__ = [
    "BUILDERS",
    "DemoBuilder",
    "EvalSet",
    "FaqBuilder",
    "FromConversationFileBuilder",
    "HFChatBuilder",
    "HFStreamBuilder",
    "MixBuilder",
    "NoRobotsBuilder",
    "Part",
    "StreamingSupervisedDatasetFromHFDataset",
    "SupervisedDatasetFromHFDataset",
    "Tulu3Builder",
    "conversation_to_datum",
    "conversation_to_datums",
    "custom_builder",
    "datum_from_model_input_weights",
    "import_path",
]
