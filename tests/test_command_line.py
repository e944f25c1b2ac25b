"""What a user types: every mistake ends in one sentence, exit code 2 and nothing left behind."""

import subprocess
import sys

import pytest

from sft.__main__ import COMMANDS, main
from sft.config.compose import compose, groups
from sft.config.help import help_text
from sft.errors import BadInput


def run(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "sft", *arguments], cwd=cwd, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["lora.rnak=8"], ["lora.rnak", "did you mean 'lora.rank'?"]),
        (["learning_rate=1e-4"], ["learning_rate", "no such key", "did you mean 'lr'?"]),
        (["rank=8"], ["rank", "did you mean 'lora.rank'?"]),
        (["lora.lora_rank=8"], ["lora.lora_rank", "did you mean 'lora.rank'?"]),
        (["warmup_steps=8"], ["warmup_steps", "did you mean 'schedule.warmup_steps'?"]),
        (["num_epochs=8"], ["num_epochs", "did you mean 'epochs'?"]),
        (["+lora.rnak=8"], ["lora.rnak", "did you mean 'lora.rank'?"]),
        (["++lr_=8"], ["lr_", "did you mean 'lr'?"]),
        (["lora.rank=abc"], ["lora.rank", "'abc'", "whole number"]),
        (["lora.rank=0"], ["lora.rank", "1 or more"]),
        (["lora.rank=100000"], ["lora.rank: 100000", "use 1024 or less"]),
        (["lr_rate=3"], ["lr_rate", "did you mean 'lr'?"]),
        (["lora.rank=2.5"], ["lora.rank", "2.5", "whole number"]),
        (["lr=-1"], ["lr", "above 0"]),
        (["lr=fast"], ["lr", "'fast'", "a number"]),
        (["lr=Auto"], ["lr: 'Auto'", "did you mean 'auto'?"]),
        (["lr=automatic"], ["lr: 'automatic'", "did you mean 'auto'?"]),
        (["max_steps=0"], ["max_steps", "1 or more", "null"]),
        (["seed=true"], ["seed", "True", "whole number"]),
        (["model=qwen33"], ["model", "did you mean 'qwen3'?"]),
        (["lora=8"], ["lora", "lora.KEY=VALUE"]),
        (["dataset=jsonn"], ["dataset", "did you mean 'jsonl'?"]),
        (["dataset=faq", "dataset.path=x.jsonl"], ["dataset.path", "no such key"]),
        (
            ["dataset=hf_stream", "dataset.path=x", "dataset.on_bad_line=skip"],
            ["on_bad_line: there is no such key with dataset=hf_stream; jsonl, file have it"],
        ),
        (
            ["dataset.path=x", "dataset.eval_sets=[a]"],
            ["dataset.eval_sets: is a list; expected each by name: dataset.eval_sets.NAME…"],
        ),
        (["schedule.kind=sawtooth"], ["schedule.kind", "linear, cosine, constant"]),
        (["train_on_what=answers"], ["train_on_what", "all_assistant_messages"]),
        (["service=custom"], ["service.base_url", "missing"]),
        (["service.base_url=http://x"], ["service.base_url", "service=custom"]),
        (["lr"], ["'lr'", "key=value"]),
        (["max_steps=5", "schedule.warmup_steps=9"], ["schedule.warmup_steps", "max_steps=5"]),
        (["evaluators.references=[a]"], ["evaluators.references", "1 references for 0 prompts"]),
        (["model=folder"], ["model.name", "missing"]),
        (["evaluators.prompts=[1.50]"], ["evaluators.prompts[0]", "1.5", "in quotes"]),
    ],
)
def test_bad_input_is_one_sentence_that_names_the_key(overrides, words):
    with pytest.raises(BadInput) as error:
        compose(overrides)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_bad_command_ends_with_exit_code_2_one_line_and_no_files(tmp_path):
    done = run("lora.rnak=8", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1 and "lora.rank" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_module_of_the_python_api_says_how_to_train_from_a_terminal(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "sft.train"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == ""
    assert "python -m sft" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["model=qwen3"],
        ["--multirun", "sweep=lr_rank", "model=qwen3", "hydra.sweeper.n_trials=3"],
        ["--multirun", "model=qwen3,qwen3_8", "service=tinker"],
        ["--multirun", "service=local,tinker", "max_steps=1"],
    ],
)
def test_a_missing_key_is_said_before_the_hub_is_asked_for_a_tokenizer(tmp_path, words):
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "TINKER_API_KEY" in done.stderr and "tokenizer" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_without_its_data_starts_no_service_and_leaves_no_folder(tmp_path):
    done = run("--multirun", "lr=1e-4,1e-3", "dataset=jsonl", "dataset.path=none", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "sft: dataset.path: there is no file none\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "override",
    [
        "model.chat_template_kwargs={enable_thinking:false}",
        "model.chat_template_kwargs={enable_thinking: false}",
        "model.chat_template_kwargs.enable_thinking=false",
        "+model.chat_template_kwargs.enable_thinking=false",
    ],
)
def test_a_mapping_of_the_users_own_is_set_as_a_whole_or_by_its_keys(override):
    assert compose([override]).model.chat_template_kwargs == {"enable_thinking": False}


