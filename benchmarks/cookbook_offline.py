"""Runs a recipe of tinker-cookbook, as it is, on data of this machine (benchmarks/cookbook.py).

    PYTHON cookbook_offline.py SETTINGS.json MODULE [name=value ...]

Of the cookbook's own environment: it imports nothing of this project. There is no Hub here, so
`datasets.load_dataset` reads tables that SETTINGS names, and the model's tokenizer comes from its
folder, by the cookbook's own register of tokenizers. Nothing else is touched.
"""

import json
import runpy
import sys
from pathlib import Path

import datasets
from tinker_cookbook.tokenizer_utils import register_tokenizer
from transformers import AutoTokenizer


def main(settings: dict, module: str) -> None:
    def load_dataset(path, *args, split=None, **kwargs):
        tables = {name: datasets.Dataset.from_list(rows) for name, rows in data[path].items()}
        return datasets.DatasetDict(tables) if split is None else tables[split]

    data = settings["data"]
    datasets.load_dataset = load_dataset
    register_tokenizer(settings["model"], lambda: AutoTokenizer.from_pretrained(settings["folder"]))
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _, settings_file, module, *words = sys.argv
    sys.argv = [module, *words]
    main(json.loads(Path(settings_file).read_text()), module)
