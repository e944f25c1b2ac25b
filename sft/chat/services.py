"""The speakers of a chat, on services that are each started once.

Runs of one project share its local service, also with different base models.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.chat.speaker import Speaker
from sft.command.service import local_service, service_of
from sft.config.saved import from_saved
from sft.config.schema import Settings
from sft.errors import BadInput
from sft.past.choosing import choose, home
from sft.past.find import find
from sft.past.trust import saved_config
from sft.run.client import Connection, Service, await_client
from sft.run.failures import ServiceLost, words_of
from sft.sample import chat_builder


@dataclass(frozen=True)
class Wanted:
    """A run to talk to, and the weights that answer."""

    name: str
    settings: Settings
    home: Path
    """The working folder that the run's relative paths are meant from."""
    sampler_path: str | None
    """None: the base model."""

    @property
    def root(self) -> Path | None:
        """Where its local service lies; None of another service."""
        settings = self.settings.service
        return (self.home / settings.root).resolve() if settings.kind == "local" else None


def wanted(
    word: str, checkpoint: str | None, uri: str | None, *, trust: bool, base: bool = False
) -> Wanted:
    """The run that `word` names, or its base model. Raises `BadInput`."""
    found = find(word, uri)
    settings = from_saved(saved_config(found, trust), found.source)
    path = None if base else choose(found, checkpoint).sampler_path
    name = "base" if base else found.directory.name if found.directory else word
    return Wanted(name, settings, home(found, settings), path)


@contextmanager
def speakers(
    all_wanted: list[Wanted], runner: asyncio.Runner, **options: Any
) -> Iterator[list[Speaker]]:
    """A `Speaker` (made with `options`) for each of `all_wanted`, for as long as it is needed.

    Raises `BadInput` if a service or a checkpoint is not to be had.
    """
    with ExitStack() as stack:
        addresses = _addresses(all_wanted, stack)
        found = []
        for one, address in zip(all_wanted, addresses, strict=True):
            client = _client(one, address, runner, stack)
            with contextlib.chdir(one.home):
                builder = chat_builder(one.settings)
                tokenizer, renderer = builder.tokenizer, builder.renderer
            found.append(Speaker(one.name, client, tokenizer, renderer, **options))
        yield found


def _addresses(all_wanted: list[Wanted], stack: ExitStack) -> list[str | None]:
    """The address of the service of each; None: hosted Tinker."""
    local: dict[Path, str] = {}
    addresses: list[str | None] = []
    for one in all_wanted:
        if one.root is None:
            start = service_of(one.settings)
            addresses.append(stack.enter_context(start()) if start else None)
            continue
        if one.root not in local:
            together = [other.settings for other in all_wanted if other.root == one.root]
            with contextlib.chdir(one.home):
                local[one.root] = stack.enter_context(local_service(*together))
        addresses.append(local[one.root])
    return addresses


def _client(one: Wanted, address: str | None, runner: asyncio.Runner, stack: ExitStack) -> Any:
    import tinker

    weights = one.sampler_path or one.settings.model.name
    try:
        connection = runner.run(_connect(address))
        stack.callback(lambda: runner.run(connection.close("success")))
        submit = connection.service.create_sampling_client
        base = None if one.sampler_path else one.settings.model.name
        return runner.run(
            await_client(lambda: submit(model_path=one.sampler_path, base_model=base))
        )
    except (tinker.TinkerError, ServiceLost, ValueError, AssertionError) as error:
        raise BadInput(f"the service cannot sample from {weights}: {words_of(error)}") from error


async def _connect(address: str | None) -> Connection:
    return await Connection.open(await Service.reach(address))
