"""`python -m sft.export RUN DIR`: a checkpoint as a folder that PEFT, transformers and vLLM load.

    python -m sft.export RUN adapter                       # the last checkpoint, a PEFT adapter
    python -m sft.export RUN adapter --checkpoint best
    python -m sft.export models:/qwen-faq@champion adapter
    python -m sft.export RUN model --merge                 # merged into the base model

A merged model ends its answers where they were trained to end (`generation_config.json`).

The local service's checkpoints are copied from its folder, a hosted one is downloaded through the
SDK, which starts a short training session for it. Of a server that exports nothing, the archive of
the training run is taken.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from sft.command.main import command, new_parser
from sft.command.service import service_of
from sft.config.saved import common_config, from_saved
from sft.config.shadows import check_working_folder
from sft.errors import BadInput
from sft.models.merge import merge_into_base
from sft.models.names import model_folder
from sft.past.choosing import CHECKPOINT, choose, home
from sft.past.find import WORDS, find
from sft.past.trust import TRUST, saved_config
from sft.run.client import Connection, Service, await_client
from sft.run.failures import ServiceLost, words_of
from sft.service import downloads
from sft.service.habits import server
from sft.types import ChatDatasetBuilder

if TYPE_CHECKING:
    from sft.config.schema import Settings
    from sft.record.checkpoints import CheckpointRecord

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
EXPORT_SECONDS = 3600
"""Life of the temporary export on the hosted service; the shortest that it takes."""


@command("sft.export")
def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = new_parser("sft.export", __doc__)
    parser.add_argument("run", metavar="RUN", help=WORDS)
    parser.add_argument("folder", metavar="DIR", type=Path, help="a new or an empty folder")
    parser.add_argument("--checkpoint", metavar="NAME", help=CHECKPOINT)
    parser.add_argument("--merge", action="store_true", help="merge into the base model")
    parser.add_argument("--uri", help="MLflow store that run ids are looked up in")
    parser.add_argument("--trust", action="store_true", help=TRUST)
    options = parser.parse_args(argv)
    check_working_folder()
    print(
        export(
            options.run,
            options.folder,
            options.checkpoint,
            options.merge,
            options.uri,
            trust=options.trust,
        )
    )
    return 0


def export(
    word: str,
    target: Path,
    checkpoint: str | None = None,
    merge: bool = False,
    uri: str | None = None,
    *,
    trust: bool = False,
) -> str:
    """Bring a checkpoint of the run `word` to the folder `target`; a sentence on what is there.

    The folder appears whole or not at all. Raises `BadInput`.
    """
    found = find(word, uri)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BadInput(f"{target}: is there already; name a new folder")
    settings = from_saved(saved_config(found, trust), found.source)
    record = choose(found, checkpoint)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{target.parent}: cannot be made: {error.strerror}") from error
    with tempfile.TemporaryDirectory(prefix=".export-", dir=target.parent) as scratch:
        adapter = Path(scratch) / "adapter"
        adapter.mkdir()
        if settings.service.kind == "local":
            _copy(_local_folder(settings, home(found, settings), record), adapter)
        else:
            _download(settings, record, adapter)
        tensors = check_adapter(adapter, settings.lora.rank)
        base = _base(settings)
        _name_base(adapter, base)
        result = adapter
        if merge:
            result = Path(scratch) / "merged"
            merge_into_base(base, adapter, result)
            _stop_as_trained(result, settings)
        if target.exists():
            target.rmdir()
        shutil.move(result, target)
    kind = "a model with the adapter merged in" if merge else f"a PEFT adapter for {base}"
    return f"{target}: checkpoint {record.name} as {kind}, {tensors} tensors of the adapter checked"


def check_adapter(folder: Path, rank: int | None = None) -> int:
    """Check that the PEFT adapter in `folder` is whole and finite; the number of its tensors.

    Raises `BadInput` if a file is missing or torn, a matrix has no partner or another rank, or
    a value is not finite.
    """
    import numpy
    from safetensors import SafetensorError, safe_open

    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        with safe_open(folder / WEIGHTS, "np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        raise BadInput(f"the checkpoint is not whole: {error}") from None
    if rank is not None and config.get("r") != rank:
        raise BadInput(f"the checkpoint has rank {config.get('r')}, the run has {rank}")
    for name, tensor in tensors.items():
        here, there = (".lora_A.", ".lora_B.") if ".lora_A." in name else (".lora_B.", ".lora_A.")
        partner = name.replace(here, there)
        if partner == name or partner not in tensors:
            raise BadInput(f"the checkpoint's {name} is no half of a LoRA pair")
        if tensor.shape[0 if here == ".lora_A." else 1] != config["r"]:
            raise BadInput(f"the checkpoint's {name} has shape {tensor.shape}, rank {config['r']}")
        if not numpy.isfinite(tensor).all():
            raise BadInput(f"the checkpoint's {name} has values that are not finite")
    if not tensors:
        raise BadInput("the checkpoint holds no weights")
    return len(tensors)


def _base(settings: Settings) -> str:
    """The base model: the folder on this machine, or its name on the Hub."""
    return model_folder(settings.model.name) or settings.model.name


def _name_base(adapter: Path, base: str) -> None:
    file = adapter / CONFIG
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(config | {"base_model_name_or_path": base}, indent=2) + "\n")


def _stop_as_trained(folder: Path, settings: Settings) -> None:
    """Have the model in `folder` end its answers where they were trained to end."""
    stops = ChatDatasetBuilder(common_config=common_config(settings)).renderer.stop_sequences()
    file = folder / "generation_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    kind = "eos_token_id" if all(isinstance(stop, int) for stop in stops) else "stop_strings"
    file.write_text(json.dumps(config | {kind: stops}, indent=2) + "\n", encoding="utf-8")


def _local_folder(settings: Settings, home: Path, record: CheckpointRecord) -> Path:
    """The checkpoint's folder under `service.root`, in the working folder `home` of the run."""
    part = record.sampler_path.removeprefix("tinker://")
    folder = home / settings.service.root / part
    if (folder / CONFIG).is_file():
        return folder
    raise BadInput(
        f"{settings.service.root}: the local service's folder has no {part}; it may have expired, "
        "or the run was made in another folder: start this command there"
    )


