"""The requests of one model in the order in which the service computes them.

A checkpoint holds the weights of its step only if nothing else is computed in between, so the
loop relies on this: when a method here returns, its requests have their places, before those of
any later call. The SDK (0.38) numbers a model's requests as they are made, in most calls at once:

    forward, forward_backward, optim_step             when called
    forward_backward_custom                           when called, forward and backward together
    save_state, save_weights_external                 when called
    load_state, load_state_with_optimizer             when called
    save_weights_and_get_sampling_client              when called
    save_weights_for_sampler                          later, in a coroutine on the SDK's thread
    SamplingClient.sample, .compute_logprobs          in no queue: a snapshot does not change
    RestClient.*                                      in no queue

`tests/run/test_training_queue.py` holds the SDK to this table.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sft.errors import Sentence

if TYPE_CHECKING:
    import tinker

    from sft.losses import Loss


class NeverWorked(Sentence):
    """The service answers a kind of request with an error, and has never answered it otherwise."""


@dataclass
class Request:
    """A request in the queue; awaiting it gives the service's answer."""

    kind: str
    answer: Any
    """The SDK's future of it."""
    worked: set[str]

    def __await__(self) -> Generator[Any, None, Any]:
        return self._answered().__await__()

    async def _answered(self) -> Any:
        """Raises what the SDK raises, or `NeverWorked` if trying again is no use."""
        import tinker

        try:
            answer = await self.answer
        except tinker.APIStatusError as error:
            # 502 to 504 are a proxy's word for a service that is away for a while.
            if error.status_code not in (500, 501) or self.kind in self.worked:
                raise
            raise NeverWorked(
                f"the service answers {self.kind} with an error ({error.status_code}: {error}), "
                "and has not done otherwise since this run began"
            ) from error
        self.worked.add(self.kind)
        return answer


class TrainingQueue:
    """One model's queue on the service.

    `worked` are the kinds of requests that the service has answered well so far in this run.
    """

    def __init__(self, client: tinker.TrainingClient, loss: Loss, worked: set[str]):
        self._client = client
        self._loss = loss
        self._worked = worked
        self._unanswered: set[Any] = set()

    def step(self, data: list[tinker.Datum], parameters: Any) -> tuple[Request, Request]:
        """Queue `forward_backward` on `data` and the `optim_step` behind it."""
        return (
            self._queued("forward_backward", self._loss.forward_backward(self._client, data)),
            self._queued("optim_step", self._client.optim_step(parameters)),
        )

    def snapshot(self) -> Request:
        """Queue a snapshot of the weights; its answer is a client that samples from them."""
        return self._queued("snapshot", self._client.save_weights_and_get_sampling_client())

    async def save(self, name: str, ttl_seconds: int | None) -> tuple[Request, Request]:
        """Queue both files of the checkpoint `name`: the state, and the weights to sample from.

        Returns once both have their places, which takes no answer of the service.
        """
        state = self._client.save_state(name, ttl_seconds=ttl_seconds)
        sampler = self._client.save_weights_for_sampler(name, ttl_seconds=ttl_seconds)
        # The SDK's thread begins its coroutines in the order of the calls: once this one has
        # run, that of `save_weights_for_sampler` has taken its number.
        await self._client.holder.run_coroutine_threadsafe(_nothing())
        return self._queued("save_state", state), self._queued("save_weights_for_sampler", sampler)

    def give_up(self) -> None:
        """Ask for no answer any more."""
        for future in list(self._unanswered):
            future.cancel()

    def _queued(self, kind: str, answer: Any) -> Request:
        future = answer.future()
        self._unanswered.add(future)
        future.add_done_callback(self._unanswered.discard)
        return Request(kind, answer, self._worked)


async def _nothing() -> None:
    """For its turn alone."""
