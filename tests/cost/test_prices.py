"""Prices: the user's own, then the published ones, and what is unknown stays unknown."""

import pytest

from sft.config.compose import CONF, groups
from sft.cost import prices
from sft.cost.prices import FILE, OWN, Prices, dollars, in_use, published
from sft.cost.usage import KINDS, Usage
from sft.files import read_yaml
from sft.models.__main__ import shipped

LISTED = read_yaml(FILE)


@pytest.mark.parametrize("model", LISTED["models"])
def test_a_listed_model_has_prices_with_the_day_on_which_they_were_read(model):
    entry = LISTED["models"][model]
    rates = {kind: entry[kind] for kind in KINDS if kind in entry}
    assert set(entry) == {*rates, "read"} and entry["read"].startswith("2026-")
    assert all(isinstance(rate, float) and rate > 0 for rate in rates.values())
    assert rates["cached_prefill"] < rates["prefill"] < rates["sample"]


def test_the_list_is_no_config_group():
    assert FILE.parent == CONF and "prices" not in groups()


def test_every_shipped_config_of_hosted_tinker_is_of_a_listed_model():
    hosted = [f for f in (CONF / "model").glob("*.yaml") if "service: tinker" in f.read_text()]
    configs = {config: name for name, (config, _) in shipped().items()}
    assert len(hosted) > 10
    assert {configs[file.stem] for file in hosted} <= set(LISTED["models"])


def test_a_long_context_of_a_model_has_prices_of_its_own():
    short, long = published("Qwen/Qwen3.8-27B"), published("Qwen/Qwen3.8-27B:peft:262144")
    assert short.train < long.train


def test_the_users_own_prices_win_kind_by_kind():
    own = in_use({"train": 1.0, "sample": None}, "Qwen/Qwen3-8B", hosted=True)
    assert (own.train, own.sample) == (1.0, published("Qwen/Qwen3-8B").sample)
    assert own.source.startswith(f"{OWN}, else https://") and "(read 2026-" in own.source


def test_elsewhere_than_on_hosted_tinker_nothing_is_known_but_what_the_user_says():
    assert not in_use({}, "Qwen/Qwen3-8B", hosted=False)
    assert in_use({"train": 2.0}, "Qwen/Qwen3-8B", hosted=False) == Prices(2.0, source=OWN)


def test_a_model_that_is_not_listed_has_no_price():
    assert not in_use({}, "my/model", hosted=True)


def test_what_has_no_price_is_named_and_a_cached_prompt_costs_what_a_prompt_does():
    rates = Prices(train=2.0, prefill=1.0)
    usage = Usage(train=1_000_000, cached_prefill=1_000_000, sample=5)
    assert rates.missing(usage) == ["sample"] and rates.usd(usage) == 3.0


def test_todays_prices_are_read_as_the_provider_writes_them(httpserver_of):
    rows = [{"tinker_id": "a/b", "prefill": "$1.10", "cached_prefill": "$0.22",
             "sample": "$3,000", "train": "—", "context": "64K"}]  # fmt: skip
    with httpserver_of(rows) as url:
        found = prices.of_today("a/b", url)
        assert not prices.of_today("c/d", url)
    assert found.values() == {
        "train": None, "prefill": 1.1, "cached_prefill": 0.22, "sample": 3000.0
    }  # fmt: skip
    assert found.source.startswith(url)


def test_a_provider_that_cannot_be_reached_is_said_in_a_sentence():
    from sft.errors import BadInput

    with pytest.raises(BadInput, match="cost.refresh_prices: http://127.0.0.1:1/"):
        prices.of_today("a/b", "http://127.0.0.1:1/models.json")


@pytest.mark.parametrize(
    "usd, text", [(0.0, "$0.00"), (1234.5, "$1,234.50"), (0.05, "$0.0500"), (2e-6, "$0.000002")]
)
def test_an_amount_shows_as_many_digits_as_tell_something(usd, text):
    assert dollars(usd) == text


@pytest.fixture
def httpserver_of():
    """Serves one JSON value at every path."""
    import contextlib
    import json
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    @contextlib.contextmanager
    def serve(value):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(value).encode())

            def log_message(self, *arguments):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/models.json"
        finally:
            server.shutdown()

    return serve
