"""Money on the command line: the estimate, the question, the budget, and `sft.cost`."""

import json
import os
import pty
import subprocess
import sys

import pytest

from sft.cost import meter
from sft.files import dump_yaml, read_yaml
from sft.record import checkpoints, rundir
from tests.chat_data import write_chats
from tests.cost.billing import PRICES, provider

RATES = [f"prices.{kind}={rate:g}" for kind, rate in PRICES.items()]


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model):
    """A folder with data, and the overrides of a run of six steps on the local service."""
    folder = tmp_path_factory.mktemp("money")
    write_chats(folder / "chats.jsonl", count=24)
    return folder, [
        "dataset=jsonl", "dataset.path=chats.jsonl", "dataset.eval_size=4", "model=folder",
        f"model.name={tiny_model}", "service.dtype=float32", "batch_size=2", "max_length=128",
        "max_steps=6", "lora.rank=4", "lr=1e-2", "eval_every=3", "save_every=3",
        "tracking.uri=null",
    ]  # fmt: skip


def run(place, *words, stdin=subprocess.DEVNULL):
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=place[0], capture_output=True, text=True, stdin=stdin
    )


@pytest.fixture(scope="module")
def ended(place):
    """A run that its budget has ended, and what it printed."""
    done = run(place, "sft", *place[1], *RATES, "run_dir=ended", "budget.usd=1")
    return place[0] / "ended", done


@pytest.fixture(scope="module")
def resumed(place, ended):
    """The same run, gone on with to its end."""
    directory, _ = ended
    before = meter.spent(directory)
    done = run(place, "sft.resume", "ended", "budget.usd=50")
    return before, done


def test_a_budget_ends_a_run_with_exit_code_3_a_checkpoint_and_a_word_on_how_to_go_on(ended):
    directory, done = ended
    assert done.returncode == 3, done.stderr
    facts = rundir.read_facts(directory)
    assert facts["status"] == "KILLED" and facts["reason"].startswith("budget.usd=1:")
    assert 0 < facts["usd"] <= 1.0


def test_the_banner_says_what_the_run_costs_by_part_and_by_whose_prices(ended):
    words = " ".join(ended[1].stdout.split())
    assert "cost about $" in words and "training $" in words and "answers $" in words
    assert "budget $1.00; prices: prices.* of the config" in words
    assert "python -m sft.resume ended budget.usd=…" in words


def test_resume_goes_on_with_a_larger_budget_and_keeps_what_was_spent(resumed, ended):
    before, done = resumed
    assert done.returncode == 0, done.stderr
    directory = ended[0]
    assert checkpoints.read(directory / "checkpoints.jsonl")[-1].kind == "final"
    assert meter.spent(directory) > before
    assert read_yaml(directory / "config.yaml")["budget"]["usd"] == 50


def test_nothing_but_the_budget_can_be_changed_on_the_way(place, ended):
    done = run(place, "sft.resume", "ended", "lr=1e-3")
    assert done.returncode == 2 and "sft.fork ended --from STEP lr=1e-3" in done.stderr


def test_the_list_of_runs_shows_what_they_cost(place, resumed):
    header, row = run(place, "sft.runs", "ended").stdout.splitlines()
    usd = meter.spent(place[0] / "ended")
    assert "usd" in header.split() and f"${usd:.2f}" in row.split()


def test_cost_shows_tokens_and_money_by_kind_beside_the_estimate(place, resumed):
    lines = run(place, "sft.cost", "ended").stdout.splitlines()
    usage = meter.last(place[0] / "ended")
    rows = {line.rpartition("$")[0].split("  ")[0].strip(): line.split() for line in lines}
    assert f"{usage['train']:,}" in " ".join(lines) and "estimated before" in "\n".join(lines)
    assert any(line.split()[:1] == ["train"] and line.split()[2] == "1000" for line in lines), rows
    assert "bill" not in "\n".join(lines)  # nobody bills on this machine


def test_cost_as_json_has_the_sum_the_runs_and_no_bill_of_this_machine(place, resumed):
    said = json.loads(run(place, "sft.cost", "ended", "--json").stdout)
    assert said["usd"] == meter.spent(place[0] / "ended") == said["runs"][0]["usd"]
    assert said["tokens"]["train"] == meter.last(place[0] / "ended")["train"]
    assert said["bill"] is said["no_bill"] is None


