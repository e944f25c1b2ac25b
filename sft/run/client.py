"""The connection to a Tinker service: one session and one training client, made off the loop.

Creating an SDK client blocks for round trips, so all of it happens in threads; the calls of
the training loop itself return at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sft.config.secrets import fill
from sft.errors import BadInput, nearest
from sft.run.failures import ServiceLost, is_refused, words_of
from sft.secrets import mask_urls
from sft.service import proxies
from sft.service.habits import server
from sft.service.keys import api_key

if TYPE_CHECKING:
    import tinker

    from sft.config.training import Config

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 10.0
"""For the service to hear that a session has ended; it ends one that says nothing by itself."""


def _place(base_url: str | None) -> str:
    """The service as messages call it."""
    url = server.shown(base_url)
    return f"the service at {mask_urls(url)}" if url else "hosted Tinker"


@contextmanager
def explained(base_url: str | None) -> Iterator[None]:
    """Turn the SDK's errors of reaching a service into `BadInput` and `ServiceLost`."""
    import tinker

    where = _place(base_url)
    try:
        yield
    except (tinker.AuthenticationError, tinker.PermissionDeniedError) as error:
        raise BadInput(f"{where} refused the key: {error}; check TINKER_API_KEY") from error
    except (
        tinker.APIConnectionError,
        tinker.APIStatusError,
        tinker.APIResponseValidationError,  # some other page
    ) as error:
        raise ServiceLost(f"cannot reach {where}: {error}") from error
    except tinker.APIError:
        raise
    except tinker.TinkerError as error:  # no key, or one of another form
        raise BadInput(
            f"no key for {where}: {str(error).rstrip('.')}. Set TINKER_API_KEY, or train on this "
            "machine with service=local."
        ) from error


@dataclass
class Service:
    """What a service says without a session: the models that it trains, its checkpoints."""

    rest: tinker.RestClient
    base_url: str | None

    @classmethod
    async def reach(cls, base_url: str | None) -> Service:
        """Connect to the service. Raises `BadInput` if the key is missing or refused, and
        if nothing answers at the URL."""
        import tinker
        from tinker.lib._auth_token_provider import resolve_auth_provider
        from tinker.lib.base_url import resolve_base_url

        base_url = base_url and fill(base_url, "service.base_url")
        key = api_key(base_url)
        if base_url is None:  # hosted Tinker: at once, without asking anybody
            with explained(base_url):
                resolve_auth_provider(key, enforce_cmd=False)
        url = resolve_base_url(base_url)
        proxies.exempt_loopback(url)
        proxies.sdk_without_proxies(url)
        await asyncio.to_thread(_probe, url)
        try:
            with explained(base_url):
                rest = await asyncio.to_thread(
                    lambda: tinker.RestClient(base_url=base_url, api_key=key)
                )
        except ServiceLost as error:
            raise BadInput(f"service: {error}") from error
        return cls(rest, base_url)

    async def models(self) -> list[tinker.types.SupportedModel]:
        """Those that the service offers. Raises `BadInput`."""
        try:
            with explained(self.base_url):
                answer = await self.rest.get_server_capabilities()
            return list(answer.supported_models)
        except ServiceLost as error:  # nothing has begun that could be resumed
            raise BadInput(f"service: {error}") from error

    async def check(self, model_name: str, max_length: int | None) -> None:
        """Refuse a model that the service does not train, or sequences that it cannot hold.

        Raises `BadInput`.
        """
        models = {
            model.model_name: model.max_context_length
            for model in await self.models()
            if model.model_name and model.trainable is not False
        }
        where = _place(self.base_url)
        if model_name not in models:
            offer = ", ".join(sorted(models)) or "none"
            raise BadInput(
                f"model.name: {where} does not train '{model_name}'"
                f"{nearest(model_name, list(models))}; it trains: {offer}"
            )
        context = models[model_name]
        if context and max_length and max_length > context:
            raise BadInput(
                f"max_length: {max_length} tokens do not fit '{model_name}', "
                f"whose context on {where} is {context}; use max_length={context} or less"
            )

    async def weights_info(self, path: str) -> tinker.types.WeightsInfoResponse | None:
        """What the service knows of the checkpoint at `path`, None if it has none."""
        import tinker

        try:
            return await self.rest.get_weights_info_by_tinker_path(path)
        except (tinker.NotFoundError, tinker.BadRequestError):
            return None

    async def delete(self, path: str) -> None:
        """Delete a checkpoint; one that is already gone is fine."""
        import tinker

        try:
            await self.rest.delete_checkpoint_from_tinker_path(path)
        except tinker.NotFoundError:
            pass


def _probe(url: str) -> None:
    """Fail at once if nothing listens: the SDK would try for five minutes."""
    import httpx

    direct = proxies.is_loopback(url)
    through = (
        ""
        if direct or not proxies.proxies()
        else f", asked through {' or '.join(proxies.proxies())}"
    )
    try:
        httpx.get(f"{url}/api/v1/healthz", timeout=10.0, trust_env=not direct)
    except (ImportError, ValueError) as error:  # a kind of proxy that httpx cannot use
        raise BadInput(f"service: {url} cannot be{through}: {error}") from error
    except (httpx.ConnectError, httpx.ProxyError) as error:
        raise BadInput(
            f"service: nothing answers at {url}{through} ({error}); check the URL and the "
            "network, or train on this machine with service=local"
        ) from error
    except httpx.TimeoutException:
        pass  # slow is not absent: the SDK waits


