"""Requests as no SDK sends them: twice at once, out of order, packed, torn, senseless."""

import random
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import zstandard
from tinker import types
from tinker.proto import tinker_public_pb2 as pb
from tinker.proto.request_conv import forward_backward_request_to_proto

from tests.local.stub import KEY, MODEL, serving_stub

ODD_PATHS = (
    "training_runs?limit=x",
    "training_runs?offset=-1",
    "training_runs/%00/checkpoints",
    "training_runs/../../etc",
    "checkpoints?limit=99999999999999999999",
)


@pytest.fixture(scope="module")
def stub(tmp_path_factory):
    with serving_stub(tmp_path_factory.mktemp("root")) as (url, _, engine):
        with httpx.Client(base_url=url, headers={"X-API-Key": KEY}, timeout=30) as http:
            yield http, engine


@pytest.fixture
def http(stub):
    return stub[0]


@pytest.fixture
def session(http) -> str:
    return open_session(http)


@pytest.fixture
def model(http, session) -> str:
    return open_model(http, session)


def open_session(http) -> str:
    body = {"tags": [], "user_metadata": None, "sdk_version": "0.38.0"}
    return http.post("/api/v1/create_session", json=body).json()["session_id"]


def open_model(http, session: str) -> str:
    body = {"session_id": session, "model_seq_id": 0, "base_model": MODEL}
    future = http.post("/api/v1/create_model", json={**body, "lora_config": {"rank": 4}})
    return result(http, future).json()["model_id"]


def result(http, posted: httpx.Response) -> httpx.Response:
    assert posted.status_code == 200, posted.text
    return http.post("/api/v1/retrieve_future", json={"request_id": posted.json()["request_id"]})


def batch(model: str, seq_id: int) -> bytes:
    datum = types.Datum(
        model_input=types.ModelInput.from_ints([1, 2]), loss_fn_inputs={"target_tokens": [2, 3]}
    )
    request = types.ForwardBackwardRequest(
        types.ForwardBackwardInput([datum], "cross_entropy"), model, seq_id
    )
    return forward_backward_request_to_proto(request).SerializeToString()


def train(http, model: str, seq_id: int) -> httpx.Response:
    return http.post("/api/v1/forward_backward", content=batch(model, seq_id))


def step(model: str, seq_id: int) -> dict:
    return {"model_id": model, "seq_id": seq_id, "adam_params": {"learning_rate": 0.1}}


def test_the_key_is_taken_as_a_header_or_a_bearer_token_and_asked_for_everywhere(http):
    bare = httpx.Client(base_url=http.base_url)
    for path in ("/api/v1/healthz", "/api/v1/no_such_thing", "/"):
        assert bare.get(path).status_code == 401
        assert bare.get(path, headers={"Authorization": "Bearer tml-other"}).status_code == 401
    for headers in ({"Authorization": f"Bearer {KEY}"}, {"X-API-Key": KEY}):
        assert bare.get("/api/v1/healthz", headers=headers).json() == {"status": "ok"}


def test_a_request_posted_many_times_at_once_acts_once(stub, http, model):
    stub[1].calls.clear()
    with ThreadPoolExecutor(8) as threads:
        posts = list(threads.map(lambda _: train(http, model, 1), range(16)))
    assert len({post.json()["request_id"] for post in posts}) == 1
    first, second = result(http, posts[0]), result(http, posts[1])
    assert first.headers["content-type"] == "application/x-protobuf"
    assert first.content == second.content
    assert len([call for call in stub[1].calls if call[0] == "run"]) == 1


def test_requests_posted_backwards_run_forwards(stub, http, model):
    stub[1].calls.clear()
    posts = [http.post("/api/v1/optim_step", json=step(model, 3))]
    posts += [train(http, model, seq_id) for seq_id in (2, 1)]
    for post in posts:
        assert "error" not in result(http, post).text
    assert [call[0] for call in stub[1].calls] == ["run", "step"]


def test_a_packed_body_is_unpacked(http, model):
    packed = zstandard.ZstdCompressor().compress(batch(model, 1))
    headers = {"Content-Encoding": "zstd", "Content-Type": "application/x-protobuf"}
    posted = http.post("/api/v1/forward_backward", content=packed, headers=headers)
    message = pb.ForwardBackwardOutput.FromString(result(http, posted).content)
    assert message.metrics["loss:sum"] > 0


def test_a_body_that_is_too_large_or_badly_packed_is_refused(http, model, monkeypatch):
    monkeypatch.setattr("sft.local.server.bodies.LARGEST_BODY", 1000)
    bomb = zstandard.ZstdCompressor().compress(b"0" * 10_000_000)
    for content, encoding, status in (
        (bomb, "zstd", 413),
        (b"0" * 1001, "identity", 413),
        (b"not zstd", "zstd", 422),
        (b"{}", "br", 422),
    ):
        headers = {"Content-Encoding": encoding}
        response = http.post("/api/v1/forward_backward", content=content, headers=headers)
        assert response.status_code == status, response.text
        assert response.json()["detail"]


