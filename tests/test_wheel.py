"""The project as others install it: a wheel takes no name that a project of theirs may have."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.sweeps.conftest import chats  # noqa: F401 - a fixture

ROOT = Path(__file__).parent.parent
PARTS = ("conf", "hydra_plugins", "sft", "sweeps")
FILES = ("pyproject.toml", "README.md", "LICENSE", "NOTICE")


@pytest.fixture
def project(tmp_path):
    """A folder of somebody else's with packages `sweeps` and `conf`, which nothing may import."""
    for name in ("sweeps", "conf"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not the harness')")
    return tmp_path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of this checkout, made from a copy of it, so that no build/ is left here."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in PARTS:
        shutil.copytree(ROOT / name, folder / name, symlinks=True)
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    build = "wheel --quiet --no-deps --no-build-isolation --wheel-dir dist ."
    subprocess.run([sys.executable, "-m", "pip", *build.split()], cwd=folder, check=True)
    return next((folder / "dist").glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """Runs Python where the wheel is installed, beside the packages that it needs."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))
    with ZipFile(wheel) as files:
        files.extractall(site)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*arguments, cwd):
        done = subprocess.run(
            [folder / "bin/python", *arguments],
            cwd=cwd, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def of_a_tiny_run(model, data):
    return [
        "model=folder", f"model.name={model}", f"dataset.path={data}", "dataset.eval_size=2",
        "batch_size=2", "max_length=64", "lora.rank=2", "evaluators=none", "tracking=none",
        "max_steps=2",
    ]  # fmt: skip


def test_a_checkout_is_not_misled_by_a_projects_own_sweeps_and_conf(project):
    done = subprocess.run(
        [sys.executable, "-m", "sft", "--cfg", "hydra", "-p", "hydra.sweeper"],
        cwd=project, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "SftSweeper" in done.stdout


@pytest.mark.slow
def test_a_wheel_has_two_names_and_every_file_of_the_checkout(wheel):
    names = {Path(name) for name in ZipFile(wheel).namelist()}
    tops = {name.parts[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"sft", "hydra_plugins"}
    here = {
        file.relative_to(ROOT)
        for folder in ("sft", "sft/conf", "sft/sweeps", "hydra_plugins")
        for file in (ROOT / folder).rglob("*")
        if file.suffix in (".py", ".yaml", ".html", ".json", ".typed")
    }
    assert here - names == set()


@pytest.mark.slow
def test_a_wheel_runs_in_a_project_with_sweeps_and_conf_of_its_own(
    python,
    project,
    tiny_model,
    chats,  # noqa: F811
):
    assert "sweeps.report" in python("-m", "sft", "--help", cwd=project)
    words = of_a_tiny_run(tiny_model, chats)
    python("-m", "sft", *words, "run_dir=one", cwd=project)
    python("-m", "sft", "--multirun", *words, "lr=1e-3,1e-2", cwd=project)
    assert "one" in python("-m", "sft", "runs", ".", cwd=project)
    assert len(list(project.glob("outputs/sweeps/*/*/metrics.jsonl"))) == 2
