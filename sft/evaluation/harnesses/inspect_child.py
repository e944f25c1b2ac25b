"""Runs a task of Inspect AI and asks its parent for the model's answers (see `process.py`).

request   {"task": "my_task.py@sums", "task_args": {…}, "limit": …, "config": {…}}
question  {"messages": [{"role": …, "content": …}], "config": {…}}
answer    {"text": …, "stop_reason": …}
"""

from __future__ import annotations

import asyncio
import glob
import math
import tempfile
from pathlib import Path
from typing import Any

from sft.errors import Sentence
from sft.evaluation.harnesses.process import Parent, serve

TAKEN = ("max_tokens", "temperature", "top_p", "top_k", "seed", "stop_seqs")
"""What a task may say of how an answer is sampled."""

REFUSED = (
    *("best_of", "frequency_penalty", "presence_penalty", "logit_bias"),
    *("logprobs", "prompt_logprobs", "response_schema"),
)
"""What the service's sampling does not have; the rest of Inspect's settings are of other APIs."""


def model(parent: Parent, config: dict[str, Any]) -> Any:
    """A model of Inspect that answers as the parent says."""
    from inspect_ai.model import GenerateConfig, ModelAPI, ModelOutput, get_model, modelapi

    @modelapi(name="sft")
    class Asks(ModelAPI):
        async def generate(
            self, input: list[Any], tools: list[Any], tool_choice: Any, config: Any
        ) -> ModelOutput:
            if tools:
                raise Sentence("the task gives its model tools, which sampled text cannot call")
            chosen = config.model_dump(exclude_none=True)
            refused = [name for name in REFUSED if chosen.get(name)]
            if chosen.get("num_choices", 1) > 1:
                refused.append("num_choices")
            if refused:
                raise Sentence(f"the task sets {', '.join(refused)}, which sampling has not here")
            asked = parent.ask(
                {
                    "messages": [_message(one) for one in input],
                    "config": {name: chosen[name] for name in TAKEN if name in chosen},
                }
            )
            answer = await asyncio.wrap_future(asked)
            return ModelOutput.from_content("sft/run", answer["text"], answer["stop_reason"])

        def max_connections(self) -> int:
            return 64

    return get_model("sft/run", config=GenerateConfig(**config))


def _message(message: Any) -> dict[str, str]:
    content = message.content
    kinds = {part.type for part in content} if isinstance(content, list) else set()
    if strange := kinds - {"text", "reasoning"}:
        raise Sentence(f"a message holds {', '.join(sorted(strange))}; only text is taken")
    return {"role": message.role, "content": message.text}


def run(parent: Parent, request: dict[str, Any]) -> dict[str, Any]:
    """What the log of the task says, as plain values; without `run` only what it will measure."""
    import inspect_ai

    _check_is_one(request["task"])
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
        raise Sentence(f"expected one task, not {len(logs)} ({names}); name it: FILE.py@NAME")
    [log] = logs
    if log.error is not None:
        raise Sentence(log.error.message)
    return _plain(log)


def _check_is_one(task: str) -> None:
    """Refuse a file of several tasks before any of them is made: one of them may fail at that."""
    from inspect_ai import list_tasks

    file = Path(task)
    if not (file.suffix == ".py" and file.is_file()):
        return
    found = [one.name for one in list_tasks(glob.escape(file.name), root_dir=file.parent.resolve())]
    if len(found) > 1:
        names = ", ".join(f"{task}@{name}" for name in found)
        raise Sentence(f"expected one task, not {len(found)}; name one of {names}")


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


if __name__ == "__main__":
    serve(run)
