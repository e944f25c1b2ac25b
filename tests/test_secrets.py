"""Passwords in URLs: in no file, no MLflow store, no print; and the run goes on without them."""

import os
import subprocess
import sys

import pytest
import yaml

from sft import secrets, train
from sft.config.compose import compose
from sft.config.saved import from_train, to_saved
from sft.config.secrets import fill
from sft.errors import BadInput
from sft.files import dump_yaml
from sft.record.rundir import hold
from tests.chat_data import write_chats
from tests.finished_run import finished_run, overrides
from tests.tracking.test_tracking_server import server  # noqa: F401 - a fixture

WORD = "open-sesame"


@pytest.fixture(autouse=True)
def forgetful(monkeypatch):
    monkeypatch.setattr("sft.config.secrets._known", {})
    for name in (*secrets.VARIABLES.values(), "MLFLOW_TRACKING_USERNAME", "PGPASSFILE"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("HOME", "/nowhere")  # no ~/.pgpass of the user's own


def run(module, *arguments, cwd, **environment):
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | environment,
    )


def shown_by(folder, *processes):
    """The files below `folder`, and the outputs, that hold the word."""
    found = [str(f) for f in folder.rglob("*") if f.is_file() and WORD.encode() in f.read_bytes()]
    return found + [text for done in processes for text in (done.stdout, done.stderr)
                    if WORD in text]  # fmt: skip


# --- what a user does ---------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_with_a_password_in_its_tracking_uri_shows_it_nowhere_and_is_reproduced(
    server,  # noqa: F811
    tmp_path,
    tiny_model,
):
    server.start()
    given = f"http://me:{WORD}@127.0.0.1:{server.port}"
    write_chats(tmp_path / "chats.jsonl", count=24)
    one = run("sft", *overrides(tiny_model), "run_dir=run", f"tracking.uri={given}", cwd=tmp_path)
    assert one.returncode == 0, one.stdout + one.stderr
    assert f"http://me:***@127.0.0.1:{server.port}" in one.stdout

    without = run("sft.reproduce", "run", cwd=tmp_path)
    assert without.returncode == 2
    assert "MLFLOW_TRACKING_URI" in without.stderr and "MLFLOW_TRACKING_PASSWORD" in without.stderr
    again = run("sft.reproduce", "run", cwd=tmp_path, MLFLOW_TRACKING_PASSWORD=WORD)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "identical" in again.stdout

    assert shown_by(tmp_path, one, without, again) == []
    assert shown_by(server.folder) == []
    (state,) = tmp_path.glob("outputs/*/*/mlflow.json")
    assert f'"uri": "http://me:***@127.0.0.1:{server.port}"' in state.read_text()


@pytest.mark.slow
def test_a_run_whose_server_refuses_connections_shows_the_password_nowhere(tmp_path, tiny_model):
    """What the libraries say of their errors holds the URL."""
    given = f"http://me:{WORD}@127.0.0.1:9/?token={WORD}"
    write_chats(tmp_path / "chats.jsonl", count=24)
    done = run(
        "sft", *overrides(tiny_model), "run_dir=run", "max_steps=2", cwd=tmp_path,
        MLFLOW_TRACKING_URI=given,
    )  # fmt: skip
    assert done.returncode == 0 and "127.0.0.1:9/?token=***" in done.stderr, done.stderr
    sent = run("sft.runs", "run", cwd=tmp_path)
    assert "set MLFLOW_TRACKING_URI" in sent.stderr
    sent_whole = run("sft.runs", "run", cwd=tmp_path, MLFLOW_TRACKING_URI=given)
    assert sent_whole.returncode == 1 and "Connection refused" in sent_whole.stderr
    assert shown_by(tmp_path, done, sent, sent_whole) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--cfg", "job", f"tracking.uri=postgresql://me:{WORD}@host/db"],
        ["--cfg", "all", "service=custom", f'service.base_url="http://host/?api_key={WORD}"'],
        ["--cfg", "hydra", f"hydra.sweeper.storage=postgresql://me:{WORD}@host/db"],
        [f"tracking.uri=nosuch://me:{WORD}@host/db"],
        [f"tracking.uri=http://me:{WORD}@host:port"],
        [f"tracking.uri=http://me:{WORD}@host=1"],
        [f"tracking.uri='http://me:a {WORD}@host'"],
        ["dataset=jsonl", f"dataset.path=https://me:{WORD}@host/chats.jsonl"],
        ["dataset=custom", "dataset.builder=a:B", f"dataset.args.api_key={WORD}"],
        ["service=custom", f"service.base_url=ftp://me:{WORD}@host"],
    ],
)
def test_what_the_command_line_prints_and_refuses_holds_no_password(arguments, tmp_path):
    done = run("sft", *arguments, cwd=tmp_path)
    assert done.returncode == (0 if "--cfg" in arguments else 2), done.stderr
    assert shown_by(tmp_path, done) == []
    assert "***" in done.stdout + done.stderr or "space" in done.stderr or "secret" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["service=custom", f"service.base_url=http://me:{WORD}@127.0.0.1:9"],
        ["--multirun", "lr=1e-3,1e-2", f"hydra.sweeper.storage=nosuch://me:{WORD}@host/db"],
    ],
)
def test_what_cannot_be_reached_is_named_without_its_password(arguments, tmp_path, tiny_model):
    write_chats(tmp_path / "chats.jsonl", count=24)
    done = run("sft", *overrides(tiny_model), *arguments, cwd=tmp_path)
    assert done.returncode == 2 and "me:***@" in done.stderr, done.stderr
    assert shown_by(tmp_path, done) == []


