"""How busy the machine and the processes of a run are: written first, told afterwards."""

import json
import subprocess
import sys
import time

import psutil
import pytest

from sft.record import system_metrics
from sft.record.system_metrics import FILE, Sampler, gpus
from sft.service import child

MACHINE = {
    "system/cpu_utilization_percentage",
    "system/system_memory_usage_megabytes",
    "system/system_memory_usage_percentage",
}
"""As MLflow's own monitor names them."""


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(system_metrics, "EVERY_SECONDS", 0.05)
    monkeypatch.setattr(system_metrics, "gpus", dict)


def sampled(directory, count, service=None):
    """The rows that a sampler tells of, `count` of them."""
    told = []
    sampler = Sampler(directory, lambda *row: told.append(row), lambda: service)
    sampler.start()
    deadline = time.monotonic() + 60
    while len(told) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    sampler.stop()
    return told


def written(directory):
    rows = [json.loads(line) for line in (directory / FILE).read_text().splitlines()]
    return [(row.pop("step"), row.pop("timestamp"), row) for row in rows]


def test_each_sample_is_on_disk_as_it_is_told_and_a_resumed_run_counts_on(often, tmp_path):
    told = sampled(tmp_path, 2)
    assert written(tmp_path) == told and [row[0] for row in told] == list(range(len(told)))
    for _, timestamp, values in told:
        assert abs(timestamp / 1000 - time.time()) < 60 and values.keys() > MACHINE
        assert 0 <= values["system/cpu_utilization_percentage"] <= 100
        assert values["system/process/memory_usage_megabytes"] > 10
    with (tmp_path / FILE).open("a") as file:
        file.write('{"step": 9, "time')  # a crash
    again = sampled(tmp_path, 1)
    assert again[0][0] == len(told) and written(tmp_path) == told + again


def test_nothing_is_written_once_it_was_stopped_or_before_the_first_interval(tmp_path):
    sampler = Sampler(tmp_path, lambda *row: None, lambda: None)
    sampler.start()
    time.sleep(0.3)
    sampler.stop()
    assert not (tmp_path / FILE).exists()


def test_the_service_is_measured_as_long_as_it_lives(often, tmp_path):
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        rows = [values for _, _, values in sampled(tmp_path, 8, busy.pid)]
        # On a busy machine it may get no time between two samples, but not between all.
        assert max(row["system/service/cpu_utilization_percentage"] for row in rows) > 0
        assert rows[-1]["system/service/memory_usage_megabytes"] > 1
    finally:
        busy.kill()
        busy.wait()
    values = sampled(tmp_path, 2, busy.pid)[-1][2]
    assert values.keys() > MACHINE and not any("service" in name for name in values)


def test_the_local_service_of_this_process_is_known_by_its_url(local_service):
    assert "sft.local" in psutil.Process(child.pid(local_service)).cmdline()
    assert child.pid("http://127.0.0.1:9") is None and child.pid(None) is None


def test_gpus_are_asked_for_where_there_is_a_driver(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus() == {}
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\necho '1000, 4000, 50, 120.5'\necho '0, 4000, [N/A], [N/A]'\n")
    script.chmod(0o755)
    assert gpus() == {
        "gpu_0_memory_usage_megabytes": 1048.576,
        "gpu_0_utilization_percentage": 50.0,
        "gpu_0_power_usage_watts": 120.5,
        "gpu_0_memory_usage_percentage": 25.0,
        "gpu_1_memory_usage_megabytes": 0.0,
        "gpu_1_memory_usage_percentage": 0.0,
    }
    script.write_text("#!/bin/sh\necho 'no devices were found'\nexit 6\n")
    assert gpus() == {}
