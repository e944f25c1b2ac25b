"""`system.jsonl`: how busy the machine, this process and the local service are while a run trains.

One object a sample, with the names that MLflow's own monitor has, so that its UI shows them under
"System metrics". What is said of one process stands under `system/process/` (the harness) and
`system/service/` (the local service); its CPU is a share of the whole machine's, as MLflow's is.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sft.files import json_lines, replace_durably

if TYPE_CHECKING:
    import psutil

logger = logging.getLogger(__name__)

FILE = "system.jsonl"
PREFIX = "system/"
EVERY_SECONDS = 10.0
"""Between samples; a run that takes less has none."""
SAMPLES = 200
"""After so many, the time between two grows with the run: a day has a thousand."""
GPU = {
    "memory.used": "memory_usage_megabytes",
    "memory.total": "",
    "utilization.gpu": "utilization_percentage",
    "power.draw": "power_usage_watts",
}
"""What `nvidia-smi` is asked for, and what MLflow calls it."""
MEBIBYTE, MEGABYTE = 1 << 20, 1e6

Tell = Callable[[int, int, dict[str, float]], None]


class Sampler:
    """A thread that adds to `system.jsonl` of a run directory and tells of each row.

    `tell` takes its step (samples are counted from 0, through all lives of the run), its timestamp
    in ms and its values. `service` is the process id of the local service; None without one.
    """

    def __init__(self, directory: Path, tell: Tell, service: Callable[[], int | None]):
        self._file = directory / FILE
        self._tell = tell
        self._pids: dict[str, Callable[[], int | None]] = {
            "process": lambda: None,  # psutil's own word for this one
            "service": service,
        }
        self._known: dict[str, psutil.Process] = {}
        self._over = threading.Event()
        self._writing = threading.Lock()

    def start(self) -> None:
        threading.Thread(target=self._run, name="sft-system-metrics", daemon=True).start()

    def stop(self) -> None:
        """Nothing is written or told any more."""
        with self._writing:
            self._over.set()

    def _run(self) -> None:
        try:
            started = time.monotonic()
            step = self._rows_before()
            self._sample()  # a share of time is of that since the sample before
            while not self._over.wait(max(EVERY_SECONDS, (time.monotonic() - started) / SAMPLES)):
                self._write(step, self._sample())
                step += 1
        except Exception:  # a full disk, say: no reason to trouble the run
            logger.debug("system metrics end here", exc_info=True)

    def _rows_before(self) -> int:
        """How many rows an earlier life left; a last one that was cut short is taken away."""
        rows = json_lines(self._file) if self._file.exists() else []
        if rows:
            replace_durably(self._file, "".join(json.dumps(row) + "\n" for row in rows))
        return len(rows)

    def _write(self, step: int, values: dict[str, float]) -> None:
        timestamp = int(time.time() * 1000)
        with self._writing:
            if self._over.is_set():
                return
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "timestamp": timestamp, **values}) + "\n")
            self._tell(step, timestamp, values)

    def _sample(self) -> dict[str, float]:
        import psutil

        memory = psutil.virtual_memory()
        found = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / MEGABYTE,
            "system_memory_usage_percentage": memory.used / memory.total * 100,
        }
        for name, pid in self._pids.items():
            try:
                found |= self._of_process(name, pid())
            except psutil.Error:  # it has ended
                self._known.pop(name, None)
        return {f"{PREFIX}{name}": round(value, 1) for name, value in (found | gpus()).items()}

    def _of_process(self, name: str, pid: int | None) -> dict[str, float]:
        """CPU and memory of one process; nothing when it is seen for the first time."""
        import psutil

        if name == "service" and pid is None:
            return {}
        process = self._known.get(name)
        if process is None or pid not in (None, process.pid):
            process = self._known[name] = psutil.Process(pid)
            process.cpu_percent()
            return {}
        return {
            f"{name}/cpu_utilization_percentage": process.cpu_percent() / (psutil.cpu_count() or 1),
            f"{name}/memory_usage_megabytes": process.memory_info().rss / MEGABYTE,
        }


def gpus() -> dict[str, float]:
    """What `nvidia-smi` says of each GPU; nothing without one."""
    if (command := shutil.which("nvidia-smi")) is None:
        return {}
    words = [command, f"--query-gpu={','.join(GPU)}", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(words, capture_output=True, text=True, timeout=EVERY_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    found = {}
    for index, line in enumerate(said.stdout.splitlines() if said.returncode == 0 else ()):
        values = dict(zip(GPU, map(_number, line.split(",")), strict=False))
        used, total = values.get("memory.used"), values.get("memory.total")
        if used is not None:
            values["memory.used"] = used * MEBIBYTE / MEGABYTE
        for asked, name in GPU.items():
            if name and (value := values.get(asked)) is not None:
                found[f"gpu_{index}_{name}"] = value
        if used is not None and total:
            found[f"gpu_{index}_memory_usage_percentage"] = used / total * 100
    return found


def _number(text: str) -> float | None:
    """`[N/A]` is none."""
    try:
        return float(text)
    except ValueError:
        return None
