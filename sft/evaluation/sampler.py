"""The sampling client that evaluators are given: where they ask much at once, another process does.

A request costs some 3 ms of Python inside the SDK. A thousand at once, as eight trials with 128
held-out sequences make them, keep the interpreter busy for seconds in which no step is submitted.
So this process makes the requests of its evaluations only while few of them are under way, those of
all runs together. What goes beyond is asked by a process (`sampler_child.py`) that starts when it
is first needed. It runs at a low priority, so that steps come first also where there are fewer
cores than work.

Nothing depends on that process. What it cannot answer, because the service has refused it or
because the process has died, is asked here once more: the answer, or the SDK's own error, is that
of the second request. Neither changes anything on the service.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from sft.cost.usage import Usage, of_logprobs, of_sample

if TYPE_CHECKING:
    import tinker

logger = logging.getLogger(__name__)

COMMAND = [sys.executable, "-m", "sft.evaluation.sampler_child"]

MOST_HERE = 32
"""Requests of evaluations under way, of all runs, up to which this process makes the next one. One
more is worth a process, which takes half a second of a processor to start and 80 MB."""


@dataclass(eq=False)
class Question:
    """A request of an evaluation that the other process makes."""

    client: tinker.SamplingClient
    method: str
    args: tuple[Any, ...]
    options: dict[str, Any]
    answer: Future[Any] = field(default_factory=Future)

    def ask_here(self) -> None:
        """Have this process make it."""
        if self.answer.cancelled():
            return
        here = getattr(self.client, self.method)(*self.args, **self.options).future()

        def copy(done: Future[Any]) -> None:
            if done.cancelled():
                self.answer.cancel()
            elif self.answer.set_running_or_notify_cancel():
                if (error := done.exception()) is not None:
                    self.answer.set_exception(error)
                else:
                    self.answer.set_result(done.result())

        here.add_done_callback(copy)
        self.answer.add_done_callback(lambda answer: answer.cancelled() and here.cancel())


class SamplerProcess:
    """The process that asks, one for all runs of this one; and how much is asked without it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way = 0
        self._messages: queue.SimpleQueue[tuple[Any, ...]] | None = None  # once it is started
        self._lost = self._stopped = False
        self._waiting: dict[int, Question] = {}
        self._numbers = itertools.count()
        self.child: subprocess.Popen[bytes] | None = None

    def takes(self) -> bool:
        """Whether the next request is for the other process, which this starts if need be."""
        with self._lock:
            many = self._under_way >= MOST_HERE and not self._lost
            if many and self._messages is None:
                self._messages = queue.SimpleQueue()
                threading.Thread(target=self._serve, name="sft-sampler", daemon=True).start()
            return many

    def count(self, answer: Future[Any]) -> None:
        """Count a request as under way until it has its answer."""

        def done(answer: Future[Any]) -> None:
            with self._lock:
                self._under_way -= 1

        with self._lock:
            self._under_way += 1
        answer.add_done_callback(done)

    def ask(self, key: int, question: Question) -> None:
        """Have the process make a request with the client that it knows as `key`."""
        number = next(self._numbers)
        with self._lock:
            lost = self._lost
            if not lost:
                self._waiting[number] = question
        if lost:
            question.ask_here()
            return
        question.answer.add_done_callback(partial(self._give_up, number))
        self.tell("ask", number, key, question.method, question.args, question.options)

    def tell(self, *message: Any) -> None:
        if self._messages is not None:
            self._messages.put(message)

    def _give_up(self, number: int, answer: Future[Any]) -> None:
        if answer.cancelled() and self._waiting.pop(number, None) is not None:
            self.tell("cancel", number)

    def _serve(self) -> None:
        """Start the process and hand it what it is told: its pipe may be full for a while."""
        assert self._messages is not None
        try:
            # Ctrl-C is for the run, which may finish what it has begun. What the SDK says of a
            # request that fails it says here, where the request is made again.
            self.child = child = subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            atexit.register(self._stop, child)
            threading.Thread(target=self._listen, args=[child], daemon=True).start()
            assert child.stdin is not None
            while True:
                message = self._messages.get()
                child.stdin.write(pickle.dumps(message))
                if self._messages.empty():
                    child.stdin.flush()
        except (OSError, ValueError) as error:  # the latter of a closed pipe
            self._end(f"{type(error).__name__}: {error}")

    def _listen(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stdout is not None
        try:
            while True:
                number, answered, answer = pickle.load(child.stdout)
                if (question := self._waiting.pop(number, None)) is None:
                    continue
                if not answered:
                    question.ask_here()
                elif question.answer.set_running_or_notify_cancel():
                    question.answer.set_result(answer)
        except (EOFError, pickle.UnpicklingError):
            self._end(f"it ended with code {child.wait()}")

    def _end(self, why: str) -> None:
        """From now on all is asked here."""
        with self._lock:
            self._lost, waiting = True, list(self._waiting.values())
            self._waiting.clear()
        if self._stopped:
            return
        logger.warning("the process that asks for evaluations is gone (%s)", why)
        for question in waiting:
            question.ask_here()

    def _stop(self, child: subprocess.Popen[bytes]) -> None:
        """This process ends: nobody waits for an answer any more."""
        self._stopped = True
        child.kill()
        child.wait()


_process = SamplerProcess()
_keys = itertools.count()


class Sampler:
    """As a `tinker.SamplingClient`, but `process` makes the requests where they are many."""

    def __init__(
        self,
        client: tinker.SamplingClient,
        process: SamplerProcess,
        billed: Callable[[Usage], None] | None = None,
    ):
        self._client = client
        self._process = process
        self._billed = billed
        self._key: int | None = None  # once the process knows the client

    def sample(self, *args: Any, **options: Any) -> tinker.APIFuture[tinker.SampleResponse]:
        """As `tinker.SamplingClient.sample`."""
        answer = self._ask("sample", args, options)
        self._bill(answer, lambda response: of_sample(response, _length(args, options)))
        return answer

    def compute_logprobs(self, *args: Any, **options: Any) -> tinker.APIFuture[list[float | None]]:
        """As `tinker.SamplingClient.compute_logprobs`."""
        answer = self._ask("compute_logprobs", args, options)
        self._bill(answer, lambda logprobs: of_logprobs(_length(args, options)))
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def _ask(self, method: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        from tinker.lib.public_interfaces.api_future import AwaitableConcurrentFuture

        if not self._process.takes():
            answer = getattr(self._client, method)(*args, **options)
            self._process.count(answer.future())
            return answer
        if self._key is None:
            self._key = next(_keys)
            self._process.tell("client", self._key, self._client)
        question = Question(self._client, method, args, options)
        self._process.count(question.answer)
        self._process.ask(self._key, question)
        return AwaitableConcurrentFuture(question.answer)

    def _bill(self, answer: Any, usage: Callable[[Any], Usage]) -> None:
        """Tell what a request has used, once it is answered."""
        if (billed := self._billed) is None:
            return

        def done(future: Future[Any]) -> None:
            if not future.cancelled() and future.exception() is None:
                billed(usage(future.result()))

        answer.future().add_done_callback(done)

    def close(self) -> None:
        """Let the process forget the client."""
        if self._key is not None:
            self._process.tell("forget", self._key)


def _length(args: tuple[Any, ...], options: dict[str, Any]) -> int:
    """Tokens of the prompt that a request was given, by place or by name."""
    prompt: tinker.ModelInput = args[0] if args else options["prompt"]
    return prompt.length


@contextmanager
def beside(
    client: tinker.SamplingClient,
    process: SamplerProcess = _process,
    billed: Callable[[Usage], None] | None = None,
) -> Iterator[tinker.SamplingClient]:
    """`client` for an evaluator, for as long as it measures; by default with this process's one.

    `billed` is told what each answered request has used, in whatever thread the answer came.
    """
    sampler = Sampler(client, process, billed)
    try:
        yield cast("tinker.SamplingClient", sampler)
    finally:
        sampler.close()