def _copy(folder: Path, target: Path) -> None:
    for name in (CONFIG, WEIGHTS):
        try:
            shutil.copy(folder / name, target / name)
        except OSError as error:
            raise BadInput(f"{folder / name}: cannot be read: {error.strerror}") from None


def _download(settings: Settings, record: CheckpointRecord, target: Path) -> None:
    """Download the checkpoint `record`: by an export, or else the training run's archive."""
    start = service_of(settings)
    with start() if start else nullcontext() as base_url:
        try:
            asyncio.run(_download_export(base_url, record.state_path, target))
        except BadInput as error:
            if (running := server.at(base_url)) is None:
                raise
            try:
                downloads.adapter(running, record.sampler_path, target)
            except downloads.NotHandedOut as further:
                raise BadInput(f"{error}; {further}") from further


async def _download_export(base_url: str | None, state_path: str, target: Path) -> None:
    """Download the weights at `state_path` through a temporary export, as the SDK's CLI does."""
    import tinker

    try:
        async with Connection.to(await Service.reach(base_url)) as connection:
            submit = connection.service.create_training_client_from_state
            client = await await_client(lambda: submit(state_path))
            saved = await client.save_weights_external("download", ttl_seconds=EXPORT_SECONDS)
            try:
                answer = await connection.api.rest.get_external_weights_urls(saved.path)
                await asyncio.to_thread(fetch, answer.urls, target)
            finally:
                await _forget(connection.api, saved.path)
    except (tinker.TinkerError, ServiceLost, ValueError) as error:
        raise BadInput(f"the service does not hand out {state_path}: {words_of(error)}") from error


async def _forget(api: Service, path: str) -> None:
    """Delete the temporary export, which would also expire; no reason to lose what is here."""
    try:
        await api.delete(path)
    except Exception as error:
        print(f"sft.export: {path} stays on the service: {error}", file=sys.stderr)


def fetch(urls: dict[str, str], target: Path) -> None:
    """Download each URL to its name under `target`. Raises `BadInput`.

    A name that leads out of `target` is refused: it comes from the service.
    """
    from urllib.error import URLError
    from urllib.request import urlopen

    root = target.resolve()
    for name, url in urls.items():
        file = (root / name).resolve()
        if not file.is_relative_to(root):
            raise BadInput(f"the service names a file outside the folder: {name}")
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with urlopen(url, timeout=60) as reply, file.open("wb") as out:
                shutil.copyfileobj(reply, out)
        except (URLError, OSError) as error:
            raise BadInput(f"{name}: the download failed: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
