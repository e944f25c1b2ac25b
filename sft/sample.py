"""`python -m sft.sample RUN "a prompt"`: talk to what was trained."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import sys
from contextlib import AsyncExitStack
from importlib import import_module
from typing import TYPE_CHECKING

from sft.command.main import command, new_parser
from sft.command.service import service_of
from sft.config.saved import common_config, dataset_builder, from_saved
from sft.config.schema import Settings
from sft.config.shadows import check_working_folder
from sft.data.import_path import NOT_IMPORTABLE
from sft.display.stages import shown
from sft.errors import BadInput
from sft.evaluators import answer_text
from sft.past.choosing import CHECKPOINT, choose, home
from sft.past.find import WORDS, find
from sft.past.trust import TRUST, saved_config
from sft.run.client import Connection, Service, await_client
from sft.run.failures import ServiceLost, words_of
from sft.stages.stages import preparing
from sft.stages.threads import entered, in_thread
from sft.types import ChatDatasetBuilder

if TYPE_CHECKING:
    import tinker


@command("sft.sample")
def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = new_parser("sft.sample", __doc__)
    parser.add_argument("run", metavar="RUN", help=WORDS)
    parser.add_argument("prompt", help="what to say to the model; - reads standard input")
    parser.add_argument("--checkpoint", metavar="NAME", help=CHECKPOINT)
    parser.add_argument("--base", action="store_true", help="ask the model as it was before")
    parser.add_argument("--max-tokens", type=int, default=256, help="longest answer (%(default)s)")
    parser.add_argument(
        "--temperature", type=float, default=0.0, help="0: the likeliest token (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sampling (%(default)s)")
    parser.add_argument("--uri", help="MLflow store that run ids are looked up in")
    parser.add_argument("--trust", action="store_true", help=TRUST)
    arguments = parser.parse_args(argv)
    prompt = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    check_working_folder()
    logging.getLogger("tinker").addHandler(logging.NullHandler())  # the sentence below says it
    check_sampling(arguments)
    with shown("finding the run", lines=False):
        answer = _of_run(arguments, prompt)
    print(answer)
    return 0


def _of_run(arguments: argparse.Namespace, prompt: str) -> str:
    """The answer of the run and the checkpoint that the arguments name."""
    found = find(arguments.run, arguments.uri)
    settings = from_saved(saved_config(found, arguments.trust), found.source)
    path = None
    if not arguments.base:
        path = choose(found, arguments.checkpoint).sampler_path
    with contextlib.chdir(home(found, settings)):
        return sample(
            settings,
            path,
            prompt,
            max_tokens=arguments.max_tokens,
            temperature=arguments.temperature,
            seed=arguments.seed,
        )


def check_sampling(arguments: argparse.Namespace) -> None:
    """Raise `BadInput` on a number that no service can sample with."""
    for option, least in (("max_tokens", 1), ("temperature", 0), ("seed", 0)):
        value = getattr(arguments, option)
        if not least <= value < float("inf"):
            raise BadInput(f"--{option.replace('_', '-')}: {value} is not a number from {least} on")


def sample(
    settings: Settings,
    sampler_path: str | None,
    prompt: str,
    *,
    max_tokens: int,
    temperature: float,
    seed: int,
) -> str:
    """The answer to one user message by the weights at `sampler_path`; None: the base model.

    Raises `BadInput` if the service or the checkpoint is not to be had.
    """
    builder = chat_builder(settings)
    start = service_of(settings)

    def rendered() -> tuple[list[int], list[int] | list[str]]:
        question = [{"role": "user", "content": prompt}]
        return builder.renderer.generation_prompt(question), builder.renderer.stop_sequences()

    async def asked() -> str:
        async with AsyncExitStack() as stack:
            starting = entered(start(), stack) if start else None
            tokens, stop = await in_thread(rendered)  # meanwhile
            tinker = await asyncio.to_thread(import_module, "tinker")
            sampling = tinker.SamplingParams(
                stop=stop, max_tokens=max_tokens, temperature=temperature, seed=seed
            )
            base_url = settings.service.base_url if starting is None else await starting
            preparing("waiting for the answer")
            answer = await _answer(base_url, settings.model.name, sampler_path, tokens, sampling)
        return answer_text(answer, builder.tokenizer, stop)

    return asyncio.run(asked())


def chat_builder(settings: Settings) -> ChatDatasetBuilder:
    """What has the tokenizer and the renderer of a run. Raises `BadInput`."""
    if not str(getattr(settings.dataset, "builder", "")).startswith(NOT_IMPORTABLE):
        builder = dataset_builder(settings)
        if isinstance(builder, ChatDatasetBuilder):
            return builder
    # One of the user's own, without a renderer or in a script that has ended.
    return ChatDatasetBuilder(common_config=common_config(settings))


async def _answer(
    base_url: str | None,
    model: str,
    sampler_path: str | None,
    tokens: list[int],
    sampling: tinker.SamplingParams,
) -> list[int]:
    import tinker

    try:
        async with Connection.to(await Service.reach(base_url)) as connection:
            client = await await_client(
                lambda: connection.service.create_sampling_client(
                    model_path=sampler_path, base_model=None if sampler_path else model
                )
            )
            response = await client.sample(
                prompt=tinker.ModelInput.from_ints(tokens),
                num_samples=1,
                sampling_params=sampling,
            )
    except (tinker.TinkerError, ServiceLost, ValueError, AssertionError) as error:
        # The SDK raises the last two of a server whose answers it does not understand.
        raise BadInput(
            f"the service cannot sample from {sampler_path or model}: {words_of(error)}"
        ) from error
    return list(response.sequences[0].tokens)


if __name__ == "__main__":
    sys.exit(main())
