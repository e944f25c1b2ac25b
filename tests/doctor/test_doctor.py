"""What the doctor says of servers, good and bad ones."""

import json

import httpx
import pytest

from sft.doctor import main
from sft.doctor.table import Row, lines
from sft.service.child import api_key
from tests import poor_service, web_server


@pytest.fixture
def doctor(capsys, monkeypatch, local_service, tmp_path):
    """Runs the doctor on the server at `url`; its exit code and its rows by topic."""
    monkeypatch.setenv("TINKER_API_KEY", api_key(local_service))
    monkeypatch.chdir(tmp_path)

    def run(url, *overrides):
        code = main([
            "service=custom", f"service.base_url={url}", "model=folder", "model.name=tiny",
            "lora.rank=4", "--json", *overrides,
        ])  # fmt: skip
        rows = json.loads(capsys.readouterr().out)
        return code, {row["check"]: row for row in rows}

    return run


def states(rows, state):
    return {topic for topic, row in rows.items() if row["state"] == state}


def test_the_local_service_is_well_and_its_table_is_short(local_service, capsys, monkeypatch):
    monkeypatch.setenv("TINKER_API_KEY", api_key(local_service))
    code = main([
        "service=custom", f"service.base_url={local_service}", "model=folder", "model.name=tiny",
    ])  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert code == 0 and len(lines) < 30
    assert lines[-1] == "a run can train here"
    assert not [line for line in lines if " different " in line]


@pytest.mark.slow
def test_what_a_poor_server_lacks_is_named_with_what_is_done_about_it(doctor, local_service):
    lacks = ("no_endpoints", "no_ids", "no_first_logprob", "strict", "no_create_by_load")
    with poor_service.before(local_service, *lacks, "small_ranks", "samples_wrong") as poor:
        code, rows = doctor(poor.url)
        assert doctor(poor.url, "lora.rank=16")[0] == 1  # which a run refuses
    assert code == 0 and len(rows) < 30
    assert {
        "ids of sampled sequences", "log-probabilities of a prompt", "a model from a checkpoint",
        "life of checkpoints", "deleting checkpoints", "end of a session", "other endpoints",
    } <= states(rows, "missing")  # fmt: skip
    assert {
        "LoRA ranks", "compute_logprobs", "keys of requests",
    } <= states(rows, "different")  # fmt: skip
    assert rows["compute_logprobs"]["harness"] == "by forward on a copy"
    assert "above 8" in rows["LoRA ranks"]["found"]


@pytest.mark.slow
def test_settings_that_a_server_ignores_are_named(doctor, local_service):
    with poor_service.before(local_service, "adapts_all") as poor:
        _, rows = doctor(poor.url)
    assert rows["settings"]["found"] == "ignored: lora.train_mlp, lora.train_attn"


def test_a_wrong_url_ends_it_at_once(doctor):
    code, rows = doctor("http://127.0.0.1:9")
    assert code == 1 and states(rows, "missing") == {"reachable"}


def test_a_wrong_key_is_said_to_be_one(doctor, local_service, monkeypatch):
    monkeypatch.setenv("TINKER_API_KEY", "tml-wrong")
    with poor_service.before(local_service) as poor:  # of whose key this process knows nothing
        code, rows = doctor(poor.url)
    assert code == 1 and rows["key"]["state"] == "missing"
    assert "TINKER_API_KEY" in rows["key"]["harness"]
    assert not {"messages", "models"} & set(rows)  # of which nothing can be known yet


@pytest.mark.parametrize(
    "answer",
    [
        (404, "application/json", b'{"detail": "Not Found"}'),
        (200, "text/html", b"<html>hello</html>"),
        (501, "text/html", b"<html>Unsupported method</html>"),
    ],
    ids=["nothing there", "a page", "files"],
)
def test_what_is_no_tinker_service_is_not_said_to_be_an_older_one(doctor, answer):
    with web_server.serving(*answer) as url:
        code, rows = doctor(url)
    assert code == 1 and set(rows) == {"reachable"}
    assert "no Tinker service" in rows["reachable"]["found"]


def test_a_server_that_saves_nothing_is_none_for_a_run(doctor, local_service):
    with poor_service.before(local_service, "saves_nothing") as poor:
        code, rows = doctor(poor.url)
    assert code == 1 and rows["checkpoints"]["ends_a_run"]


def test_what_a_run_needs_is_asked_before_what_it_can_do_without(doctor, local_service):
    _, rows = doctor(local_service)
    topics = list(rows)
    order = ["forward_backward, optim_step", "evaluation and training", "save, load with optimizer",
             "settings", "seed of sampling", "LoRA ranks"]  # fmt: skip
    assert sorted(order, key=topics.index) == order


def test_nothing_of_it_stays_on_the_server(doctor, local_service):
    def there():
        with httpx.Client(base_url=local_service) as client:
            headers = {"X-API-Key": api_key(local_service)}
            answer = client.get("/api/v1/checkpoints", headers=headers)
            return {one["tinker_path"] for one in answer.json()["checkpoints"]}

    before = there()
    doctor(local_service)
    assert there() == before


def test_what_was_not_asked_is_not_taken_for_well():
    rows = [Row("key", "ok", "taken"), Row("sampling", "not asked", "22 s are over")]
    assert lines(rows)[-1] == "a run can train here, as far as was asked; not known: sampling"


def test_an_older_wire_is_no_server_for_a_run(doctor, local_service):
    with poor_service.before(local_service, "json_only") as poor:
        code, rows = doctor(poor.url)
    assert code == 1 and rows["messages"]["ends_a_run"]


@pytest.mark.slow
def test_a_model_that_is_not_there_is_answered_with_those_that_are(doctor, local_service):
    code, rows = doctor(local_service, "model.name=other")
    assert code == 1 and rows["models"]["ends_a_run"]
    assert rows["models"]["state"] == "different" and "not other" in rows["models"]["harness"]
    assert rows["save, load with optimizer"]["state"] == "ok"  # tried on the other
