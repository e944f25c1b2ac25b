"""A checkpoint as files for other programs, and a card that says what they are.

weights     the adapter of a checkpoint: from the local service's folder or downloaded, checked
folder      the exported folder, whole or not at all: adapter, merged model or GGUF file
card        README.md: base, data, settings, metrics, licence, how to load
loading     the next command for transformers, vLLM, Ollama and llama.cpp
__main__    `python -m sft.export RUN DIR`
"""
