"""Runs a task of lm-evaluation-harness and asks its parent for the model's answers (`process.py`).

    request   {"task": "my_task.yaml", "num_fewshot": …, "limit": …, "apply_chat_template": …, …}
    question  {"messages": [{"role": …, "content": …}], "behind": "", "continuation": "4"}
    answer    {"logprob": …, "greedy": …}
    question  {"messages": …, "behind": "", "config": {…}, "until": [" so"]}
    answer    {"text": …}
    question  {"text": …}: all of it
    answer    {"logprob": …}

`behind` is text that stands behind the messages: the beginning of an answer, or all of a prompt
without messages.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sft.errors import Sentence, nearest
from sft.evaluation.harnesses.process import Message, Parent, serve
from sft.record.examples import digest_of

TAKEN = {
    "max_gen_toks": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
}
"""What a task may say of how an answer is sampled, and the service's names for it."""
BLANK = {"logprob": -1.0, "greedy": False, "text": ""}
"""What is answered to a task that is tried out."""

Ask = Callable[[list[Message]], list[Message]]


class Chat(str):
    """A prompt in messages, which the harness hands about as text."""

    messages: list[dict[str, str]]


def chat(messages: list[dict[str, str]]) -> Chat:
    made = Chat("\n".join(f"{one['role']}: {one['content']}" for one in messages))
    made.messages = messages
    return made


def model(ask: Ask, request: Message) -> Any:
    """A model of the harness that answers as its parent says."""
    from lm_eval.api.model import LM
    from lm_eval.models.utils import normalize_gen_kwargs

    def prompt(context: str) -> Message:
        if isinstance(context, Chat):
            *before, last = context.messages
            if last["role"] == "assistant":  # how the answer begins
                return {"messages": before, "behind": last["content"]}
            return {"messages": context.messages, "behind": ""}
        if context and request["apply_chat_template"]:
            raise Sentence(
                "the task writes its prompts itself, without messages; "
                "set evaluators.args.apply_chat_template=false"
            )
        return {"messages": None, "behind": context}

    def sampling(given: dict[str, Any]) -> Message:
        settings = dict(normalize_gen_kwargs(given, request["max_gen_toks"]))
        until, samples = settings.pop("until"), settings.pop("do_sample")
        settings.setdefault("temperature", 1.0 if samples else 0.0)
        refused = [
            name
            for name, value in settings.items()
            if name not in TAKEN and value not in (None, False, 1)  # which change nothing
        ]
        if refused:
            raise Sentence(f"the task sets {', '.join(refused)}, which sampling has not here")
        config = {TAKEN[name]: value for name, value in settings.items() if name in TAKEN}
        if config.get("top_k") == 0:  # all of them, as transformers says it
            del config["top_k"]
        return {"config": config, "until": [end for end in until if end]}

    class Asks(LM):
        tokenizer_name = "sft"

        def apply_chat_template(
            self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
        ) -> str:
            return chat(chat_history)

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            pairs = [one.args for one in requests]
            asked = [{**prompt(context), "continuation": text} for context, text in pairs]
            return [(one["logprob"], one["greedy"]) for one in ask(asked)]

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            return [one["logprob"] for one in ask([{"text": one.args[0]} for one in requests])]

        def generate_until(self, requests: list[Any]) -> list[str]:
            pairs = [one.args for one in requests]
            return [
                one["text"] for one in ask([{**prompt(c), **sampling(how)} for c, how in pairs])
            ]

    return Asks()


