"""The computing: base models, LoRA adapters, passes over them, sampling."""
