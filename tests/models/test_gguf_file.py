"""A model's folder as a GGUF file: read back by transformers, and by llama.cpp itself."""

import json

import pytest

from sft.errors import BadInput
from sft.models.gguf_file import check_architecture, write_gguf

pytest.importorskip("gguf")


def small(kind, tiny_model, folder, **changed):
    """A random model of a kind, with the tokenizer of `tiny_model`, in `folder`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    like = json.loads((tiny_model / "config.json").read_text())
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
             "num_attention_heads", "num_key_value_heads", "max_position_embeddings")  # fmt: skip
    config = AutoConfig.for_model(kind, **{name: like[name] for name in names}, **changed)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():  # biases and norms that are not all alike
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)


KINDS = [
    ("llama", {"tie_word_embeddings": True}),
    ("qwen2", {"tie_word_embeddings": False}),
    ("qwen3", {"tie_word_embeddings": False, "head_dim": 128}),
]


@pytest.mark.parametrize("kind, changed", KINDS)
def test_the_file_read_back_computes_what_the_folder_computes(kind, changed, tiny_model, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    small(kind, tiny_model, tmp_path / "model", **changed)
    check_architecture(str(tmp_path / "model"))
    write_gguf(tmp_path / "model", tmp_path / "model.gguf")
    tokens = torch.arange(40)[None] + 60
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(tmp_path / "model")(tokens).logits
        read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf")(tokens).logits
    assert torch.equal(read, expected)


def test_the_file_has_the_tokenizer_and_its_chat_template(tiny_model, tmp_path):
    from gguf import GGUFReader
    from transformers import AutoTokenizer

    write_gguf(tiny_model, tmp_path / "model.gguf")
    fields = GGUFReader(tmp_path / "model.gguf").fields
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert tokens == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert fields["tokenizer.chat_template"].contents() == tokenizer.chat_template
    assert fields["tokenizer.ggml.eos_token_id"].contents() == tokenizer.eos_token_id


def test_a_model_of_another_kind_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(BadInput, match="is a gpt2.*convert_hf_to_gguf"):
        check_architecture(str(tmp_path))


@pytest.mark.slow
def test_llama_cpp_loads_the_file_and_computes_the_same(tmp_path):
    """The demo model, for llama.cpp takes no tokenizer without merges as that of tiny models."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from sft.models import demo

    llama = pytest.importorskip("xllamacpp")  # llama.cpp as a wheel
    write_gguf(demo.folder(), tmp_path / "model.gguf")
    parameters = llama.CommonParams()
    parameters.model.path = str(tmp_path / "model.gguf")
    parameters.n_ctx = 256
    server = llama.Server(parameters)
    text = "The capital of France is"
    asked = {"prompt": text, "temperature": 0, "n_predict": 8, "n_probs": 1}
    (answer,) = server.handle_completions(asked)["choices"]

    tokenizer = AutoTokenizer.from_pretrained(demo.folder())
    prompt = tokenizer(text, return_tensors="pt")
    model = AutoModelForCausalLM.from_pretrained(demo.folder())
    tokens = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    assert answer["text"] == tokenizer.decode(tokens[0, prompt["input_ids"].shape[1] :])
    with torch.no_grad():
        likeliest = torch.log_softmax(model(**prompt).logits[0, -1], -1).max().item()
    assert answer["logprobs"]["content"][0]["logprob"] == pytest.approx(likeliest, abs=0.01)
