"""The computing: base models, LoRA adapters, training and sampling, with PyTorch.

How a training request becomes numbers, in the order of the work:

    pieces         cut: one request into pieces, by what it holds alone; computes them in one pass
    shared_passes  which pieces of several requests, or which prompts, share one pass
    packs          the pack: the sequences of one pass, laid end to end
    network        the pass itself, layer by layer
    totals         the results of the pieces, added up to those of each request

And a sampling request:

    prefill        the pass over its prompt; which prompts share one, `shared_passes` says
    decoding       steps of one token for all samples, in one pass by all cores
    shelves        the samples' keys and values, those of about the same length side by side
    choosing       the next token of each
"""
