"""Every shipped YAML file says what it does: each of its values arrives in the composed config."""

import dataclasses
import os
import subprocess
import sys

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from sft.config.compose import CONF, kinds_of_groups, register
from sft.config.schema import default

FILES = sorted(CONF.glob("*/*.yaml"))
NEEDED = {"dataset.path": "x.jsonl", "dataset.builder": "my:Builder", "model.name": "somewhere"}
NEEDED |= {"service.base_url": "http://127.0.0.1:1"}


def leaves(node, prefix=""):
    for key, value in node.items():
        # A dot in a key is part of it: hydra.sweeper.params has the run's keys for its own.
        if isinstance(value, dict) and value:
            yield from leaves(value, (*prefix, key))
        else:
            yield (*prefix, key), value


def at(config, path):
    node = OmegaConf.to_container(config, resolve=False)
    for key in path:
        node = node[key]
    return node


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}={f.stem}")
def test_every_value_of_a_shipped_file_arrives(file):
    group, text = file.parent.name, file.read_text()
    values = yaml.safe_load(text) or {}
    values.pop("defaults", None)
    package = () if "@package _global_" in text else (group,)
    expected = dict(leaves(values, package))
    needed = [f"{k}={NEEDED[k]}" for k in map(".".join, expected) if k in NEEDED]
    missing = [
        word for word in needed if expected[tuple(word.partition("=")[0].split("."))] == "???"
    ]
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [f"{group}={file.stem}", *missing], return_hydra_config=True)
    arrived = {path: at(config, path) for path, value in expected.items() if value != "???"}
    assert arrived == {
        path: float(value) if isinstance(arrived[path], float) else value
        for path, value in expected.items()
        if value != "???"
    }


def inherited(group, kind):
    """The defaults of a group's keys: those of the schema, or of the kind that a file names."""
    kinds = kinds_of_groups()
    return dataclasses.asdict(kinds[group][kind]() if group in kinds else default(group))


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}={f.stem}")
def test_a_shipped_file_says_only_what_differs_from_what_it_inherits(file):
    group, text = file.parent.name, file.read_text()
    if group in ("sweep", "experiment"):
        return  # of the whole config
    values = yaml.safe_load(text) or {}
    kinds = [kind for line in values.pop("defaults", []) for kind in line if "keys" in kind]
    said = inherited(group, file.stem if kinds else None)
    assert {key: value for key, value in values.items() if said.get(key, "none") == value} == {}


@pytest.mark.parametrize("group", sorted({file.parent.name for file in FILES} - {"sweep"}))
def test_a_file_of_ones_own_in_any_group_may_set_root_keys(tmp_path, group):
    (tmp_path / "mine" / group).mkdir(parents=True)
    values = {"model": "{name: x}", "dataset": "{kind: faq}"}.get(group)
    kept = f"{group}: {values}\n" if values else ""
    (tmp_path / "mine" / group / "own.yaml").write_text(
        f"# @package _global_\nlr: 2e-3\nmax_length: 77\n{kept}"
    )
    config = print_config("--config-dir", "mine", f"{group}=own", cwd=tmp_path)
    assert (float(config["lr"]), config["max_length"]) == (2e-3, 77)


def print_config(*words, cwd):
    done = subprocess.run(
        [sys.executable, "-m", "sft", "--cfg", "job", *words],
        cwd=cwd, capture_output=True, text=True, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def test_an_experiment_wins_over_the_defaults_and_the_command_line_over_it(tmp_path):
    config = print_config("experiment=example", "eval_every=7", cwd=tmp_path)
    assert float(config["lr"]) == 3e-4
    assert config["schedule"] == {"kind": "cosine", "warmup_steps": 5}
    assert config["eval_every"] == 7


def test_an_experiment_of_ones_own_sets_root_keys_and_groups(tmp_path):
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "long.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n  - override /lora: default\n  - override /model: qwen3\n"
        "lr: 1e-3\nbatch_size: 2\nlora:\n  rank: 3\nearly_stopping:\n  patience: 4\n"
    )
    config = print_config("--config-dir", "mine", "experiment=long", cwd=tmp_path)
    assert (float(config["lr"]), config["batch_size"]) == (1e-3, 2)
    assert config["lora"]["rank"] == 3 and config["early_stopping"]["patience"] == 4
    assert config["service"]["kind"] == "tinker" and config["model"]["name"] == "Qwen/Qwen3-8B"
