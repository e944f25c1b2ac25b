"""What a study found, in a few lines, each difference with how sure it is."""

import shlex

from sft.cost.prices import dollars
from sft.record.durations import duration
from sft.sweeps.findings import by_hand, edge
from sft.sweeps.findings.importance import Importance
from sft.sweeps.findings.results import Compared, Result, Results
from sft.sweeps.parameters import RANK, shown


def answer(results: Results, found: Importance | str | None = None) -> list[str]:
    """The answer of a study in a few lines; `found` is its importance."""
    best = results.best()
    if best is None:
        return ["no trial is complete yet", *(_of_all(results) if results.trials else [])]
    lines: list[str] = []
    if len(results.metrics) > 1:
        lines.append(f"Pareto front of {', '.join(results.metrics)} ({_worth(results)}):")
        for trial in results.front():
            values = ", ".join(f"{value:.4g}" for value in trial.values)
            lines.append(f"  trial {trial.number}: {values} with {shown(trial.trained_with)}")
    what = f"trial with the {results.word} {results.metrics[0]}"
    equal = len(results.as_good(best))
    if equal > 1:
        what = f"first of {equal} trials with the same {results.word} {results.metrics[0]}"
        if equal == len(results.complete):
            what = (
                f"no trial is the best, all {equal} have the same {results.metrics[0]}; the first"
            )
    elif len(results.metrics) == 1:
        what = "best trial"
    lines += [*_described(results, best, what), *_doubts(results, best)]
    if len(results.metrics) == 1:
        lines += [*_ranks(results, best), *edge.sentences(results)]
    if isinstance(found, str):
        lines.append(f"importance of the parameters: {found}")
    return [*lines, *_of_all(results)]


def _of_all(results: Results) -> list[str]:
    """What there is to say of a study whether it has a best trial or not."""
    return [*_totals(results), *by_hand.sentences(results), *_problems(results)]


def _described(results: Results, trial: Result, what: str) -> list[str]:
    """A trial with its value, the run of it that can be sampled, and the command for that run."""
    metric = results.metrics[0]
    count = len(trial.repeats)
    repeated = f" (mean of {count} repeats, 95% interval {trial.interval})" if count else ""
    lines = [
        f"{what}: {trial.number}, {metric} {trial.values[0]:.4f}{repeated} with "
        f"{shown(trial.trained_with) or 'nothing varied'}"
    ]
    choose = min if results.minimize else max
    repeat = choose(range(count), key=trial.repeats.__getitem__) if count else 0
    run = trial.runs[repeat] if repeat < len(trial.runs) else {}
    whose = f" (repeat {repeat}: {metric} {trial.repeats[repeat]:.4f})" if count else ""
    if run.get("sampler"):
        lines.append(f"  checkpoint:  {run['sampler']}{whose}")
    if better := run.get("best"):
        lines.append(
            f"  on the way:  {better['sampler']} (step {better['step']}: {better['metric']} "
            f"{better['value']:.4f}, its best)"
        )
    lines.append(f"  train again: {train_again(trial, repeat if count else None)}{whose}")
    return lines


def train_again(trial: Result, repeat: int | None = None) -> str:
    """The command that trains a trial's configuration, or that very repeat, as a single run."""
    values = dict(trial.trained_with)
    if repeat is not None and repeat < len(trial.runs):
        values |= {key: trial.runs[repeat][key] for key in ("seed", "lora.seed")}
    shared = [word for word in trial.command if word.lstrip("+").partition("=")[0] not in values]
    own = [f"{name}={_typed(value)}" for name, value in values.items()]
    return f"python -m sft {shlex.join([*shared, *own])}"


def _worth(results: Results) -> str:
    if any(trial.repeats for trial in results.complete):
        return "means of repeats, without their intervals: a point near the front may lie on it"
    return "one run each: the data cannot tell a point near the front from one on it"