@dataclass
class Connection:
    """A session with the service. `close` ends it."""

    service: tinker.ServiceClient
    api: Service

    @classmethod
    @asynccontextmanager
    async def to(cls, api: Service) -> AsyncIterator[Connection]:
        """A session for as long as it is needed. Raises what `open` raises."""
        connection = await cls.open(api)
        status: Literal["success", "errored"] = "errored"
        try:
            yield connection
            status = "success"
        finally:
            await connection.close(status)

    @classmethod
    async def open(cls, api: Service) -> Connection:
        """Start a session. Raises `BadInput` and `ServiceLost` as `explained` says."""
        import tinker

        def start() -> tinker.ServiceClient:
            service = tinker.ServiceClient(base_url=api.base_url, api_key=api_key(api.base_url))
            service.holder  # noqa: B018 - the session starts here
            return service

        with explained(api.base_url):
            service = await asyncio.to_thread(start)
        service.holder.get_loop().set_exception_handler(_log_what_nobody_awaits)
        return cls(service, api)

    async def create(self, config: Config, metadata: dict[str, str]) -> tinker.TrainingClient:
        """A training client on fresh LoRA weights, or on `config.load_checkpoint_path`'s."""
        import tinker

        optimizer = tinker.types.DimuonOptimizerConfig() if config.optimizer == "dimuon" else None
        try:
            if path := config.load_checkpoint_path:
                return await self._from_weights(path, config, metadata, optimizer)
            submit = self.service.create_lora_training_client
            return await await_client(
                lambda: submit(
                    base_model=config.model_name,
                    rank=config.lora_rank,
                    seed=config.lora_seed,
                    train_mlp=config.train_mlp,
                    train_attn=config.train_attn,
                    train_unembed=config.train_unembed,
                    user_metadata=metadata,
                    optimizer=optimizer,
                )
            )
        except tinker.RequestFailedError as error:
            raise _model_refused(config, error) from error

    async def _from_weights(
        self, path: str, config: Config, metadata: dict[str, str], optimizer: Any
    ) -> tinker.TrainingClient:
        info = await self.api.weights_info(path)
        if info is None:
            raise BadInput(
                f"checkpoint.load: {_place(self.api.base_url)} has no checkpoint {path}; it is "
                "another service's, or was deleted"
            )
        if info.lora_rank is not None and info.lora_rank != config.lora_rank:
            raise BadInput(
                f"lora.rank: {path} has rank {info.lora_rank}, not {config.lora_rank}; "
                f"use lora.rank={info.lora_rank}"
            )
        if config.load_checkpoint_step is not None:
            return await self.resume(path, metadata)
        submit = self.service.create_training_client_from_state
        return await await_client(lambda: submit(path, user_metadata=metadata, optimizer=optimizer))

    async def resume(self, state_path: str, metadata: dict[str, str]) -> tinker.TrainingClient:
        """A training client that goes on from a saved state, optimizer included."""
        submit = self.service.create_training_client_from_state_with_optimizer
        return await await_client(lambda: submit(state_path, user_metadata=metadata))

    async def close(self, status: Literal["success", "errored"]) -> None:
        """End the session with `success` or `errored`. Raises nothing: whatever the
        service says to it, what was computed is there."""
        try:
            await asyncio.wait_for(self.service.close(status).result_async(), CLOSE_SECONDS)
        except Exception as error:
            logger.debug("the session was not closed: %s", error)


def _log_what_nobody_awaits(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The exception handler of the SDK's own event loop, which all its clients share.

    Requests that a run has given up still fail, each in a task that nobody awaits any more. asyncio
    would print the traceback of every one; the error that counts was raised where it was awaited.
    """
    if "exception" in context and ("future" in context or "task" in context):
        logger.debug("a request that was given up", exc_info=context["exception"])
    else:
        loop.default_exception_handler(context)


async def await_client(submit: Callable[[], Any]) -> Any:
    """The client that `submit()` promises; the blocking part of submitting runs in a thread."""
    return await (await asyncio.to_thread(submit))


def _model_refused(config: Config, error: Exception) -> Exception:
    """A refusal that the user can mend becomes `BadInput`, anything else stays what it is."""
    if is_refused(error):
        return BadInput(
            f"the service refuses to train '{config.model_name}' with lora.rank="
            f"{config.lora_rank}: {words_of(error)}"
        )
    return error


def optimizer_parameters(config: Config, learning_rate: float) -> Any:
    """What `optim_step` takes: the SDK's parameters of the run's optimizer."""
    import tinker

    if config.optimizer == "dimuon":
        return tinker.types.DimuonParams(
            learning_rate=learning_rate,
            beta1=config.adam_beta1,
            grad_clip_norm=config.grad_clip_norm,
        )
    return tinker.AdamParams(
        learning_rate=learning_rate,
        beta1=config.adam_beta1,
        beta2=config.adam_beta2,
        eps=config.adam_eps,
        weight_decay=config.weight_decay,
        grad_clip_norm=config.grad_clip_norm,
    )
