"""What a run does where a package or a folder that it needs is not what it should be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sft import files
from sft.errors import BadInput
from sft.record import rundir
from tests.chat_data import write_chats

PROJECT = Path(__file__).parents[2]


def train(tiny_model, folder, *more, **environment):
    """Two steps in `folder`, with `environment` in place of what names folders of the user's."""
    write_chats(folder / "chats.jsonl", count=8)
    of_folders = ("SFT_CACHE", "XDG_CACHE_HOME", "HF_HOME", "MPLCONFIGDIR")
    variables = {name: value for name, value in os.environ.items() if name not in of_folders}
    return subprocess.run(
        [
            sys.executable, "-m", "sft", "dataset=jsonl", "dataset.path=chats.jsonl",
            "model=folder", f"model.name={tiny_model}", "service.dtype=float32", "batch_size=2",
            "max_length=128", "lora.rank=4", "max_steps=2", "eval_every=0", "evaluators=none",
            "run_dir=run", *more,
        ],
        cwd=folder, capture_output=True, text=True, timeout=240,
        env=variables | {"PYTHONPATH": str(PROJECT)} | environment,
    )  # fmt: skip


def test_a_file_of_the_users_in_the_way_of_mlflow_is_named_before_the_start(tmp_path, tiny_model):
    (tmp_path / "mlflow.py").write_text("raise SystemExit('a script')\n")
    said = train(tiny_model, tmp_path)
    assert said.returncode == 2
    assert str(tmp_path / "mlflow.py") in said.stderr and "rename" in said.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("fault", ["raise SystemExit('no MLflow here')", "no_such_name"])
@pytest.mark.slow
def test_an_mlflow_that_cannot_be_imported_is_told_in_its_own_words(tmp_path, tiny_model, fault):
    broken = tmp_path / "broken" / "mlflow"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text(f"{fault}\n")
    said = train(tiny_model, tmp_path, PYTHONPATH=f"{broken.parent}:{PROJECT}")
    assert said.returncode == 0, said.stderr
    assert rundir.read_facts(tmp_path / "run")["status"] == "FINISHED"
    assert ("no MLflow here" if "SystemExit" in fault else "no_such_name") in said.stderr
    assert "slow" not in said.stderr


@pytest.mark.parametrize("data", ["chats.jsonl", "chats.json"])  # the second by `datasets`
@pytest.mark.slow
def test_a_run_needs_no_home_folder_that_can_be_written(tmp_path, tiny_model, data):
    places = {"HOME": "/dev/null/x", "TMPDIR": str(tmp_path / "temporary")}
    (tmp_path / "temporary").mkdir()
    write_chats(tmp_path / data, count=8)
    kind = ("dataset=hf_chat", f"dataset.path={data}", "dataset.split=train")
    said = train(tiny_model, tmp_path, *(kind if data == "chats.json" else ()), **places)
    assert said.returncode == 0, said.stderr
    private = tmp_path / "temporary" / f"sft-{os.getuid()}"
    assert said.stderr.count(f"using {private}") == 1
    assert private.stat().st_mode & 0o777 == 0o700 and list(private.glob("tokens/*"))


@pytest.mark.slow
def test_a_cache_that_was_asked_for_and_cannot_be_written_is_an_error(tmp_path, tiny_model):
    said = train(tiny_model, tmp_path, SFT_CACHE="/dev/null/mine")
    assert said.returncode == 2
    assert "/dev/null/mine" in said.stderr and "SFT_CACHE" in said.stderr


@pytest.mark.parametrize("of_whom", ["open to others", "a link"])
def test_a_temporary_cache_that_is_not_the_users_alone_is_not_trusted(
    tmp_path, monkeypatch, of_whom
):
    monkeypatch.delenv("SFT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/x")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = tmp_path / f"sft-{os.getuid()}"
    if of_whom == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    files._private_folder.cache_clear()
    with pytest.raises(BadInput, match="not to be trusted"):
        files.cache_folder()
