"""The adapter of a checkpoint, brought and checked."""

import http.server
import threading

import pytest

from sft.errors import BadInput
from sft.export import weights
from sft.export.__main__ import main


@pytest.fixture
def adapter(place, tmp_path):
    main(["run", str(tmp_path / "adapter")])
    return tmp_path / "adapter"


def rewrite(adapter, change):
    from safetensors.numpy import load_file, save_file

    tensors = load_file(adapter / weights.WEIGHTS)
    change(tensors)
    save_file(tensors, adapter / weights.WEIGHTS)


def test_a_torn_file_is_found(adapter):
    file = adapter / weights.WEIGHTS
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BadInput, match="not whole"):
        weights.check_adapter(adapter)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda tensors: tensors.pop(next(iter(tensors))), "no half"),
        (lambda tensors: next(iter(tensors.values())).fill(float("nan")), "not finite"),
        (lambda tensors: tensors.clear(), "no weights"),
    ],
)
def test_weights_that_cannot_be_right_are_found(adapter, change, said):
    rewrite(adapter, change)
    with pytest.raises(BadInput, match=said):
        weights.check_adapter(adapter)


def test_weights_in_bfloat16_are_taken(adapter):
    from safetensors.torch import load_file, save_file

    file = adapter / weights.WEIGHTS
    save_file({name: tensor.bfloat16() for name, tensor in load_file(file).items()}, file)
    assert weights.check_adapter(adapter) > 0


def test_another_rank_than_the_runs_is_found(adapter):
    with pytest.raises(BadInput, match="rank 4, the run has 8"):
        weights.check_adapter(adapter, 8)


def test_downloads_stay_inside_their_folder(tmp_path):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.txt").write_text("a")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path / "served"))

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        weights.fetch({"sub/a.txt": f"{url}/a.txt"}, tmp_path / "got")
        assert (tmp_path / "got" / "sub" / "a.txt").read_text() == "a"
        with pytest.raises(BadInput, match="outside the folder"):
            weights.fetch({"../a.txt": f"{url}/a.txt"}, tmp_path / "got")
        with pytest.raises(BadInput, match="download failed"):
            weights.fetch({"b": f"{url}/b"}, tmp_path / "got")
    finally:
        server.shutdown()
        server.server_close()