def _doubts(results: Results, best: Result) -> list[str]:
    """Whether the best trial is better than the others, as far as the data can tell."""
    metric = results.metrics[0]
    others = [results.against(best, trial) for trial in results.complete if trial is not best]
    if all(compared.is_same for compared in others):
        return []
    unknown = sum(compared.interval is None for compared in others)
    if unknown == len(others):
        return [
            f"  one run each: the data cannot tell whether its {metric} is better than the "
            "others' or luck; hydra.sweeper.repeats=3 could"
        ]
    untold = [compared for compared in others if not compared.is_worse and compared.interval]
    worse = len(others) - len(untold)
    worse -= unknown
    sources = next(compared.sources for compared in others if compared.interval)
    line = f"  {worse} of the {len(others)} other trials are worse (95% intervals over {sources})"
    if unknown:
        line += f"; of {unknown} the data cannot tell, since nothing is kept of them"
    if untold:
        numbers = ", ".join(str(compared.trial.number) for compared in untold[:8])
        more = ", …" if len(untold) > 8 else ""
        line += f"; it cannot be told from trial{'s'[: len(untold) - 1]} {numbers}{more}"
    return [f"{line}; {_not_counted(others)}"]


def _not_counted(others: list[Compared]) -> str:
    """What the intervals leave out."""
    if all(compared.of_seeds for compared in others):
        return "that it was picked among them is not counted"
    return (
        "that it was picked among them and chance between seeds (hydra.sweeper.repeats=3) are not "
        "counted"
    )


def _ranks(results: Results, best: Result) -> list[str]:
    """The smallest rank that will do, and how sure that is."""
    ranks = results.by_rank()
    if len(ranks) < 2:
        return []
    rank_of_best = best.params.get(RANK)
    others = [r for r in ranks if r.trial is not best]
    lines = []
    for r in others:
        words = "worse" if r.is_worse else "cannot be told from it"
        words = "the same value" if r.is_same else words
        if r.interval is None:
            words, sure = "one run each, the data cannot tell", ""
        else:
            pairs = ", paired by seed" if r.of_seeds and r.trial.seeds == best.seeds != [] else ""
            pairs = pairs or (", seeds not the same" if r.of_seeds else "")
            sure = f" (95% interval {r.interval}, over {r.sources}{pairs})"
        behind = f"{r.behind:z.4f} behind rank {rank_of_best}"
        lines.append(f"rank {r.trial.params[RANK]}: {behind}{sure}: {words}")
    lines.append(_of_the_picked([r.trial for r in ranks]))
    smaller = [r for r in others if r.trial.params[RANK] < rank_of_best]
    if not smaller:
        return lines
    for r in smaller:
        if not r.is_worse and r.interval is not None:
            alike = "with the same value" if r.is_same else "that cannot be told from the best"
            lines.append(
                f"smallest rank {alike}, cheaper to serve: "
                f"{r.trial.params[RANK]} (at most {r.interval.high:z.4f} behind)"
            )
            return lines + _described(results, r.trial, "its best trial")
    if any(r.interval is None for r in smaller):
        return lines
    return [*lines, f"no rank below {rank_of_best} is as good: each is worse"]


def _of_the_picked(trials: list[Result]) -> str:
    """What the intervals of ranks do not count: each is of the best trial of its rank so far."""
    others = [{k: v for k, v in trial.trained_with.items() if k != RANK} for trial in trials]
    words = "each rank by its best trial so far, and that it was picked as such is not counted"
    if any(other != others[0] for other in others):
        at = "; ".join(
            f"{trial.params[RANK]} with {shown(other)}"
            for trial, other in zip(trials, others, strict=True)
        )
        words += f"; they differ in more than rank: {at}"
    return f"({words})"


def _typed(value: object) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _totals(results: Results) -> list[str]:
    seconds = sum(trial.seconds for trial in results.trials)
    cost = "" if results.usd is None else f", cost {dollars(results.usd)}"
    lines = [
        f"{len(results.trials)} trials: {results.tokens:,} tokens, {seconds / 3600:.2f} hours of "
        f"training ({duration(seconds)}, trials side by side){cost}"
    ]
    if saved := sum(results.saved().values()):
        whole, price = results.tokens + saved, results.money(saved)
        worth = f", worth {price}" if price else ""
        lines.append(
            f"every trial to its end would have taken {whole:,}: {saved:,} tokens spared "
            f"({saved / whole:.0%}{worth})"
        )
    return lines


def _problems(results: Results) -> list[str]:
    """What happened to the trials that did not come to their end, or cannot be compared."""
    ended = [
        f"trial {trial.number}: {trial.state} ({trial.error})"
        for trial in results.trials
        if trial.error and trial.state in ("failed", "diverged")
    ]
    return ended + [
        f"trial {trial.number}: not compared over its examples: {file} cannot be read"
        for trial in results.trials
        for file in trial.unreadable
    ]
