"""`python -m sft.promote RUN --as NAME@ALIAS`: a checkpoint as a version of a registered model.

    python -m sft.promote RUN --as qwen-faq@champion   # the last checkpoint
    python -m sft.promote RUN --as qwen-faq@champion --checkpoint best
    python -m sft.promote RUN --as qwen-faq            # without an alias

The version goes into the registry of the run's MLflow store, with the checkpoint's paths, its
metrics and the run's config; the alias moves to it. `models:/qwen-faq@champion` is then taken
wherever a run or a checkpoint is, also by `checkpoint.load=`.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from sft.command.main import command, new_parser
from sft.errors import BadInput
from sft.files import dump_yaml
from sft.past.choosing import CHECKPOINT, choose
from sft.past.find import WORDS, Found, find
from sft.past.registry import PREFIX, add_version, asked, registered, versions_of
from sft.secrets import mask_urls
from sft.tracking import values

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from sft.record.checkpoints import CheckpointRecord

MAX_TAG = 100_000
"""Characters of a version's tag."""
ALIAS = re.compile(r"(?![vV]\d+$)(?!latest$)[\w-]+", re.ASCII | re.IGNORECASE)
NAME = re.compile(r"(?!\.\.?$)[^/:@'\"%\s][^/:@'\"%]*")
LONGEST = {"name": 250, "alias": 255}
"""Characters that MLflow takes."""


@command("sft.promote")
def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = new_parser("sft.promote", __doc__)
    parser.add_argument("run", metavar="RUN", help=WORDS)
    parser.add_argument("--checkpoint", metavar="NAME", help=CHECKPOINT)
    parser.add_argument(
        "--as",
        dest="model",
        metavar="NAME@ALIAS",
        required=True,
        help="the registered model, made if it is not there, and the alias of this version",
    )
    parser.add_argument("--uri", help="MLflow store that run ids are looked up in")
    options = parser.parse_args(argv)
    print(promote(options.run, options.model, options.checkpoint, options.uri))
    return 0


def promote(word: str, model: str, checkpoint: str | None = None, uri: str | None = None) -> str:
    """Make a checkpoint of the run `word` a version of `model`, written NAME or NAME@ALIAS; what
    was done, in a sentence. Raises `BadInput`."""
    name, alias = parsed(model)
    found = find(word, uri)
    record = choose(found, checkpoint)
    if found.run_id is None or found.uri is None:
        raise BadInput(f"{word}: is not in MLflow, whose registry this is; see tracking.uri")
    client = found.client()
    with asked(client, f"--as {model}"):
        model_id = _model_id(client, found, record)
        there = registered(client, name)
        if there is None:
            client.create_registered_model(name)
        before = {str(one.version): one.source for one in versions_of(client, name)}
        same = [version for version, source in before.items() if source == PREFIX + model_id]
        if same:
            version = same[-1]
        else:
            text = _description(found, model_id)
            version = add_version(client, name, model_id, found.run_id, _tags(found, record), text)
        moved = ""
        if alias is not None:
            old = there.aliases.get(alias) if there else None
            if old is not None and str(old) != version:
                moved = f" ({alias} was version {old})"
            client.set_registered_model_alias(name, alias, version)
    named = f"{PREFIX}{name}@{alias}" if alias else f"{PREFIX}{name}/{version}"
    was = "is already" if same else "is now"
    metric = found.saved().get("metric", "eval/nll")
    value = (record.evaluation or {}).get(metric)
    measured = "" if value is None else f", {metric} {value:.4f}"
    return (
        f"checkpoint {record.name} (step {record.step}{measured}) {was} version {version} of "
        f"{name}, and {named} names it{moved}"
    )


def parsed(model: str) -> tuple[str, str | None]:
    """The name and the alias that NAME@ALIAS says; None without one. Raises `BadInput`."""
    name, at, alias = model.removeprefix(PREFIX).partition("@")
    if not NAME.fullmatch(name) or re.fullmatch(r"m-[0-9a-f]{32}", name):
        raise BadInput(
            f"--as: '{name}' cannot be the name of a registered model; expected NAME@ALIAS, the "
            "name without any of / : @ % and quotes"
        )
    if at and not ALIAS.fullmatch(alias):
        raise BadInput(
            f"--as: '{alias}' cannot be an alias; expected letters, digits, _ and -, such as "
            f"{name}@champion, and neither latest nor v1, which MLflow keeps for itself"
        )
    for what, given in (("name", name), ("alias", alias)):
        if len(given) > LONGEST[what]:
            raise BadInput(
                f"--as: the {what} has {len(given)} characters; MLflow takes up to {LONGEST[what]}"
            )
    return name, alias if at else None


def _model_id(client: MlflowClient, found: Found, record: CheckpointRecord) -> str:
    """The id of the logged model of `record`. Raises `BadInput` if MLflow has none."""
    experiment = client.get_run(found.run_id).info.experiment_id
    models = client.search_logged_models(
        [experiment],
        filter_string=(
            f"source_run_id = '{found.run_id}' AND tags.`sft.state_path` = '{record.state_path}'"
        ),
        max_results=1,
    )
    if not models:
        raise BadInput(
            f"{found.word}: MLflow does not have checkpoint {record.name} yet; "
            f"`python -m sft.runs {found.directory}` sends what it lacks"
        )
    return str(models[0].model_id)


def _tags(found: Found, record: CheckpointRecord) -> dict[str, str]:
    """What a version says of itself: paths, metrics, and the config that made it."""
    saved = found.saved()
    config = mask_urls(dump_yaml(saved))  # earlier versions' hold secrets
    if len(config) > MAX_TAG:
        config = f"config.yaml of run {found.run_id}: it is too long for a tag"
    tags = {
        "sft.sampler_path": record.sampler_path,
        "sft.state_path": record.state_path,
        "sft.checkpoint": record.name,
        "sft.step": str(record.step),
        "sft.tokens": str(record.tokens),
        "sft.base_model": str((saved.get("model") or {}).get("name")),
        "sft.config": config,
    }
    return tags | {
        key: str(value) for key, value in values.numbers(record.evaluation or {}).items()
    }


def _description(found: Found, model_id: str) -> str:
    """Markdown above the version in the UI."""
    return (
        f"A LoRA adapter; its weights stay with the Tinker service that trained it.\n\n"
        f'    python -m sft.sample {PREFIX}{model_id} "a prompt"\n'
        f"    python -m sft.reproduce {found.run_id}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