def test_a_number_among_texts_is_text():
    settings = compose(["evaluators.prompts=[x]", "evaluators.references=[42]"])
    assert settings.evaluators.references == ["42"]


def test_a_misspelt_key_of_the_sweeper_names_the_nearest(tmp_path):
    done = run("--multirun", "sweep=lr_rank", "hydra.sweeper.n_trails=3", cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean 'n_trials'?" in done.stderr and done.stderr.count("\n") == 1


def test_a_key_of_the_sweeper_that_cannot_be_null_says_what_it_takes(tmp_path):
    done = run("--multirun", "sweep=lr_rank", "hydra.sweeper.scheduler=null", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "hydra.sweeper.scheduler: cannot be null (default: none); it takes: " in done.stderr
    assert "freeze_thaw, asha" in done.stderr


def test_options_of_hydra_that_exclude_each_other_are_bad_input(tmp_path):
    done = run("--multirun", "--cfg", "job", cwd=tmp_path)
    assert done.returncode == 2 and "--multirun and --cfg" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_run_directory_that_cannot_be_made_is_bad_input(tmp_path):
    (tmp_path / "file").write_text("")
    words = "dataset=faq", "max_steps=1", "tracking=none", "evaluators=none"
    done = run(*words, "run_dir=file/run", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and "run_dir: file/run cannot be made" in done.stderr


@pytest.mark.parametrize("word", ["sweep=lr_rank", "hydra.sweeper.n_trials=3"])
def test_a_sweep_without_multirun_is_bad_input(tmp_path, word):
    done = run(word, cwd=tmp_path)
    assert done.returncode == 2
    assert "--multirun" in done.stderr


def test_help_names_every_group_and_three_commands():
    text = help_text(COMMANDS)
    for group, options in groups().items():
        assert group in text and all(option in text for option in options)
    assert text.count("python -m sft ") >= 2 and "lora.rank=32" in text


def test_cfg_job_prints_the_config_and_runs_nothing(tmp_path):
    done = run("--cfg", "job", "lr=3e-4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "lr: 0.0003" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_options_may_stand_between_keys(tmp_path):
    done = run("lr=3e-4", "--cfg", "job", "lora.rank=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "lr: 0.0003" in done.stdout and "rank: 2" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_a_commands_help_fits_80_columns(name, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([name, "--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize("columns", [80, 100])
def test_the_help_fits_the_terminal(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    widths = [len(line) for line in help_text(COMMANDS).splitlines()]
    assert columns - 10 < max(widths) <= columns


def test_a_models_yaml_names_its_service_and_the_command_line_still_wins():
    assert compose(["model=qwen3"]).service.kind == "tinker"
    assert compose(["model=qwen3", "service=local"]).service.kind == "local"
    assert compose([]).service.kind == "local"


@pytest.mark.parametrize(
    "choice", [f"{group}={option}" for group, options in groups().items() for option in options
               if group not in ("sweep",) and not group.startswith("hydra")]
)  # fmt: skip
def test_every_shipped_yaml_composes(choice):
    needs = {
        "service=custom": ["service.base_url=http://127.0.0.1:1"],
        "model=folder": ["model.name=somewhere"],
        "model=auto": ["model.name=somewhere"],
        "dataset=jsonl": ["dataset.path=chats.jsonl"],
        "dataset=file": ["dataset.path=chats.jsonl"],
        "dataset=custom": ["dataset.builder=my_data:MyBuilder"],
        "dataset=hf_chat": ["dataset.path=data"],
        "dataset=hf_stream": ["dataset.path=data"],
        "dataset=mix": ["dataset.parts.faq.kind=faq"],
    }
    settings = compose([choice, *needs.get(choice, [])])
    group, option = choice.split("=")
    if group in ("dataset", "optimizer", "schedule", "service"):
        assert getattr(settings, group).kind == option


@pytest.mark.parametrize(
    ("overrides", "kind"),
    [
        (["dataset.path=chats.csv"], "file"),
        (["lr=1e-4", "dataset.path=data/*.jsonl.gz", "dataset.on_bad_line=skip"], "file"),
        (["dataset.path=chats.csv", "dataset=jsonl"], "jsonl"),
        (["dataset=hf_chat", "dataset.path=chats.csv"], "hf_chat"),
        (["dataset.parts.math.path=chats.csv"], "mix"),
        (["dataset.parts={math: {path: chats.csv}}"], "mix"),
        (["dataset.parts.my-math.path=a=b.csv"], "mix"),
        ([], "faq"),
    ],
)
def test_a_path_alone_is_a_file_of_chats(overrides, kind):
    assert compose(overrides).dataset.kind == kind


def test_the_root_config_says_what_the_schema_says():
    from dataclasses import replace

    from sft.config.schema import Settings

    composed = compose([])
    defaults = Settings()
    for name in ("model", "dataset"):
        defaults = replace(defaults, **{name: getattr(composed, name)})
    assert composed == defaults
