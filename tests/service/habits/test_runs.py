"""Runs on servers that are not quite the Tinker API of today."""

import asyncio
import socket
from pathlib import Path

import pytest

from sft.command import launch
from sft.command.service import service_of
from sft.errors import BadInput
from sft.run.client import Service
from sft.service.habits import questions, server
from sft.service.habits.trial import Asking, session
from sft.service.habits.upstream import Refused

ALL = ("no_endpoints", "no_ids", "no_first_logprob", "strict", "no_create_by_load", "model_id")


def numbers(rows, name):
    return [(row["step"], row[name]) for row in rows if name in row]


def test_a_server_with_every_habit_trains_and_measures_what_the_service_behind_it_does(
    trained, poor, local_service
):
    _, plain, _ = trained(local_service, "plain")
    result, rows, facts = trained(poor(*ALL).url, "poor")
    assert result.status == "FINISHED", result.error
    assert numbers(rows, "train/nll") == numbers(plain, "train/nll")
    assert numbers(rows, "eval/nll") == numbers(plain, "eval/nll")
    repairs = facts["server"]["repairs"]
    assert {"ids of sampled sequences", "end of a session", "names of models"} <= set(repairs)
    assert "create_model without optimizer_config" in repairs
    assert result.failed_evaluations == []


def test_todays_api_needs_no_repair(trained, local_service, monkeypatch):
    from sft.service.child import api_key

    monkeypatch.setenv("TINKER_API_KEY", api_key(local_service))
    _, _, facts = trained(local_service, "plain")
    assert facts["server"].pop("sampler")["largest"] < questions.NOISE
    assert facts["server"] == {"url": local_service, "repairs": {}, "ignored": {}}


@pytest.mark.slow
def test_a_run_is_resumed_where_a_model_cannot_be_made_from_a_checkpoint(trained, poor, settings):
    url = poor("no_create_by_load", "no_endpoints").url
    _, whole, _ = trained(url, "whole")
    trained(url, "half")
    kept = Path("half/checkpoints.jsonl").read_text().splitlines()[0]
    Path("half/checkpoints.jsonl").write_text(kept + "\n")
    result = asyncio.run(launch.train(settings(url), Path("half"), []))
    assert result.status == "FINISHED", result.error
    rows = [row for row in result_rows("half") if row["step"] >= 2]
    assert numbers(rows, "train/nll") == numbers(whole, "train/nll")[2:]


def result_rows(name):
    from sft.record import metrics

    return metrics.read(Path(name) / "metrics.jsonl")


def test_where_a_sampler_says_something_else_a_copy_is_measured_by_forward(
    trained, poor, local_service
):
    _, plain, _ = trained(local_service, "plain")
    result, rows, facts = trained(poor("samples_wrong").url, "poor")
    assert "by forward on a copy" in facts["server"]["repairs"]["evaluation"]
    assert numbers(rows, "train/nll") == numbers(plain, "train/nll")
    measured, true = numbers(rows, "eval/nll"), numbers(plain, "eval/nll")
    assert [step for step, _ in measured] == [0, 2, 4] and result.status == "FINISHED"
    assert [value for _, value in measured] == pytest.approx([v for _, v in true], abs=1e-5)


def test_a_rank_that_the_server_refuses_is_said_before_anything_is_made(settings, poor):
    made = settings(poor("small_ranks").url, "lora.rank=16")
    with pytest.raises(BadInput, match=r"lora.rank: .* makes no adapter of rank 16 .* above 8"):
        asyncio.run(launch.train(made, Path("run"), []))
    assert not Path("run").exists()


def test_an_older_wire_is_recognised_at_once(settings, poor):
    with pytest.raises(BadInput, match="status 500: it speaks an older form of the API"):
        asyncio.run(launch.train(settings(poor("json_only").url), Path("run"), []))
    assert not Path("run").exists()


def test_a_setting_that_the_server_ignores_is_named(trained, poor):
    result, _, facts = trained(poor("adapts_all").url, "run", "lora.train_mlp=false")
    assert result.status == "FINISHED"
    assert list(facts["server"]["ignored"]) == ["lora.train_mlp", "lora.train_attn"]


def test_a_setting_that_the_server_heeds_is_not(trained, poor):
    _, _, facts = trained(poor("no_ids").url, "run", "lora.train_mlp=false", "reduction=none")
    assert facts["server"]["ignored"] == {}