def run(parent: Parent, request: Message) -> Message:
    """What the results of the task say, as plain values.

    Without `run` the task is tried out on one example with blank answers; if it cannot judge
    those, nothing is known of what it will measure.
    """
    from lm_eval.evaluator import simple_evaluate

    tried = False

    def ask(questions: list[Message]) -> list[Message]:
        nonlocal tried
        if request["run"]:
            return [answer.result() for answer in [parent.ask(one) for one in questions]]
        tried = True
        return [BLANK] * len(questions)

    manager, task = _found(request["task"])
    found = manager.load([task])
    tasks, groups = found["tasks"], found.get("group_map", {})
    members = {member for own in groups.values() for member in own}
    roots = [*found.get("groups", {}).values(), *tasks.values()]
    roots = [one for one in roots if _name(one) not in members]
    try:
        results = simple_evaluate(
            model=model(ask, request),
            tasks=roots,
            task_manager=manager,
            num_fewshot=request["num_fewshot"],
            limit=request["limit"] if request["run"] else 1,
            apply_chat_template=request["apply_chat_template"],
            confirm_run_unsafe_code=request["confirm_run_unsafe_code"],
            bootstrap_iters=0,  # the harness's own standard errors
        )
    except Exception:
        if not tried:
            raise
        return {"results": None}
    return {
        "roots": [_name(one) for one in roots],
        "groups": groups,
        "aggregations": {name: _aggregations(task) for name, task in tasks.items()},
        "results": {
            name: {
                key: float(value)
                for key, value in own.items()
                if _is_metric(key) and _is_number(value)
            }
            for name, own in results["results"].items()
        },
        "samples": {
            name: [_sample(one) for one in own] for name, own in results["samples"].items()
        },
    }


def _found(task: str) -> tuple[Any, str]:
    """What loads the task or group, and its name for it.

    All that are registered are looked for only if they may be needed: there are many. Those beside
    the file of a group may be its members.
    """
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    file = Path(task).expanduser()
    if file.is_file():
        group = load_yaml(file, resolve_func=False).get("group")
        if group is None:
            return TaskManager(include_defaults=False), task
        return TaskManager(include_path=str(file.parent)), group
    manager = TaskManager()
    if task not in manager.task_index:
        close = nearest(task, manager.all_tasks)
        raise Sentence(f"there is no task or group of this name{close}")
    return manager, task


def _name(task_or_group: Any) -> str:
    return getattr(task_or_group, "task_name", None) or task_or_group.name


def _aggregations(task: Any) -> dict[str, str]:
    """How the values of the examples become a metric, by the name of the function."""
    return {metric: getattr(how, "__name__", "") for metric, how in task.aggregation().items()}


def _is_metric(key: str) -> bool:
    metric, comma, _ = key.partition(",")
    return bool(comma) and not metric.endswith("_stderr")


def _sample(sample: dict[str, Any]) -> Message:
    """A row for one example and one filter. `asked` is a digest of all that the model was asked."""
    arguments, target = sample["arguments"], sample["target"]
    first = [responses[0] for responses in sample["resps"]]
    row: Message = {"prompt": str(arguments[0][0]), "answer": None}
    if isinstance(first[0], str):
        row["answer"] = first[0]
    elif isinstance(first[0], tuple):
        # A task may ask for the choices without the question, too.
        pairs = [one for one in arguments if one[0]] or arguments
        logprobs = [logprob for logprob, _ in first[: len(pairs)]]
        best = logprobs.index(max(logprobs))
        row["prompt"] = str(pairs[best][0])
        alike = len({pair[1] for pair in pairs}) == 1  # then the prompts are what differs
        choices = [str(pair[0] if alike else pair[1]).strip() for pair in pairs]
        if len(choices) > 1:
            row["answer"] = choices[best]
            if isinstance(target, int) and 0 <= target < len(choices):
                target = choices[target]
        row["logprob"] = logprobs[best]
    row["reference"] = ", ".join(map(str, target)) if isinstance(target, list) else str(target)
    return {
        "id": sample["doc_id"],
        "filter": sample["filter"],
        "row": row,
        "asked": digest_of([repr(arguments), row["reference"]]),
        "values": {metric: _value(sample[metric]) for metric in sample["metrics"]},
    }


def _value(value: Any) -> float | list[float] | None:
    """A number, or two; None for what is neither."""
    both = value if isinstance(value, tuple) and len(value) == 2 else [value]
    if not all(_is_number(one) and math.isfinite(one) for one in both):
        return None
    return [float(one) for one in both] if both is value else float(value)


def _is_number(value: Any) -> bool:
    return hasattr(value, "__float__") and getattr(value, "ndim", 0) == 0


if __name__ == "__main__":
    serve(run)
