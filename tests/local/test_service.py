"""Services as processes: started, joined, ended with their users, never left behind."""

import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import tinker

from sft.service import child

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> str:
    """An "interpreter" whose `-m sft.local` has an engine of constants."""
    script = tmp_path_factory.mktemp("bin") / "python"
    script.write_text(
        f'#!/bin/sh\ncd "{REPOSITORY}" && exec "{sys.executable}" -m tests.local.stub_server "$@"\n'
    )
    script.chmod(0o700)
    return str(script)


def harness(root: Path, python: str, then: str, models: str = "{'m': None}") -> subprocess.Popen:
    """A process that uses a service on `root`, prints its state, and does `then`."""
    code = f"""
        import sys, time
        from pathlib import Path
        from sft.service import child
        with child.local(Path({str(root)!r}), {models}, python={python!r}) as url:
            print(url, flush=True)
            {then}
        print("left", flush=True)
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY,
    )  # fmt: skip


def announced(root: Path) -> dict:
    return json.loads((root / "service.json").read_text())


def is_alive(pid: int) -> bool:
    """Whether it runs; a dead child that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until_dead(pid: int) -> None:
    for _ in range(1200):
        if not is_alive(pid):
            return
        time.sleep(0.05)
    raise AssertionError(f"process {pid} lives on")


def test_a_service_is_ready_on_entry_and_gone_on_leaving(tmp_path, python):
    with child.local(tmp_path, {"m": None}, python=python) as url:
        said = announced(tmp_path)
        key = child.api_key(url)
        assert (said["url"], said["key"]) == (url, key)
        assert key.startswith("tml-")
        rest = tinker.RestClient(base_url=url, api_key=key)
        (model,) = rest.get_server_capabilities().result().supported_models
        assert model.model_name == "m"
        assert child.api_key("http://127.0.0.1:1") is None
    assert child.api_key(url) is None  # another service may come to this address
    assert not is_alive(said["pid"])
    assert not (tmp_path / "service.json").exists()


def test_the_key_is_for_the_owner_alone(tmp_path, python):
    with child.local(tmp_path, {"m": None}, python=python) as url:
        key, pid = child.api_key(url), announced(tmp_path)["pid"]
        assert stat.S_IMODE((tmp_path / "service.json").stat().st_mode) == 0o600
        for place in (tmp_path / "service.log", Path(f"/proc/{pid}/cmdline")):
            assert key not in place.read_text()


def test_a_service_in_use_is_joined_and_ends_with_its_last_user(tmp_path, python):
    first = harness(tmp_path, python, "sys.stdin.read()")
    url = first.stdout.readline().strip()
    pid = announced(tmp_path)["pid"]
    second = harness(tmp_path, python, "sys.stdin.read()")
    assert second.stdout.readline().strip() == url
    first.communicate(timeout=60)
    assert is_alive(pid)
    with child.local(tmp_path, {"m": None}, python=python) as joined:
        assert joined == url
        second.communicate(timeout=60)
        assert is_alive(pid)
    wait_until_dead(pid)


def test_many_harnesses_that_start_at_once_share_one_service(tmp_path, python):
    users = [harness(tmp_path, python, "sys.stdin.read()") for _ in range(4)]
    urls = {user.stdout.readline() for user in users}
    pid = announced(tmp_path)["pid"]
    assert len(urls) == 1
    for user in users:
        user.communicate(timeout=60)
    wait_until_dead(pid)


def test_a_service_that_serves_something_else_is_not_joined(tmp_path, python):
    with child.local(tmp_path, {"m": "/some/folder"}, python=python):
        for models, dtype in (
            ({"other": None}, "auto"),
            ({"m": "/another/folder"}, "auto"),
            ({"m": None}, "float32"),
        ):
            with pytest.raises(child.ServiceUnavailable, match="serves m in dtype auto.*root"):
                with child.local(tmp_path, models, dtype=dtype, python=python):
                    pass
        with child.local(tmp_path, {"m": None}, python=python):
            pass


def test_what_a_service_warns_of_is_in_its_log_and_told_to_each_that_uses_it(
    tmp_path, python, caplog
):
    def told():
        return [text for text in caplog.messages if text.startswith("the local service")]

    with child.local(tmp_path, {"slow": None}, python=python):
        assert told() == ["the local service: this will take a while"]
        with child.local(tmp_path, {"slow": None}, python=python):
            assert told() == 2 * ["the local service: this will take a while"]
    assert (tmp_path / "service.log").read_text() == "warning: this will take a while\n"


def test_a_harness_that_is_killed_takes_its_service_along(tmp_path, python):
    user = harness(tmp_path, python, "sys.stdin.read()")
    user.stdout.readline()
    pid = announced(tmp_path)["pid"]
    user.kill()
    wait_until_dead(pid)
    assert not (tmp_path / "service.json").exists()


