"""A process that runs a task of Inspect AI and asks its parent for the model's answers.

Inspect keeps state of the process: it runs one evaluation at a time, sets up logging, reads `.env`.
So it has a process of its own, which writes a JSON object a line to its parent and reads as many:

    parent  {"task": "my_task.py@sums", "task_args": {…}, "config": {…}, "run": true}
    child   {"id": 0, "messages": [{"role": …, "content": …}], "config": {…}}
    parent  {"id": 0, "text": …, "stop_reason": …}, or {"id": 0, "error": …}
    child   {"log": {…}}, or {"failed": "one sentence"}
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import os
import sys
import tempfile
import threading
from typing import IO, Any

TAKEN = ("max_tokens", "temperature", "top_p", "top_k", "seed", "stop_seqs")
"""What a task may say of how an answer is sampled."""

REFUSED = (
    *("best_of", "frequency_penalty", "presence_penalty", "logit_bias"),
    *("logprobs", "prompt_logprobs", "response_schema"),
)
"""What the service's sampling does not have; the rest of Inspect's settings are of other APIs."""


class Parent:
    """The process that answers."""

    def __init__(self) -> None:
        # What a task prints goes to stderr, and it finds nothing to read.
        self._out: IO[str] = os.fdopen(os.dup(1), "w", encoding="utf-8")
        self._in: IO[str] = os.fdopen(os.dup(0), "r", encoding="utf-8")
        os.dup2(2, 1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._ids = itertools.count()

    def request(self) -> dict[str, Any]:
        return json.loads(self._in.readline())

    def tell(self, message: dict[str, Any]) -> None:
        self._out.write(json.dumps(message) + "\n")
        self._out.flush()

    async def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        number = next(self._ids)
        answer = self._waiting[number] = loop.create_future()
        if number == 0:
            threading.Thread(target=self._read, args=[loop], daemon=True).start()
        self.tell({"id": number, **message})
        return await answer

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            for line in self._in:
                answer = json.loads(line)
                waiting = self._waiting.pop(answer["id"])
                loop.call_soon_threadsafe(_answered, waiting, answer)
        finally:
            os._exit(1)  # the parent is gone


def _answered(waiting: asyncio.Future[dict[str, Any]], answer: dict[str, Any]) -> None:
    if not waiting.done():  # the task may have given it up
        waiting.set_result(answer)


def model(parent: Parent, config: dict[str, Any]) -> Any:
    """A model of Inspect that answers as the parent says."""
    from inspect_ai.model import GenerateConfig, ModelAPI, ModelOutput, get_model, modelapi

    @modelapi(name="sft")
    class Asks(ModelAPI):
        async def generate(
            self, input: list[Any], tools: list[Any], tool_choice: Any, config: Any
        ) -> ModelOutput:
            if tools:
                raise ValueError("the task gives its model tools, which sampled text cannot call")
            chosen = config.model_dump(exclude_none=True)
            refused = [name for name in REFUSED if chosen.get(name)]
            if chosen.get("num_choices", 1) > 1:
                refused.append("num_choices")
            if refused:
                raise ValueError(f"the task sets {', '.join(refused)}, which sampling has not here")
            answer = await parent.ask(
                {
                    "messages": [_message(one) for one in input],
                    "config": {name: chosen[name] for name in TAKEN if name in chosen},
                }
            )
            if "error" in answer:
                raise RuntimeError(answer["error"])
            return ModelOutput.from_content("sft/run", answer["text"], answer["stop_reason"])

        def max_connections(self) -> int:
            return 64

    return get_model("sft/run", config=GenerateConfig(**config))


def _message(message: Any) -> dict[str, str]:
    content = message.content
    kinds = {part.type for part in content} if isinstance(content, list) else set()
    if strange := kinds - {"text", "reasoning"}:
        raise ValueError(f"a message holds {', '.join(sorted(strange))}; only text is taken")
    return {"role": message.role, "content": message.text}


def run(parent: Parent, request: dict[str, Any]) -> dict[str, Any]:
    """What the log of the task says, as plain values; without `run` only what it will measure."""
    import inspect_ai

    with tempfile.TemporaryDirectory() as folder:
        logs = inspect_ai.eval(
            request["task"],
            task_args=request["task_args"],
            model=model(parent, request["config"]),
            limit=request["limit"],
            run_samples=request["run"],
            log_dir=folder,
            log_format="json",
            display="none",
            score_display=False,
            ctl_server=False,
            acp_server=False,
        )
    if len(logs) != 1:
        names = ", ".join(log.eval.task for log in logs)
        raise ValueError(f"expected one task, not {len(logs)} ({names}); name it: FILE.py@NAME")
    [log] = logs
    if log.error is not None:
        raise RuntimeError(log.error.message)
    return _plain(log)


def _plain(log: Any) -> dict[str, Any]:
    """A log of Inspect without all that nobody asks for."""
    reducers = log.eval.config.epochs_reducer or []
    results = log.results.scores if log.results else []
    return {
        "scorers": [
            {"name": one.name, "metrics": _names(one.metrics)} for one in log.eval.scorers or []
        ],
        "reducers": len(reducers),
        "scores": [
            {
                "name": score.name,
                "reducer": score.reducer,
                "metrics": {name: metric.value for name, metric in score.metrics.items()},
            }
            for score in results
        ],
        "reductions": [
            {
                "scorer": one.scorer,
                "reducer": one.reducer,
                "values": [[sample.sample_id, _value(sample.value)] for sample in one.samples],
            }
            for one in log.reductions or []
        ],
        "samples": [_sample(sample) for sample in log.samples or []],
    }


def _names(metrics: Any) -> list[str] | None:
    """The names of a scorer's metrics; None if they depend on what it says of the samples."""
    if not isinstance(metrics, list) or any(isinstance(metric, dict) for metric in metrics):
        return None
    return [metric.name.rpartition("/")[2] for metric in metrics]


def _sample(sample: Any) -> dict[str, Any]:
    asked = sample.input
    text = asked if isinstance(asked, str) else "\n".join(f"{m.role}: {m.text}" for m in asked)
    target = sample.target if isinstance(sample.target, str) else ", ".join(sample.target)
    return {
        "id": sample.id,
        "prompt": text,
        "answer": sample.output.completion,
        "reference": target,
        "scores": {name: score.value for name, score in (sample.scores or {}).items()},
    }


def _value(value: Any) -> float | None:
    """The number of a reduced score; None if it has none."""
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return float(value)
    return None


def main() -> None:
    parent = Parent()
    try:
        parent.tell({"log": run(parent, parent.request())})
    except (Exception, SystemExit) as error:
        words = " ".join(str(error).split()) or type(error).__name__
        parent.tell({"failed": words if type(error).__module__ != "builtins" else
                     f"{type(error).__name__}: {words}"})  # fmt: skip
    sys.stdout.flush()
    os._exit(0)  # whatever threads a task has left


if __name__ == "__main__":
    main()