def test_cost_sets_the_providers_bill_of_the_runs_sessions_beside_it(place, resumed, monkeypatch):
    directory = place[0] / "ended"
    sessions = rundir.read_facts(directory)["sessions"]
    used = meter.last(directory)
    billed = {sessions[0]: {kind: used[kind] for kind in PRICES}, "another": {"train": 10**9}}
    saved = read_yaml(directory / "config.yaml")
    with provider(billed) as url:
        service = saved["service"] | {"kind": "custom", "base_url": url}
        (directory / "config.yaml").write_text(dump_yaml(saved | {"service": service}))
        monkeypatch.setenv("TINKER_API_KEY", "tml-x")
        done = run(place, "sft.cost", "ended")
    (directory / "config.yaml").write_text(dump_yaml(saved))
    assert f"{used['train']:,} train ({used['train']:,} counted)" in done.stdout, done.stderr
    assert "+0.0% against what was counted" in done.stdout


def test_above_the_limit_nobody_to_ask_is_a_sentence_and_no_folder(place):
    done = run(place, "sft", *place[1], *RATES, "run_dir=never", "cost.confirm_above_usd=0.5")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "more than cost.confirm_above_usd=0.5" in done.stderr and "--yes" in done.stderr
    assert not (place[0] / "never").exists()


@pytest.mark.slow
@pytest.mark.parametrize("answer, begins", [("n", False), ("y", True)])
def test_at_a_terminal_the_user_is_asked(place, answer, begins):
    ours, theirs = pty.openpty()
    words = [*place[1], *RATES, f"run_dir=asked-{answer}", "cost.confirm_above_usd=0.5"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sft", *words, "max_steps=2"],
        cwd=place[0], stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(theirs)
    said = b""
    while b"Go on? [y/N]" not in said:
        said += os.read(ours, 4096)
    os.write(ours, f"{answer}\n".encode())
    with pytest.raises(OSError):  # the terminal is gone once the process is
        while os.read(ours, 4096):
            pass
    code, error = process.wait(), process.stderr.read()
    assert (place[0] / f"asked-{answer}").exists() == begins
    assert code == (0 if begins else 2), error


@pytest.mark.slow
def test_yes_goes_on_without_a_question(place):
    words = [*place[1], *RATES, "run_dir=yes", "cost.confirm_above_usd=0.5", "max_steps=1"]
    done = run(place, "sft", "--yes", *words)
    assert done.returncode == 0, done.stderr
    assert "cost" not in read_yaml(place[0] / "yes" / "config.yaml")


PARTLY = ["prices.prefill=1000", "prices.sample=1"]


@pytest.mark.slow
def test_where_a_part_has_no_price_the_user_is_asked_whatever_the_sum(place):
    done = run(place, "sft", *place[1], *PARTLY, "run_dir=never", "cost.confirm_above_usd=1000")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "there is no price of train tokens (prices.train=…): at least $" in done.stderr
    assert not (place[0] / "never").exists()


def test_where_a_part_has_no_price_every_sum_is_the_least(place):
    done = run(place, "sft", "--yes", *place[1], *PARTLY, "run_dir=partly", "max_steps=2")
    words = " ".join(done.stdout.split())
    assert done.returncode == 0, done.stderr
    assert "cost at least $" in words and "for at least $" in words
    assert "(train tokens have no price)" in words
    assert "at least $" in run(place, "sft.runs", "partly").stdout
    cost = run(place, "sft.cost", "partly").stdout
    assert "at least $" in cost and "no price" in cost


@pytest.mark.slow
def test_on_the_local_service_without_prices_no_price_is_invented(place):
    done = run(place, "sft", *place[1], "run_dir=free", "max_steps=1")
    assert done.returncode == 0 and "$" not in done.stdout
    said = run(place, "sft.cost", "free").stdout
    assert "no published price known" in said and "time: " in said


def test_a_config_of_before_prices_of_each_kind_still_goes(place, resumed):
    from sft.config.saved import from_saved

    saved = read_yaml(place[0] / "ended" / "config.yaml")
    del saved["prices"], saved["budget"]
    saved["model"]["price_per_million_tokens"] = 0.4
    assert from_saved(saved, "old.yaml").prices.train == 0.4