def test_a_forked_child_of_a_harness_keeps_no_service_alive(tmp_path, python):
    fork = "import os; child = os.fork(); child and print(child, flush=True); time.sleep(300)"
    user = harness(tmp_path, python, fork)
    user.stdout.readline()
    child = int(user.stdout.readline())
    pid = announced(tmp_path)["pid"]
    user.kill()
    try:
        wait_until_dead(pid)
        assert is_alive(child)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_harness_killed_while_its_service_starts_leaves_none_behind(tmp_path, python):
    user = harness(tmp_path, python, "pass")
    while not (tmp_path / "service.log").exists():
        assert user.poll() is None, "the harness ended before its service began"
        time.sleep(0.01)
    time.sleep(0.3)
    user.kill()
    with child.local(tmp_path, {"m": None}, python=python):  # waits until the other one is gone
        pid = announced(tmp_path)["pid"]
    wait_until_dead(pid)


def test_a_killed_service_is_started_again_at_its_address(tmp_path, python, caplog):
    with child.local(tmp_path, {"stub/model": None}, python=python) as url:
        key, pid = child.api_key(url), announced(tmp_path)["pid"]
        client = tinker.ServiceClient(base_url=url, api_key=key)
        trainer = client.create_lora_training_client("stub/model", rank=4).result()
        path = trainer.save_state("before").result().path
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(tinker.APIStatusError, match="is not open here") as caught:
            trainer.save_state("after").result()  # waits until there is a service again
        assert caught.value.status_code == 410
        assert "has died" in caplog.text
        again = announced(tmp_path)
        assert (again["url"], again["key"]) == (url, key)
        client = tinker.ServiceClient(base_url=url, api_key=key)
        client.create_training_client_from_state_with_optimizer(path).result()
    assert not is_alive(again["pid"])


def test_a_service_killed_beside_its_harness_is_replaced_by_the_next(tmp_path, python):
    user = harness(tmp_path, python, "sys.stdin.read()")
    user.stdout.readline()
    said = announced(tmp_path)
    user.kill()
    os.kill(said["pid"], signal.SIGKILL)
    wait_until_dead(said["pid"])
    user.communicate()
    assert (tmp_path / "service.json").exists()
    with child.local(tmp_path, {"m": None}, python=python) as url:
        assert child.api_key(url) != said["key"]


def test_a_service_that_cannot_start_says_why(tmp_path, python):
    with pytest.raises(child.ServiceUnavailable, match="'broken' holds no config.json"):
        with child.local(tmp_path, {"broken": None}, python=python):
            pass


def test_a_service_that_crashes_at_its_start_shows_the_end_of_its_log(tmp_path, python):
    with pytest.raises(child.ServiceUnavailable, match="(?s)ended with code.*RuntimeError: a bug"):
        with child.local(tmp_path, {"crashing": None}, python=python):
            pass
    (tmp_path / "file").touch()
    with pytest.raises(child.ServiceUnavailable, match="cannot make the service's root"):
        with child.local(tmp_path / "file" / "root", {"m": None}, python=python):
            pass
    with pytest.raises(child.ServiceUnavailable, match="cannot start"):
        with child.local(tmp_path, {"m": None}, python="/no/such/python"):
            pass


def test_a_service_by_hand_says_how_to_use_it_and_ends_when_told(tmp_path, python):
    command = [python, "-m", "sft.local", "--root", str(tmp_path), "--model", "m"]
    by_hand = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = [by_hand.stdout.readline() for _ in range(3)]
    url = lines[1].split("TINKER_BASE_URL=")[1].strip()
    key = lines[2].split("TINKER_API_KEY=")[1].strip()
    tinker.RestClient(base_url=url, api_key=key).get_server_capabilities().result()
    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode != 0
    assert "another service has" in second.stderr
    with child.local(tmp_path, {"m": None}, python=python) as joined:
        assert joined == url
    assert by_hand.poll() is None  # it is not the harness's to end
    by_hand.send_signal(signal.SIGTERM)
    _, errors = by_hand.communicate(timeout=60)
    assert (by_hand.returncode, errors) == (0, "")


def test_a_key_of_ones_own_is_taken_from_the_environment(tmp_path, python):
    command = [python, "-m", "sft.local", "--root", str(tmp_path), "--model", "m"]
    environment = {**os.environ, "SFT_SERVICE_KEY": "tml-mine"}
    by_hand = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert "TINKER_API_KEY=tml-mine" in [by_hand.stdout.readline() for _ in range(3)][2]
    by_hand.send_signal(signal.SIGINT)
    by_hand.communicate(timeout=60)
    assert by_hand.returncode == 0


def test_help_and_import_are_quick_because_they_load_nothing_heavy():
    code = "import sys, sft.service, sft.local.__main__ as m; m.parse(['--root=a', '--model=b'])"
    code += "; print([n for n in ('torch', 'tinker', 'transformers') if n in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout.strip() == "[]", ran.stderr
