"""What the documents name exists."""

import re
import sys
from pathlib import Path

import pytest

from sft.config import saved
from sft.config.compose import check_overrides, compose
from sft.init.__main__ import write

ROOT = Path(__file__).resolve().parent.parent


def pages():
    """The README and what it leads to."""
    return "\n".join(p.read_text() for p in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))])


def test_every_test_that_the_api_table_names_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs/python-api.md").read_text())
    assert len(named) > 20
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not (ROOT / file).exists() or f"def {name}(" not in (ROOT / file).read_text()
    ]
    assert missing == []


def test_the_architecture_names_every_folder_and_no_module_that_is_not_there():
    text = (ROOT / "docs/architecture.md").read_text()
    folders = {
        f"`{file.parent.relative_to(ROOT)}/`"
        for top in ("sft", "sweeps")
        for file in (ROOT / top).rglob("__init__.py")
    }
    assert {folder for folder in folders if folder not in text} == set()
    named = set(re.findall(r"`([\w/]+\.py)`", text))
    places = [ROOT, ROOT / "sft", *(ROOT / "sft").iterdir()]
    assert [name for name in named if not any((place / name).exists() for place in places)] == []


def test_the_docs_own_builder_trains_on_the_answers(tiny_model, tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", pages(), flags=re.DOTALL)
    (code,) = [block for block in blocks if "class MyBuilder" in block]
    (tmp_path / "my_data.py").write_text(code)
    (tmp_path / "notes.txt").write_text("One?\tUn.\nTwo?\tDeux.\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.delitem(sys.modules, "my_data", raising=False)
    builder = saved.dataset_builder(
        compose(
            [
                "model=folder",
                f"model.name={tiny_model}",
                "batch_size=2",
                "dataset=custom",
                "dataset.builder=my_data:MyBuilder",
                "dataset.args.path=notes.txt",
            ]
        )
    )
    dataset, held_out = builder()
    assert len(dataset) == 1 and held_out is None
    trained = [
        builder.tokenizer.decode(
            datum.loss_fn_inputs["target_tokens"].to_numpy()[
                datum.loss_fn_inputs["weights"].to_numpy() > 0
            ]
        )
        for datum in dataset.get_batch(0)
    ]
    sys.modules.pop("my_data")
    assert trained == ["Un.<|im_end|>", "Deux.<|im_end|>"]


def test_the_docs_own_evaluator_wants_short_answers(tiny_model, tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", pages(), flags=re.DOTALL)
    (code,) = [block for block in blocks if "class Judge" in block]
    (tmp_path / "my_eval.py").write_text(code)
    (tmp_path / "sums.jsonl").write_text('{"question": "What are 1 and 2?", "answer": "3"}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.delitem(sys.modules, "my_eval", raising=False)
    chosen = "evaluators=custom evaluators.builder=my_eval:Judge evaluators.args.path=sums.jsonl"
    overrides = ["model=folder", f"model.name={tiny_model}", *chosen.split()]
    config = saved.to_train(
        compose([*overrides, "evaluators.args.how=number", "evaluators.args.longest=3"]), "here"
    )
    [build] = config.infrequent_evaluator_builders
    [task] = build().tasks
    sys.modules.pop("my_eval")
    answers = ("It is 3", "It is surely 3", "It is 4")
    assert [task.matches(answer) for answer in answers] == [True, False, False]


def commands(module):
    text = pages()
    return re.findall(rf"^(?:\$ )?python -m {module} ?([^#\n]*)", text, flags=re.MULTILINE)


@pytest.mark.parametrize("line", [line for line in commands("sft") if "--help" not in line])
def test_every_training_command_in_the_docs_has_keys_that_exist(line, tmp_path):
    import shlex

    words = shlex.split(line)
    where = [index + 1 for index, word in enumerate(words) if word == "--where"]
    keys = [word for i, word in enumerate(words) if "=" in word and i not in where]
    own = None
    if "--config-dir" in words:  # that of python -m sft.init
        write(tmp_path)
        own = str(tmp_path / "conf")
    check_overrides([word for word in keys if not word.startswith("-")], own)


def test_every_module_that_the_docs_run_exists():
    text = pages() + (ROOT / "AGENTS.md").read_text()
    modules = set(re.findall(r"python -m (sft[\w.]*)", text)) - {"sft.NAME"}
    files = {m: ROOT / Path(*m.split(".")) for m in modules}
    assert [
        m for m, p in files.items() if not p.with_suffix(".py").exists() and not p.is_dir()
    ] == []
