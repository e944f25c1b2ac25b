"""A config folder of one's own to start from: `python -m sft.init`."""
