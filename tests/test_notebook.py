"""docs/notebook.ipynb, run from its first cell to its last."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent / "docs/notebook.ipynb"


@pytest.mark.slow
def test_the_notebook_trains_compares_and_plots(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    said = "".join(output.get("text", "") for output in outputs)
    assert "\x1b" not in said  # a cell is no terminal: what redraws lines there shows as garbage
    assert "large-rate: 16 steps in" in said and "eval/nll: B against A: lower by" in said
    assert [o for o in outputs if "image/png" in o.get("data", {})]


def test_the_notebook_is_committed_without_outputs():
    import json

    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells)


def test_a_cell_with_bad_input_shows_one_sentence(tmp_path):
    code = "from sft.errors import BadInput\nraise BadInput('lr: -1 is below 0')"
    done = subprocess.run(
        [sys.executable, "-m", "IPython", "--no-banner", "--colors=NoColor", "-c", code],
        env=os.environ | {"IPYTHONDIR": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == "BadInput: lr: -1 is below 0\n"
