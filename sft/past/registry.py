"""MLflow's registry: which checkpoint `models:/NAME@ALIAS` and `models:/NAME/VERSION` name."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sft.errors import BadInput, nearest
from sft.secrets import mask_urls

if TYPE_CHECKING:
    from mlflow import MlflowClient

PREFIX = "models:/"
WORDS = "models:/NAME@ALIAS, models:/NAME/VERSION or models:/NAME/latest"
WORD = re.compile(r"models:/+(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+|latest))?")
MODEL_ID = re.compile(r"m-[0-9a-f]{32}")
VERSIONS = "mlflow.modelVersions"
STATE = re.compile(r"tinker://[^/\s]+/weights/[^/\s]+")


@dataclass(frozen=True)
class Named:
    """What a word of the registry names."""

    word: str
    run_id: str
    state_path: str
    """`tinker://RUN/weights/NAME` of the checkpoint."""


def is_registered(word: str) -> bool:
    """Whether `word` is meant for the registry."""
    return word.startswith(PREFIX)


def look_up(client: MlflowClient, word: str) -> Named:
    """The run and the checkpoint that `word` names. Raises `BadInput`."""
    parsed = WORD.fullmatch(word)
    if parsed is None:
        raise BadInput(f"{word}: is no name of a registered model; expected {WORDS}")
    with asked(client, word):
        if MODEL_ID.fullmatch(parsed["name"]) and not (parsed["alias"] or parsed["version"]):
            return _of_model(client, word, parsed["name"])
        version = _version(client, word, **parsed.groupdict())
        state, source = version.tags.get("sft.state_path"), str(version.source or "")
        if state is None and source.startswith(f"{PREFIX}m-"):  # registered in MLflow's own way
            return _of_model(client, word, source.removeprefix(PREFIX))
        return _named(word, version.run_id, state)


@contextmanager
def asked(client: MlflowClient, word: str) -> Iterator[None]:
    """Say in a sentence that the registry does not answer, or that there is none."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise BadInput(
            f"{word}: the model registry of {mask_urls(client.tracking_uri)} cannot be asked, or "
            f"it has none ({str(error.message).splitlines()[0]})"
        ) from error


def _version(
    client: MlflowClient, word: str, name: str, alias: str | None, version: str | None
) -> Any:
    """The model version. Raises `BadInput` with what there is instead."""
    model = registered(client, name)
    if model is None:
        names = [one.name for one in client.search_registered_models(max_results=1_000)]
        raise BadInput(f"{word}: there is no registered model '{name}'{nearest(name, names)}")
    if alias is not None:
        if alias not in model.aliases:
            known = ", ".join(sorted(model.aliases)) or "none"
            raise BadInput(
                f"{word}: '{name}' has no alias '{alias}', but {known}"
                f"{nearest(alias, list(model.aliases))}"
            )
        version = str(model.aliases[alias])
    versions = {str(one.version): one for one in versions_of(client, name)}
    if version == "latest" and versions:
        version = max(versions, key=int)
    if version not in versions:
        known = ", ".join(sorted(versions, key=int)) or "none"
        aliases = "".join(f", @{one}" for one in sorted(model.aliases))
        what = f"no version {version}" if version else "several versions"
        raise BadInput(f"{word}: '{name}' has {what}; name one as {WORDS}: {known}{aliases}")
    return versions[version]


def registered(client: MlflowClient, name: str) -> Any:
    """The registered model called `name`; None if there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def versions_of(client: MlflowClient, name: str) -> list[Any]:
    """All versions of the registered model `name`."""
    quote = '"' if "'" in name else "'"
    found: list[Any] = []
    token: str | None = ""
    while token is not None:
        page = client.search_model_versions(
            f"name={quote}{name}{quote}", max_results=1_000, page_token=token or None
        )
        found += page
        token = page.token or None
    return found


def add_version(
    client: MlflowClient,
    name: str,
    model_id: str,
    run_id: str,
    tags: Mapping[str, str],
    description: str,
) -> str:
    """Make the logged model `model_id` a version of `name`; the version's number."""
    with _tracking(client.tracking_uri):
        made = client.create_model_version(
            name,
            source=PREFIX + model_id,
            run_id=run_id,
            model_id=model_id,
            tags=dict(tags),
            description=description,
        )
    # By this tag MLflow's page of a logged model shows its versions; only a server sets it.
    of_model = client.get_logged_model(model_id).tags.get(VERSIONS)
    known = json.loads(of_model) if of_model else []
    new = {"name": name, "version": str(made.version)}
    if new not in [{**one, "version": str(one.get("version"))} for one in known]:
        client.set_logged_model_tags(model_id, {VERSIONS: json.dumps([*known, new])})
    return str(made.version)


@contextmanager
def _tracking(uri: str) -> Iterator[None]:
    """Have MLflow take `uri` for its tracking store meanwhile: a registry in a database looks up a
    version's logged model there, whatever the client's own store is."""
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


def _of_model(client: MlflowClient, word: str, model_id: str) -> Named:
    from mlflow.exceptions import MlflowException

    try:
        model = client.get_logged_model(model_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise BadInput(
            f"{word}: MLflow has no logged model {model_id} any more; its checkpoint was deleted "
            "or replaced (see checkpoint.keep)"
        ) from None
    return _named(word, model.source_run_id, model.tags.get("sft.state_path"))


def _named(word: str, run_id: str | None, state_path: str | None) -> Named:
    if run_id and state_path and STATE.fullmatch(state_path):
        return Named(word, run_id, state_path)
    raise BadInput(f"{word}: was not made from a checkpoint of a run (see sft.promote)")