def test_a_session_that_is_over_is_gone_for_its_heartbeat_and_its_models(http, session, model):
    finish = {"reason": {"type": "success"}, "detail": None}
    assert http.post(f"/api/v1/sessions/{session}/finish", json=finish).status_code == 200
    beat = http.post("/api/v1/session_heartbeat", json={"session_id": session})
    for response in (beat, train(http, model, 1)):
        assert response.status_code == 410
        assert "is not open here" in response.json()["detail"]


def test_a_session_without_heartbeats_is_released(tmp_path, monkeypatch):
    monkeypatch.setattr("sft.local.server.core.JANITOR_SECONDS", 0.05)
    now = [0.0]
    with serving_stub(tmp_path, session_timeout=300) as (url, core, engine):
        monkeypatch.setattr(core.sessions, "_clock", lambda: now[0])
        http = httpx.Client(base_url=url, headers={"X-API-Key": KEY}, timeout=60)
        silent, alive = (open_model(http, open_session(http)) for _ in range(2))
        waiting = http.post("/api/v1/optim_step", json=step(silent, 2))  # 1 never comes
        now[0] = 200.0
        beat = {"session_id": alive.split(":")[0]}
        assert http.post("/api/v1/session_heartbeat", json=beat).status_code == 200
        now[0] = 400.0
        assert "no heartbeat for" in result(http, waiting).json()["error"]
        for _ in range(1000):
            if silent not in engine.adapters:
                break
            time.sleep(0.05)
        assert list(engine.adapters) == [alive]
        assert http.post("/api/v1/session_heartbeat", json=beat).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "named"),
    [
        ("create_model", {"session_id": "x"}, 422, "model_seq_id: Field required"),
        ("create_session", [], 422, "not a CreateSessionRequest"),
        ("asample", {"prompt": {"chunks": []}, "sampling_params": {}}, 422, "sampling_session_id"),
        ("retrieve_future", {"request_id": "nobody:train:0:1"}, 410, "not known here"),
        ("get_info", {"model_id": "nobody:train:0"}, 410, "session nobody is not open"),
        ("optim_step", {"model_id": "nobody:train:0", "seq_id": 1, "adam_params": {}}, 410, "open"),
        ("weights_info", {"tinker_path": "tinker://a/b"}, 404, "expected tinker://RUN/weights"),
        ("weights_info", {"tinker_path": 3}, 422, "tinker_path"),
        (
            "save_weights_for_sampler",
            {"model_id": "a:train:0", "seq_id": 1},
            422,
            "expected a path",
        ),
        ("load_weights", {"path": "tinker://a/weights/b", "optimizer": True}, 422, "model_id"),
        ("no_such_thing", {}, 404, "does not serve POST /api/v1/no_such_thing"),
    ],
)
def test_a_senseless_request_gets_a_sentence(http, path, body, status, named):
    response = http.post(f"/api/v1/{path}", json=body)
    assert response.status_code == status, response.text
    assert named in response.json()["detail"]


def test_noise_never_breaks_the_service(http, model, capfd):
    """Bodies of random bytes, and good ones with random bytes in them, on every route."""
    noise = random.Random(0)
    good = [batch(model, 1), b'{"session_id":"a","model_seq_id":0,"path":"b","prompt":{}}', b""]
    posts = [
        route.path
        for route in _routes()
        if "POST" in route.methods and "{" not in route.path
    ]  # fmt: skip
    for path in posts:
        for number in range(30):
            body = bytearray(good[number % 3])
            for _ in range(noise.randint(0, 8)):
                body.insert(noise.randint(0, len(body)), noise.randint(0, 255))
            headers = {"Content-Encoding": "zstd"} if noise.random() < 0.1 else {}
            response = http.post(path, content=bytes(body), headers=headers)
            assert response.status_code < 500
            assert response.status_code != 400, response.text  # a bug of ours
    for path in ODD_PATHS:
        assert http.get(f"/api/v1/{path}").status_code in (200, 404, 422)
    assert http.delete("/api/v1/training_runs/..%2f/checkpoints/weights/..").status_code == 404
    assert "Traceback" not in capfd.readouterr().err
    assert http.get("/api/v1/healthz").status_code == 200


def _routes():
    from sft.local.server.core import Core
    from sft.local.server.http import make_app

    core = Core.__new__(Core)  # only its routes are looked at
    core.store = None
    return make_app(core, KEY).app.routes