@pytest.mark.slow
def test_a_password_in_a_file_of_the_users_own_is_used_and_not_written(tmp_path, tiny_model):
    """An experiment file may hold it; what is made from it does not."""
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(
        f"# @package _global_\ntracking:\n  uri: sqlite:///mlflow.db?password={WORD}\n"
    )
    work = tmp_path / "work"
    work.mkdir()
    directory = finished_run(
        work, tiny_model, "max_steps=1", "experiment=mine", "--config-dir", str(tmp_path / "conf")
    )
    assert shown_by(work) == []
    saved = yaml.safe_load((directory / "config.yaml").read_text())
    assert saved["tracking"]["uri"] == "sqlite:///mlflow.db?password=***"


# --- the saved config ---------------------------------------------------------------------------


def settings_with(url):
    return compose([f'tracking.uri="{url}"'])


def test_the_saved_config_holds_the_uri_without_its_password():
    saved = to_saved(settings_with(f"postgresql://me:{WORD}@host/db?sslpassword={WORD}"))
    assert saved["tracking"]["uri"] == "postgresql://me:***@host/db?sslpassword=***"


def test_a_directory_is_that_of_the_same_config_whatever_the_password(tmp_path):
    """One that an earlier version wrote loses its password when it is taken up."""
    (tmp_path / "run").mkdir()
    old = to_saved(compose([]))
    old["tracking"]["uri"] = "postgresql://me:before@host/db"  # as it was once written
    (tmp_path / "run" / "config.yaml").write_text(dump_yaml(old))
    for url in (f"postgresql://me:{WORD}@host/db", "postgresql://me@host/db"):
        with hold(tmp_path / "run", to_saved(settings_with(url))):
            assert "before" not in (tmp_path / "run" / "config.yaml").read_text()
    with pytest.raises(BadInput, match="different config"):
        with hold(tmp_path / "run", to_saved(settings_with("postgresql://me@other/db"))):
            pass


def test_a_service_named_from_python_is_saved_without_its_password(tiny_model):
    from sft.datasets import FromConversationFileBuilder
    from sft.types import ChatDatasetBuilderCommonConfig

    common = ChatDatasetBuilderCommonConfig(str(tiny_model), None, 2, 64)
    builder = FromConversationFileBuilder(common_config=common, path="chats.jsonl")
    saved = from_train(
        train.Config("run", "tiny", builder, base_url=f"https://me:{WORD}@host/?key={WORD}")
    )
    assert saved["service"]["base_url"] == "https://me:***@host/?key=***"