def test_a_module_that_the_server_never_adapts_is_named_without_being_asked_for(poor, settings):
    settings = settings(poor("never_unembeds").url)
    with service_of(settings)() as address:
        habits = server.behind(address)
    assert list(habits.ignored) == ["lora.train_unembed"]
    assert habits.facts({"trained_parameters": 7372})["trained_parameters"] is None


def test_parameters_are_counted_where_the_server_adapts_what_it_is_told_to(poor, settings):
    with service_of(settings(poor("no_ids").url))() as address:
        assert "trained_parameters" not in server.behind(address).facts({})


def test_a_checkpoints_life_that_the_server_does_not_heed_is_named(poor, settings):
    keys = ["checkpoint.ttl_seconds=86400", "checkpoint.keep=1"]
    for lacks, ignored in [
        (["no_ids"], []),
        (["no_lives"], ["checkpoint.ttl_seconds"]),
        (["no_endpoints"], ["checkpoint.keep"]),
    ]:
        with service_of(settings(poor(*lacks).url, *keys))() as address:
            assert list(server.behind(address).ignored) == ignored


def test_a_sampler_that_is_off_to_one_side_is_not_measured_with(poor, settings):
    with service_of(settings(poor("samples_low").url))() as address:
        habits = server.behind(address)
    assert habits.measured_on_copies
    assert "by up to 0.05 nats, by -0.05 in the mean" in habits.repairs["evaluation"]
    assert habits.to_json()["sampler"]["mean"] == pytest.approx(-0.05, abs=1e-4)


def test_nothing_that_was_saved_to_ask_the_server_stays_there(poor, settings, local_service_root):
    def there():
        return {path for path in local_service_root.glob("*/*/*") if path.is_dir()}

    before = there()
    with service_of(settings(poor("no_ids").url, "checkpoint.ttl_seconds=86400"))():
        pass
    assert there() == before


@pytest.mark.parametrize(
    ("endpoint", "status"), [("optim_step", 502), ("forward_backward", 504), ("optim_step", 408)]
)
def test_a_step_whose_answer_is_lost_is_not_made_twice(
    trained, poor, settings, local_service, endpoint, status
):
    _, plain, _ = trained(local_service, "plain", "eval_every=0")
    twice = poor("acts_twice")
    with service_of(settings(twice.url))() as address:
        assert server.behind(address).repeats_act_twice
        asked = twice.repeated.total()
        twice.lose(endpoint, status)
        result, rows, _ = trained(twice.url, "lost", "eval_every=0")
    assert result.status == "FINISHED", result.error
    assert twice.repeated.total() == asked
    assert numbers(rows, "train/nll") == numbers(plain, "train/nll")


def test_a_checkpoint_that_is_gone_is_not_taken_for_a_request_that_the_server_lacks(poor, settings):
    with service_of(settings(poor("no_ids").url))() as address:
        running = server.at(address)
        asking = Asking(running)
        with session(asking, "tiny") as opened:
            with pytest.raises(Refused):
                opened.loaded("tinker://nobody/weights/gone", 4, optimizer=True)
        asking.close()
    assert "a model from a checkpoint" not in running.habits.repairs


def test_the_proxy_sends_each_answer_at_once(poor):
    with server.before(poor("no_ids").url) as running:
        assert running.socket.proto == socket.IPPROTO_TCP  # by which asyncio knows to do so


def test_what_cannot_be_deleted_stays_and_ends_no_run(trained, poor):
    url = poor("no_endpoints").url
    result, _, _ = trained(url, "run", "checkpoint.keep=1", "save_every=1", "eval_every=0")
    assert result.status == "FINISHED", result.error


def test_messages_name_the_server_and_not_its_proxy(settings, poor):
    url = poor("no_ids").url
    with pytest.raises(BadInput, match=f"the service at {url} does not train 'other'"):
        asyncio.run(launch.train(settings(url, "model.name=other"), Path("run"), []))


def test_the_proxy_takes_no_key_but_its_own(poor):
    import httpx

    with server.before(poor("no_ids").url) as running:
        url = f"{running.address}/api/v1/healthz"
        for headers in ({}, {"X-API-Key": "tml-guess"}):
            assert httpx.get(url, headers=headers).status_code == 401


def test_a_proxy_ends_with_its_last_user(poor):
    url = poor("no_ids").url
    with server.before(url) as one:
        with server.before(url) as other:
            assert one is other
        asyncio.run(Service.reach(one.address))
    assert server.behind(one.address) is None
