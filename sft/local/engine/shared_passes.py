"""Which pieces of several requests, or which prompts, share one pass over the base model.

A pass has costs of its own: it reads every weight, makes kernels for its number of rows and calls
each of them. Joined pieces share these costs. Each sequence still goes through its own adapter, and
the gradients and losses of each piece are its own in shape and order. Only two things run over many
rows at once: products with weights (those of the base model, and those of the adapter if neighbours
have the same one), and what is computed row by row.

On a GPU numbers then agree to rounding. On a CPU they must not change by a bit. So there pieces are
joined only if a row does not depend on those beside it: from 64 rows up, in matrices a multiple of
64 wide (the remainder of a vector loop rounds in other ways), by workers of one thread (more would
divide the rows by their number), and up to as many rows as a trial on this very processor says:
some have another kernel where a matrix has more rows than columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sft.local.engine import layer, network, packs
from sft.local.engine.lora import Adapter, Run
from sft.local.engine.models import BaseModel
from sft.local.engine.pieces import SMALLEST_PIECE, Piece, most_tokens
from sft.local.engine.workers import Workers
from sft.local.engine_api import LoraSpec

PASS_TOKENS = {"cpu": 896, "cuda": 16384}
LEAST_ROWS = 64  # of a piece that is joined on a CPU
MOST_PIECES = 6  # about, in a pass on a CPU: each has kernels of its own, which must all be kept
WIDTH = 64  # what the widths of a model's matrices are multiples of, to be joined on a CPU
UNEVEN = 1.05  # how much longer the longest pass may be for the sake of whole requests
TRIAL = (64, 101, 83)  # rows of the sequences that are computed alone and together
PASSES = range(sum(TRIAL), PASS_TOKENS["cpu"] + 1, 72)  # rows of the passes that are tried


def join(queue: list[Piece], workers: Workers) -> list[list[Piece]]:
    """Divide pieces into passes of one base model and one direction each.

    About in their order: one adapter after another is done.
    """
    passes: list[list[int]] = []
    joined: dict[tuple[int, bool], list[int]] = {}
    for place, piece in enumerate(queue):
        if may_be_joined(piece.adapter.base, piece.tokens, workers):
            joined.setdefault((id(piece.adapter.base), piece.work.backward), []).append(place)
        else:
            passes.append([place])
    for places in joined.values():
        passes += _divide(queue, places, workers.count)
    return [[queue[place] for place in one] for one in sorted(passes)]


def join_prompts(base: BaseModel, lengths: list[int], workers: Workers) -> list[list[int]]:
    """Divide prompts of these lengths into passes over `base`; returns the places in each."""
    joined = [place for place, length in enumerate(lengths) if may_be_joined(base, length, workers)]
    passes = [[place] for place in range(len(lengths)) if place not in set(joined)]
    if joined:
        chosen = [lengths[place] for place in joined]
        most = _most(base, sum(chosen), len(chosen))
        groups = packs.even_groups(chosen, most, workers.count, SMALLEST_PIECE)
        passes += [[joined[index] for index in group] for group in groups]
    return sorted(passes)


def _divide(queue: list[Piece], places: list[int], workers: int) -> list[list[int]]:
    """Passes of about the same size: the workers shall end together.

    Of whole requests if that is about as even: their pieces share some products.
    """
    base = queue[places[0]].adapter.base
    most = _most(base, sum(queue[place].tokens for place in places), len(places))
    by_request: dict[int, list[int]] = {}
    for place in places:
        by_request.setdefault(queue[place].request, []).append(place)
    apart = [[place] for place in places]
    whole = []
    for request in by_request.values():
        fits = sum(queue[place].tokens for place in request) <= most
        whole += [request] if fits else [[place] for place in request]

    def passes(units: list[list[int]]) -> list[list[int]]:
        sizes = [sum(queue[place].tokens for place in unit) for unit in units]
        groups = packs.even_groups(sizes, most, workers, SMALLEST_PIECE)
        return [[place for index in group for place in units[index]] for group in groups]

    def longest(passes: list[list[int]]) -> int:
        return max(sum(queue[place].tokens for place in one) for one in passes)

    of_requests, of_pieces = passes(whole), passes(apart)
    even = longest(of_requests) <= UNEVEN * longest(of_pieces)
    return of_requests if even else of_pieces


def _most(base: BaseModel, tokens: int, pieces: int) -> int:
    """How many tokens a pass may have, of so many in so many pieces."""
    most = most_tokens(base, PASS_TOKENS)
    if base.device.type != "cpu":
        return most
    return min(most, base.rows_together or most, MOST_PIECES * tokens // pieces)


def may_be_joined(base: BaseModel, tokens: int, workers: Workers) -> bool:
    """Whether a piece of so many tokens may be in one pass with others."""
    if base.device.type != "cpu":
        return True
    if tokens < LEAST_ROWS or workers.threads > 1:
        return False
    if base.rows_together is None:
        (base.rows_together,) = workers.map(rows_together, [base])
    return tokens <= base.rows_together


def rows_together(base: BaseModel) -> int:
    """The most rows of a pass in which those of a layer come out the same, bit for bit, forward and
    backward, as in any smaller pass; 0 if they do in none.

    To be called by a worker, as passes are: with the same number of threads.
    """
    modules = [module for linear in base.linears[:-1] for module in linear.modules]
    if any(module.inputs % WIDTH or module.outputs % WIDTH for module in modules):
        return 0
    generator = torch.Generator().manual_seed(0)
    adapter = Adapter(base, LoraSpec(8, seed=0))
    adapter.weights.uniform_(-0.1, 0.1, generator=generator)
    shape = (PASSES[-1], base.embedding.shape[1])
    x, dy = (torch.randn(shape, generator=generator).to(base.dtype) for _ in range(2))
    bounds = packs.bounds(TRIAL)
    alone = [_layer(adapter, x[s:e], dy[s:e], (e - s,)) for s, e in bounds]
    most = 0
    for size in PASSES:
        # The rest of the rows stand before the last sequence, whose rows are the pass's last.
        *first, last = TRIAL
        rest = [size - sum(TRIAL)] if size > sum(TRIAL) else []
        end = bounds[-1][0]
        rows = torch.tensor([*range(end), *range(sum(TRIAL), size), *range(end, sum(TRIAL))])
        lengths = (*first, *rest, last)
        together = _layer(adapter, x[rows], dy[rows], lengths)
        places = packs.bounds(lengths)
        for (s, e), one in zip([*places[: len(first)], places[-1]], alone, strict=True):
            if not all(torch.equal(a, b[s:e]) for a, b in zip(one, together, strict=True)):
                return most
        most = size
    return most


def _layer(
    adapter: Adapter, x: Tensor, dy: Tensor, lengths: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """The first layer's output and the gradient of its input."""
    positions = packs.positions(list(lengths))
    run = Run(0, len(x), adapter.compute(), adapter.scale)
    pack = packs.Pack(positions, positions, list(lengths), [run])
    context = network.context_of(adapter.base, pack)
    y, kept = layer.forward_kept(context, 0, x)
    return y, layer.backward(context, 0, kept, dy)
