"""A harness in a process of its own, which asks for each answer of the weights: both ends.

Harnesses keep state of the process: they run one evaluation at a time, set up logging, seed what is
global, fork. So each evaluation has a process, and each end writes a JSON object a line:

    parent  {"run": true, …}: the request; without `run`: only what the task will measure
    child   {"id": 0, …}: a question
    parent  {"id": 0, …}: its answer, or {"id": 0, "error": …}
    child   {"log": {…}}, or {"failed": "one sentence"}
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import IO, Any

from sft.errors import BadInput, Sentence
from sft.evaluation.interface import CONCURRENT_REQUESTS

Message = dict[str, Any]
Answers = Callable[[Message], Awaitable[Message]]
LONGEST_LINE = 1 << 30
"""Bytes of one message of the child: the log of a large task is one."""


@dataclass(frozen=True)
class Harness:
    """A harness as its parent sees it."""

    group: str
    """As `evaluators=` chooses it; `GROUP_child.py` is what runs it."""
    title: str
    package: str
    """On PyPI."""

    def check_installed(self) -> None:
        """Raise `BadInput` if it is not."""
        if importlib.util.find_spec(self.package.replace("-", "_")) is None:
            raise BadInput(
                f"evaluators={self.group}: {self.title} is not installed; run "
                f"pip install {self.package}"
            )

    def described(self, request: Message) -> Message:
        """What the task of `request` will measure; nothing is asked of a model.

        Raises `BadInput` if it cannot be measured.
        """
        done = subprocess.run(
            self._command,
            input=json.dumps({**request, "run": False}) + "\n",
            capture_output=True,
            text=True,
            start_new_session=True,
        )
        if not done.stdout:
            words = last_line(done.stderr)
            raise BadInput(f"evaluators.args.task: {request['task']} cannot be loaded: {words}")
        try:
            return _log_of(json.loads(done.stdout), request)
        except Sentence as error:
            raise BadInput(f"evaluators.args.task: {error}") from None

    async def log(self, request: Message, answer: Answers) -> Message:
        """The log of the task of `request`, whose questions are answered by `answer`.

        A `BadInput` of `answer` is told to the task. Raises `Sentence` for what fails in it.
        """
        with tempfile.TemporaryFile() as said:
            return await self._log(request, answer, said)

    async def _log(self, request: Message, answer: Answers, said: IO[bytes]) -> Message:
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            limit=LONGEST_LINE,
            start_new_session=True,  # Ctrl-C is the run's: it may finish what it has begun
        )
        assert process.stdin is not None and process.stdout is not None
        replies = process.stdin
        slots = asyncio.Semaphore(CONCURRENT_REQUESTS)

        async def reply(question: Message) -> None:
            async with slots:
                try:
                    answered = await answer(question)
                except BadInput as error:
                    answered = {"error": str(error)}
            _write(replies, {"id": question["id"], **answered})

        try:
            _write(replies, {**request, "run": True})
            async with asyncio.TaskGroup() as group:
                async for line in process.stdout:
                    message = json.loads(line)
                    if "id" not in message:
                        return _log_of(message, request)
                    group.create_task(reply(message))
            said.seek(0)
            words = last_line(said.read().decode(errors="replace"))
            raise Sentence(f"the process of {self.title} ended without a result: {words}")
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            if process.returncode is None:
                _end(process.pid)
            await process.wait()

    @property
    def _command(self) -> list[str]:
        return [sys.executable, "-m", f"{__package__}.{self.group}_child"]


def _log_of(message: Mapping[str, Any], request: Mapping[str, Any]) -> Message:
    if "failed" in message:
        raise Sentence(f"{request['task']}: {message['failed']}")
    log: Message = message["log"]
    return log


def _write(stream: asyncio.StreamWriter, message: Message) -> None:
    stream.write(json.dumps(message).encode() + b"\n")


def last_line(text: str) -> str:
    """The last line of what a process said."""
    return (text.strip().splitlines() or ["it said nothing"])[-1]


def _end(process: int) -> None:
    """End the process and those that it has started."""
    try:
        os.killpg(process, signal.SIGKILL)
    except ProcessLookupError:
        pass


class Parent:
    """The process that answers, as its child sees it."""

    def __init__(self) -> None:
        # What a task prints goes to stderr, and it finds nothing to read.
        self._out: IO[str] = os.fdopen(os.dup(1), "w", encoding="utf-8")
        self._in: IO[str] = os.fdopen(os.dup(0), "r", encoding="utf-8")
        os.dup2(2, 1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        self._waiting: dict[int, Future[Message]] = {}
        self._ids = itertools.count()

    def request(self) -> Message:
        return json.loads(self._in.readline())

    def tell(self, message: Message) -> None:
        self._out.write(json.dumps(message) + "\n")
        self._out.flush()

    def ask(self, question: Message) -> Future[Message]:
        """The answer to `question`, or the `Sentence` that says why there is none.

        One thread asks all questions.
        """
        number = next(self._ids)
        answer = self._waiting[number] = Future()
        if number == 0:
            threading.Thread(target=self._read, daemon=True).start()
        self.tell({"id": number, **question})
        return answer

    def _read(self) -> None:
        try:
            for line in self._in:
                answer = json.loads(line)
                waiting = self._waiting.pop(answer["id"])
                if not waiting.set_running_or_notify_cancel():
                    continue  # the task has given it up
                if "error" in answer:
                    waiting.set_exception(Sentence(answer["error"]))
                else:
                    waiting.set_result(answer)
        finally:
            os._exit(1)  # the parent is gone


def serve(run: Callable[[Parent, Message], Message]) -> None:
    """What a child does: `run` the request of its parent, tell it the log or what failed, end."""
    parent = Parent()
    try:
        parent.tell({"log": run(parent, parent.request())})
    except (Exception, SystemExit) as error:
        words = " ".join(str(error).split()) or type(error).__name__
        if type(error).__module__ == "builtins" and words != type(error).__name__:
            words = f"{type(error).__name__}: {words}"
        parent.tell({"failed": words})
    sys.stdout.flush()
    os._exit(0)  # whatever threads a task has left
