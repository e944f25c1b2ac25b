"""Every command that takes a RUN finds it by the same words."""

import importlib

import pytest

from sft.__main__ import COMMANDS

BEHIND = {
    "compare": ["last"],
    "export": ["adapter"],
    "fork": ["--from", "1"],
    "promote": ["--as", "faq"],
    "publish": ["me/faq"],
    "sample": ["hello"],
}
"""What a command wants behind RUN."""


def main_of(command):
    module = importlib.import_module(f"sft.{command}")
    return getattr(module, "main", None) or importlib.import_module(f"sft.{command}.__main__").main


def takes_a_run(command, capsys):
    with pytest.raises(SystemExit):
        main_of(command)(["--help"])
    return " RUN" in capsys.readouterr().out.partition("\n\n")[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_beginning_that_two_runs_have_is_refused_by_the_names_of_both(
    command, tmp_path, monkeypatch, capsys
):
    if not takes_a_run(command, capsys):
        return
    monkeypatch.chdir(tmp_path)
    for name in ("faq-a", "faq-b"):
        folder = tmp_path / "outputs" / "2026-01-31" / f"10-00-00-{name}"
        folder.mkdir(parents=True)
        (folder / "run.json").write_text('{"status": "FINISHED"}')
        (folder / "config.yaml").write_text("lr: 1e-4\n")
    assert main_of(command)(["faq", *BEHIND.get(command, [])]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"sft.{command}: faq: 2 runs begin so; name one by its path:")
    assert "faq-a" in error and "faq-b" in error


@pytest.mark.parametrize("command", COMMANDS)
def test_last_is_a_run_to_every_command(command, tmp_path, monkeypatch, capsys):
    if not takes_a_run(command, capsys):
        return
    monkeypatch.chdir(tmp_path)
    assert main_of(command)(["last", *BEHIND.get(command, [])]) == 2
    assert capsys.readouterr().err.startswith(f"sft.{command}: last: there is no such run")
