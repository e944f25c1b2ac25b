"""The classes that users derive from, as the seed document shows them."""

from dataclasses import dataclass

import pytest

from sft.types import (
    ChatDatasetBuilder,
    ChatDatasetBuilderCommonConfig,
    SupervisedDataset,
    SupervisedDatasetBuilder,
)


def test_a_dataset_needs_only_batches_and_a_length():
    class Mine(SupervisedDataset):
        def get_batch(self, index):
            return [index]

        def __len__(self):
            return 3

    dataset = Mine()
    dataset.set_epoch(seed=1)
    assert len(dataset) == 3 and dataset.get_batch(2) == [2]
    assert not hasattr(dataset, "num_bytes") and not hasattr(dataset, "digest")


def test_a_dataset_builder_is_called_for_its_data():
    class Mine(SupervisedDatasetBuilder):
        def __call__(self):
            return SupervisedDataset(), None

    train, held_out = Mine()()
    assert isinstance(train, SupervisedDataset) and held_out is None


def test_a_chat_builder_has_the_tokenizer_and_the_renderer_of_its_config(tiny_model):
    class MyChats(ChatDatasetBuilder):
        common_config = ChatDatasetBuilderCommonConfig(
            model_name_for_tokenizer=str(tiny_model),
            renderer_name=None,
            batch_size=8,
            max_length=4096,
        )

    builder = MyChats()
    prompt = builder.renderer.generation_prompt([{"role": "user", "content": "hi"}])
    expected = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert builder.tokenizer.decode(prompt) == expected
    builder.common_config.batch_size = 1
    assert MyChats().common_config.batch_size == 8


def test_a_chat_builder_takes_its_config_as_an_argument_too(tiny_model):
    @dataclass
    class MyChats(ChatDatasetBuilder):
        path: str

    common = ChatDatasetBuilderCommonConfig(str(tiny_model))
    builder = MyChats(path="x", common_config=common)
    assert (builder.path, builder.common_config) == ("x", common)
    with pytest.raises(TypeError, match="needs a common_config"):
        MyChats(path="x")
