"""A model that always says the same."""

from types import SimpleNamespace


class Says:
    """A sampling client that answers everything with `text`, and what it was asked."""

    def __init__(self, text, tokenizer):
        self.tokens = [*tokenizer.encode(text), tokenizer.eos_token_id]
        self.tokenizer, self.asked = tokenizer, []

    async def sample(self, prompt, num_samples, sampling_params):
        self.asked.append((self.tokenizer.decode(prompt.to_ints()), sampling_params))
        return SimpleNamespace(sequences=[SimpleNamespace(tokens=self.tokens, stop_reason="stop")])