# --- masking ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("postgresql://me:pw@host/db", "postgresql://me:***@host/db"),
        ("postgresql+psycopg2://me:p/w@host:5/db", "postgresql+psycopg2://me:***@host:5/db"),
        ("mysql://me:p@w@host/db", "mysql://me:***@host/db"),
        ("postgresql://me:p?w#@host/db", "postgresql://me:***@host/db"),
        ("redis://:pw@host", "redis://:***@host"),
        ("http://me:pw@[::1]:5/x", "http://me:***@[::1]:5/x"),
        ("https://h/?a=1&access_token=pw&b=2", "https://h/?a=1&access_token=***&b=2"),
        ("postgresql://h/db?user=me&password=pw", "postgresql://h/db?user=me&password=***"),
        ("postgresql://h/db?sslpassword=pw", "postgresql://h/db?sslpassword=***"),
        ("https://h/x?X-Amz-Signature=pw", "https://h/x?X-Amz-Signature=***"),
        ("see 'http://me:pw@h' and http://u:pw@h", "see 'http://me:***@h' and http://u:***@h"),
    ],
)
def test_secrets_of_urls_are_masked_and_nothing_else(url, masked):
    assert secrets.mask_urls(url) == masked
    assert secrets.mask_urls(masked) == masked


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////home/me/hf_experiments_1/mlflow.db",
        "postgresql://me@host:5432/db?sslmode=require&passfile=/home/me/.pgpass",
        "http://127.0.0.1:5000/path@v1",
        "http://[::1]:5000/path@v1",
        "tinker://run:train:0/weights/final",
        "the token: <|im_start|>user",
    ],
)
def test_what_is_no_secret_of_a_url_stays(text):
    assert secrets.mask_urls(text) == text


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:pw@host/db?a=1",
        "postgresql://me:***@host/db?a=1",
        "postgresql://me@host/db?a=1",
        "postgresql://me@host/db?password=pw&a=1",
        "postgresql://me@host/db?a=1&password=***",
    ],
)
def test_urls_that_differ_in_their_secrets_alone_name_one_place(url):
    assert secrets.identity(url) == "postgresql://me@host/db?a=1"


# --- filling in ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "environment", "whole"),
    [
        ("sqlite:///mlflow.db", {"MLFLOW_TRACKING_URI": "http://x"}, "sqlite:///mlflow.db"),
        ("http://me:***@h", {"MLFLOW_TRACKING_URI": "http://me:pw@h"}, "http://me:pw@h"),
        ("http://h/?key=***", {"MLFLOW_TRACKING_URI": "http://h/?key=pw"}, "http://h/?key=pw"),
        ("http://me:***@h", {"MLFLOW_TRACKING_PASSWORD": "p/w"}, "http://me:p%2Fw@h"),
        (
            "http://me:***@h",
            {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "pw"},
            "http://me:pw@h",
        ),
        ("postgresql://me:***@h/db", {"PGPASSWORD": "pw"}, "postgresql://me@h/db"),
        ("postgresql://me:***@h/db", {"PGPASSFILE": __file__}, "postgresql://me@h/db"),
    ],
)
def test_a_masked_url_is_filled_in_from_the_environment(url, environment, whole, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert fill(url, "tracking.uri") == whole


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"MLFLOW_TRACKING_URI": "http://me:pw@another"},
        {"MLFLOW_TRACKING_URI": "http://me:***@h"},
        {"MLFLOW_TRACKING_USERNAME": "you", "MLFLOW_TRACKING_PASSWORD": "pw"},
        {"PGPASSWORD": "pw"},
    ],
)
def test_a_url_that_nothing_fills_in_is_bad_input_that_names_the_variable(environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match=r"tracking\.uri.*MLFLOW_TRACKING_URI"):
        fill("http://me:***@h", "tracking.uri")


def test_a_whole_url_fills_in_its_masked_form_for_the_rest_of_the_process():
    fill(f"http://me:{WORD}@h", "tracking.uri")
    assert fill("http://me:***@h", "tracking.uri") == f"http://me:{WORD}@h"


def test_at_a_terminal_the_password_is_asked_for_once(monkeypatch):
    asked = []
    for stream in (sys.stdin, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda prompt: asked.append(prompt) or "p w")
    for _ in range(2):
        assert fill("http://me:***@h", "tracking.uri") == "http://me:p%20w@h"
    assert asked == ["tracking.uri: *** of http://me:***@h: "]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:12/34geheim@h/db",
        "postgresql://me:5432/x@h/db",
        "mysql+pymysql://me:12345#x@h/db",
        "postgresql://me:p@ss/w?rd@h/db",
    ],
)
def test_a_password_of_a_database_may_look_like_a_port_or_hold_an_at_sign(url):
    scheme = url.partition(":")[0]
    assert secrets.mask_urls(f"see {url} and a@b") == f"see {scheme}://me:***@h/db and a@b"


def test_an_address_without_a_user_has_no_password():
    for url in (
        "http://host:5000/a@b",
        "sqlite:////data/a@b.db",
        "tinker://run/weights/a@b",
    ):
        assert secrets.mask_urls(url) == url


def test_a_token_in_the_place_of_a_user_is_masked_and_filled_in_again(monkeypatch):
    url = "https://tml-abcdefghijklmnop@host/mlflow"
    assert secrets.mask_urls(url) == "https://***@host/mlflow"
    assert secrets.mask_urls("http://me@host") == "http://me@host"
    monkeypatch.setattr("sft.config.secrets._known", {})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    assert fill("https://***@host/mlflow", "tracking.uri") == url
