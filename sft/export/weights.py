"""The adapter of a checkpoint, brought to a folder and checked.

The local service's checkpoints are copied from its folder, a hosted one is downloaded through the
SDK, which starts a short training session for it. Of a server that exports nothing, the archive of
the training run is taken.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from sft.command.service import service_of
from sft.errors import BadInput
from sft.run.client import Connection, Service, await_client
from sft.run.failures import ServiceLost, words_of
from sft.service import downloads
from sft.service.habits import server

if TYPE_CHECKING:
    from sft.config.schema import Settings
    from sft.record.checkpoints import CheckpointRecord

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
OUTPUT = (".model.unembed_tokens.", ".lm_head.")
"""The output matrix as hosted Tinker names it, and as PEFT does."""
EXPORT_SECONDS = 3600
"""Life of the temporary export on the hosted service; the shortest that it takes."""


def bring(settings: Settings, home: Path, record: CheckpointRecord, target: Path) -> int:
    """Write the adapter of `record` to the folder `target`; the number of its tensors.

    `home` is the working folder of the run. Raises `BadInput`.
    """
    if settings.service.kind == "local":
        _copy(_local_folder(settings, home, record), target)
    else:
        _download(settings, record, target)
    tensors = check_adapter(target, settings.lora.rank)
    name_as_peft(target)
    return tensors


def check_adapter(folder: Path, rank: int | None = None) -> int:
    """Check that the PEFT adapter in `folder` is whole and finite; the number of its tensors.

    Raises `BadInput` if a file is missing or torn, a matrix has no partner or another rank, or
    a value is not finite.
    """
    from safetensors import SafetensorError, safe_open

    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        with safe_open(folder / WEIGHTS, "pt") as file:
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
            raise BadInput(
                f"the checkpoint's {name} has shape {tuple(tensor.shape)}, rank {config['r']}"
            )
        if not tensor.isfinite().all():
            raise BadInput(f"the checkpoint's {name} has values that are not finite")
    if not tensors:
        raise BadInput("the checkpoint holds no weights")
    return len(tensors)


def name_as_peft(folder: Path) -> None:
    """Let the adapter in `folder` say by PEFT's names which modules it adapts.

    Hosted Tinker calls the output matrix `model.unembed_tokens`, which PEFT does not find, and may
    name its modules `all-linear`, which leaves that matrix out.
    """
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / WEIGHTS)
    named = {name.replace(*OUTPUT): tensor for name, tensor in tensors.items()}
    if named.keys() != tensors.keys():
        save_file(named, folder / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config["target_modules"] = sorted({name.split(".lora_")[0].split(".")[-1] for name in named})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def trains_lm_head(folder: Path) -> bool:
    """Whether the PEFT adapter in `folder`, named as PEFT does, adapts the output matrix."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return "lm_head" in config["target_modules"]


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
            shutil.copyfile(folder / name, target / name)
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
