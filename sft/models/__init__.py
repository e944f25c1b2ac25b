"""The demo model, tokenizers by name, sizes of adapters, merging."""
