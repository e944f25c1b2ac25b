"""A task of Inspect AI (inspect.aisi.org.uk), answered by the weights that are evaluated.

Inspect runs in a process of its own (`inspect_child.py`) and asks for each answer: the messages
go through the run's renderer, the answer comes from the sampling client.
"""

# No postponed annotations: the keys of the builder are checked by their types, and it says that it
# is of the module from which it is imported.

import asyncio
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sft.data.mixing.named_sets import check_names
from sft.errors import BadInput, Sentence
from sft.evaluation import inspect_log
from sft.evaluation.answers import answer_text
from sft.evaluation.interface import CONCURRENT_REQUESTS, EvaluatorBuilder
from sft.evaluation.questions import tokenizer_and_renderer
from sft.keys import key
from sft.record.examples import Examples
from sft.rendering.base import Renderer
from sft.types import ChatDatasetBuilderCommonConfig

if TYPE_CHECKING:
    import tinker

COMMAND = [sys.executable, "-m", "sft.evaluation.inspect_child"]
STOP_REASONS = {"stop": "stop", "length": "max_tokens"}
LONGEST_LINE = 1 << 30
"""Bytes of one message of the other process: the log of a large task is one."""


@dataclass
class InspectEvaluator:
    """The metrics of an Inspect task, as `eval/NAME/METRIC`."""

    request: dict[str, Any]
    tokenizer: Any
    renderer: Renderer
    measures: tuple[str, ...] | None
    """Names of what is measured; None if that depends on what the scorers say."""
    name: str = "inspect"
    table: list[dict[str, Any]] = field(default_factory=list)
    examples: dict[str, Examples] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.measures is not None:  # an evaluator that does not know them has no `metrics`
            self.metrics = self.measures

    async def __call__(self, sampling_client: "tinker.SamplingClient") -> dict[str, float]:
        with tempfile.TemporaryFile() as said:
            log = await self._log(sampling_client, said)
        self.table = inspect_log.rows(log)
        self.examples = inspect_log.examples(log, self.name)
        return inspect_log.metrics(log, self.name)

    async def _log(
        self, sampling_client: "tinker.SamplingClient", said: IO[bytes]
    ) -> dict[str, Any]:
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            limit=LONGEST_LINE,
            start_new_session=True,  # Ctrl-C is the run's: it may finish what it has begun
        )
        assert process.stdin is not None and process.stdout is not None
        replies = process.stdin
        slots = asyncio.Semaphore(CONCURRENT_REQUESTS)
        asked: Counter[str] = Counter()

        async def reply(question: dict[str, Any]) -> None:
            async with slots:
                try:
                    answer = await self._answer(sampling_client, question, asked)
                except BadInput as error:
                    answer = {"error": str(error)}
            _write(replies, {"id": question["id"], **answer})

        try:
            _write(replies, {**self.request, "run": True})
            async with asyncio.TaskGroup() as group:
                async for line in process.stdout:
                    message = json.loads(line)
                    if "id" not in message:
                        return _log_of(message, self.request["task"])
                    group.create_task(reply(message))
            raise Sentence(f"the process of Inspect ended without a result: {_last_line(said)}")
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            if process.returncode is None:
                _end(process.pid)
            await process.wait()

    async def _answer(
        self,
        sampling_client: "tinker.SamplingClient",
        question: dict[str, Any],
        asked: Counter[str],
    ) -> dict[str, str]:
        """The answer to the messages of a `question`. Raises `BadInput` if they are none.

        The nth answer to one prompt is seeded by the task's seed + n, whatever is asked beside it.
        """
        import tinker

        prompt = self.renderer.generation_prompt(question["messages"])
        config = dict(question["config"])
        ends = config.pop("stop_seqs", None) or []
        config["seed"] = config.get("seed", 0) + asked[str(prompt)]
        asked[str(prompt)] += 1
        stop = self.renderer.stop_sequences()
        response = await sampling_client.sample(
            prompt=tinker.ModelInput.from_ints(prompt),
            num_samples=1,
            sampling_params=tinker.SamplingParams(stop=stop, **config),
        )
        sequence = response.sequences[0]
        text, reason = answer_text(sequence.tokens, self.tokenizer, stop), sequence.stop_reason
        for end in ends:
            if end in text:
                text, reason = text.partition(end)[0], "stop"
        return {"text": text, "stop_reason": STOP_REASONS[reason]}


@dataclass
class InspectBuilder(EvaluatorBuilder):
    """Builds an `InspectEvaluator`.

    Raises `BadInput` if there is no such task, or Inspect AI is not installed.
    """

    __module__ = "sft.evaluators"  # from where it is imported, as saved configs say

    common_config: ChatDatasetBuilderCommonConfig
    task: str = field(metadata={"help": "my_task.py@NAME, or the name of a registered task"})
    task_args: dict[str, Any] = key({}, "arguments of the task")
    limit: int | None = key(None, "samples at most; null: all", minimum=1)
    max_tokens: int = key(256, "longest answer, tokens, if the task does not say", minimum=1)
    temperature: float = key(0.0, "of the answers, if the task does not say", minimum=0)
    seed: int = key(0, "of the answers, if the task does not say", minimum=0)
    name: str = key("inspect", "a name of its own: it measures eval/NAME/METRIC")

    def __call__(self) -> InspectEvaluator:
        check_names([self.name], "evaluators.args.name")
        if importlib.util.find_spec("inspect_ai") is None:
            raise BadInput(
                "evaluators=inspect: Inspect AI is not installed; run pip install inspect-ai"
            )
        file = self.task.rpartition("@")[0] or self.task
        if file.endswith(".py") and not Path(file).is_file():
            raise BadInput(
                f"evaluators.args.task: {file}: there is no such file; expected FILE.py@NAME, or "
                "the name of a registered task"
            )
        tokenizer, renderer = tokenizer_and_renderer(self.common_config)
        chosen = ("max_tokens", "temperature", "seed")
        request = {
            "task": self.task,
            "task_args": self.task_args,
            "limit": self.limit,
            "config": {name: getattr(self, name) for name in chosen},
        }
        metrics = inspect_log.names(described(request), self.name)
        return InspectEvaluator(request, tokenizer, renderer, metrics, self.name)


def described(request: Mapping[str, Any]) -> dict[str, Any]:
    """What the task will measure; nothing is asked of a model. Raises `BadInput`."""
    done = subprocess.run(
        COMMAND,
        input=json.dumps({**request, "run": False}) + "\n",
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    if not done.stdout:
        words = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise BadInput(f"evaluators.args.task: {request['task']} cannot be loaded: {words}")
    try:
        return _log_of(json.loads(done.stdout), request["task"])
    except Sentence as error:
        raise BadInput(f"evaluators.args.task: {error}") from None


def _log_of(message: Mapping[str, Any], task: str) -> dict[str, Any]:
    if "failed" in message:
        raise Sentence(f"{task}: {message['failed']}")
    log: dict[str, Any] = message["log"]
    return log


def _write(stream: asyncio.StreamWriter, message: Mapping[str, Any]) -> None:
    stream.write(json.dumps(message).encode() + b"\n")


def _last_line(said: IO[bytes]) -> str:
    said.seek(0)
    lines = said.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _end(process: int) -> None:
    """End the process and those that it has started."""
    try:
        os.killpg(process, signal.SIGKILL)
    except ProcessLookupError:
        pass
