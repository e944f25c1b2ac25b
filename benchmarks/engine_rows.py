"""What benchmarks/engine.py measures, one function a process: prints one JSON object.

    python -m benchmarks.engine_rows engine '{"batch": 8, "rank": 16}'

Data: conversations of three questions and answers of the demo data each (about 250 tokens; the
answers are trained on), the same for every row.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

WARM_UP = 1  # steps before the ones that count
RATE = 1e-4
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PRODUCTS = 40  # in one turn of the limit, about 2 s


def conversations(count: int) -> list[tuple[list[int], list[int]]]:
    """Token ids, and for each whether it is of an answer, of `count` conversations."""
    import importlib.util

    from tokenizers import Tokenizer

    from sft.models import demo

    package = Path(importlib.util.find_spec("zaragoza_construction_faq").origin).parent
    lines = (package / "data/faq-en-sharegpt.jsonl").read_text().splitlines()
    pairs = [[part["value"] for part in json.loads(line)["conversations"][:2]] for line in lines]
    encode = Tokenizer.from_file(str(demo.folder() / "tokenizer.json")).encode
    made = []
    for index in range(count):
        tokens, answers = [], []
        for pair in range(3):
            question, answer = pairs[(3 * index + pair) % len(pairs)]
            asked = encode(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n").ids
            answered = encode(f"{answer}<|im_end|>\n").ids
            tokens += asked + answered
            answers += [0] * len(asked) + [1] * len(answered)
        made.append((tokens, answers))
    return made


def load_engine():
    from sft.local.engine.engine import TorchEngine
    from sft.models import demo

    return TorchEngine({"demo": str(demo.folder())})


def batch(index: int, size: int) -> list:
    """Batch `index` as the engine takes it."""
    import numpy as np

    from sft.local.engine_api import TrainingSequence

    chosen = conversations((index + 1) * size)[-size:]
    return [
        TrainingSequence(
            np.array(tokens[:-1]), np.array(tokens[1:]), np.array(answers[1:], np.float32)
        )
        for tokens, answers in chosen
    ]


def counts(data: list) -> tuple[int, int]:
    """All tokens and trained tokens of a batch."""
    return sum(len(d.tokens) for d in data), sum(int((d.weights != 0).sum()) for d in data)


def my_turn() -> None:
    """Wait until benchmarks/engine.py says that it is this process's turn to step."""
    print(json.dumps({"ready": True}), flush=True)
    sys.stdin.readline()


class Step:
    """Wall and processor seconds of one step, said when it ends.

    On a machine that is shared the processor's seconds are the steadier ones.
    """

    def __init__(self):
        self._wall, self._processor = time.perf_counter(), time.process_time()

    def end(self) -> None:
        self.wall = time.perf_counter() - self._wall
        self.processor = time.process_time() - self._processor
        print(json.dumps({"seconds": self.wall, "processor": self.processor}), flush=True)


def summary(sizes: list[tuple[int, int]], steps: list[Step]) -> dict:
    """Medians after the first step; `sizes` are all and trained tokens of each step."""
    pairs = list(zip(sizes, steps, strict=True))[WARM_UP:]
    return {
        "tokens/s": median(tokens / step.wall for (tokens, _), step in pairs),
        "trained/s": median(trained / step.wall for (_, trained), step in pairs),
        "tokens/processor s": median(tokens / step.processor for (tokens, _), step in pairs),
    }


def limit(turns: int) -> dict:
    """GFLOP/s of matrix products with all cores, in the dtype that the engine picks; parameters."""
    import torch

    engine = load_engine()
    base = engine._base("demo")
    size = 2048
    a, b = (torch.randn(size, size).to(base.dtype) for _ in range(2))
    steps = []
    for _ in range(turns):
        my_turn()
        steps.append(Step())
        for _ in range(PRODUCTS):
            a @ b
        steps[-1].end()
    operations = PRODUCTS * 2 * size**3 / 1e9
    modules = [module for linear in base.linears for module in linear.modules]
    parameters = sum(module.inputs * module.outputs for module in modules)
    return {
        "gflops": operations / median(step.wall for step in steps[WARM_UP:]),
        "gflop/processor s": operations / median(step.processor for step in steps[WARM_UP:]),
        "parameters": parameters,
        "dtype": str(base.dtype).removeprefix("torch."),
    }


def engine(batch_size: int, rank: int, unembed: bool, steps: int) -> dict:
    """One run alone: forward_backward and optimizer step together."""
    from sft.local.engine_api import AdamStep, LoraSpec, Work

    served = load_engine()
    served.create_adapter("run", "demo", LoraSpec(rank, seed=0, train_unembed=unembed))
    sizes, done = [], []
    for step in range(WARM_UP + steps):
        data = batch(step, batch_size)
        my_turn()
        done.append(Step())
        served.run([Work("run", data, backward=True)], [AdamStep("run", RATE)])
        done[-1].end()
        sizes.append(counts(data))
    return summary(sizes, done)


def trl(batch_size: int, rank: int, steps: int) -> dict:
    """TRL's SFTTrainer with peft on the same batches, in the engine's dtype."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from sft.local.engine.models import pick_dtype
    from sft.models import demo

    folder = demo.folder()
    dtype = pick_dtype("auto", torch.device("cpu"))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    total = WARM_UP + steps
    data = conversations(batch_size * total)
    done: list[Step] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *arguments, **_):
            my_turn()
            done.append(Step())

        def on_step_end(self, *arguments, **_):
            done[-1].end()

    with tempfile.TemporaryDirectory() as output:
        trainer = SFTTrainer(
            model,
            args=SFTConfig(
                output, per_device_train_batch_size=batch_size, max_steps=total, use_cpu=True,
                bf16=dtype == torch.bfloat16, learning_rate=RATE, lr_scheduler_type="constant",
                gradient_checkpointing=False, report_to="none",
                save_strategy="no", logging_strategy="no", max_length=None, shuffle_dataset=False,
                dataset_kwargs={"skip_prepare_dataset": True}, disable_tqdm=True,
                train_sampling_strategy="sequential",
            ),
            train_dataset=Dataset.from_list(
                [
                    {
                        "input_ids": tokens,
                        "labels": [t if a else -100 for t, a in zip(tokens, answers, strict=True)],
                    }
                    for tokens, answers in data
                ]
            ),
            processing_class=AutoTokenizer.from_pretrained(folder),
            peft_config=LoraConfig(
                r=rank, lora_alpha=32, task_type="CAUSAL_LM",
                target_modules=TARGETS,
            ),
            callbacks=[Clock()],
        )  # fmt: skip
        trainer.train()
    return summary([counts(batch(step, batch_size)) for step in range(total)], done)


def runs(count: int, batch_size: int, rank: int, steps: int) -> dict:
    """`count` runs on one service: all in each cycle, and the same one after another."""
    from sft.local.engine_api import AdamStep, LoraSpec, Work

    served = load_engine()
    for run in range(count):
        served.create_adapter(f"{run}", "demo", LoraSpec(rank, seed=run))
    together, apart, processor = [], [], []
    for step in range(1 + steps):
        work = [
            Work(f"{run}", batch(step * count + run, batch_size), backward=True)
            for run in range(count)
        ]
        start, before = time.perf_counter(), time.process_time()
        served.run(work, [AdamStep(one.model_id, RATE) for one in work])
        middle = time.perf_counter()
        processor.append(time.process_time() - before)
        together.append(middle - start)
        if count == 1:  # together and apart are the same
            apart.append(middle - start)
            continue
        for one in work:
            served.run([one], [AdamStep(one.model_id, RATE)])
        apart.append(time.perf_counter() - middle)
    return {
        "together": median(together[1:]),
        "apart": median(apart[1:]),
        "processor": median(processor[1:]),
        "tokens": sum(counts(one.sequences)[0] for one in work),
    }


def adapters(count: int, batch_size: int, rank: int, steps: int) -> dict:
    """`count` runs in each cycle, all on the same batches as the trials of a sweep are: for the
    memory alone."""
    from sft.local.engine_api import AdamStep, LoraSpec, Work

    served = load_engine()
    for run in range(count):
        served.create_adapter(f"{run}", "demo", LoraSpec(rank, seed=run))
    for step in range(WARM_UP + steps):
        data = batch(step, batch_size)
        work = [Work(f"{run}", data, backward=True) for run in range(count)]
        served.run(work, [AdamStep(one.model_id, RATE) for one in work])
    return {}


def start_up() -> dict:
    """Seconds from the start of `python -m sft.local` until it answers."""
    from sft.models import demo

    demo.folder()
    seconds = []
    for _ in range(5):
        with tempfile.TemporaryDirectory() as root:
            command = [sys.executable, "-m", "sft.local", "--root", root,
                       "--model", f"demo={demo.folder()}"]  # fmt: skip
            start = time.perf_counter()
            server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            server.stdout.readline()  # it says its address once it listens
            seconds.append(time.perf_counter() - start)
            server.terminate()
            server.wait()
    return {"seconds": median(seconds)}


def first_step(batch_size: int, rank: int, steps: int) -> dict:
    """Seconds of a token in a process's first step against the median of those after it."""
    from sft.local.engine_api import AdamStep, LoraSpec, Work

    served = load_engine()
    served.create_adapter("run", "demo", LoraSpec(rank, seed=0))
    seconds = []
    for step in range(1 + steps):
        data = batch(step, batch_size)
        start = time.perf_counter()
        served.run([Work("run", data, backward=True)], [AdamStep("run", RATE)])
        seconds.append((time.perf_counter() - start) / counts(data)[0])
    return {"first/later": seconds[0] / median(seconds[1:])}


def sampled_rates(count: int, tokens: int, turns: int, ways: dict[str, Callable]) -> dict:
    """Tokens per second of base model and adapter in each turn; medians without those to warm up.

    `ways` continue `count` prompts by `tokens` tokens each.
    """
    rates: dict[str, list[float]] = {which: [] for which in ways}
    for _ in range(turns):
        my_turn()
        for which, way in ways.items():
            start = time.perf_counter()
            way()
            rates[which].append(count * tokens / (time.perf_counter() - start))
        print(json.dumps({which: all_turns[-1] for which, all_turns in rates.items()}), flush=True)
    return {which: median(all_turns[WARM_UP:]) for which, all_turns in rates.items()}


def sampling(count: int, tokens: int, prompt: int, rank: int, turns: int) -> dict:
    """Greedy continuations of `count` prompts at once, by the engine."""
    from sft.local.engine_api import LoraSpec, SampleWork

    served = load_engine()
    served.create_adapter("run", "demo", LoraSpec(rank, seed=0))
    served.add_sampler("base", "demo", None)
    served.add_sampler("adapter", "demo", served.state("run", optimizer=False))
    prompts = [data[0][:prompt] for data in conversations(count)]

    def of(sampler: str) -> Callable:
        return lambda: served.sample(
            [SampleWork(sampler, one, 1, tokens, 0.0, stop_at_eos=False) for one in prompts]
        )

    return sampled_rates(count, tokens, turns, {which: of(which) for which in ("base", "adapter")})


def generate(count: int, tokens: int, prompt: int, rank: int, turns: int) -> dict:
    """The same by transformers.generate, in one batch; base model, and with peft."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from sft.local.engine.models import pick_dtype
    from sft.models import demo

    dtype = pick_dtype("auto", torch.device("cpu"))
    base, adapted = (
        AutoModelForCausalLM.from_pretrained(demo.folder(), dtype=dtype) for _ in range(2)
    )
    lora = LoraConfig(r=rank, lora_alpha=32, target_modules=[*TARGETS, "lm_head"])
    ids = torch.tensor([data[0][:prompt] for data in conversations(count)])

    def of(model: torch.nn.Module) -> Callable:
        return lambda: model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens,
            min_new_tokens=tokens, do_sample=False,
        )  # fmt: skip

    ways = {"base": of(base), "adapter": of(get_peft_model(adapted, lora))}
    return sampled_rates(count, tokens, turns, ways)


def peak_memory() -> float:
    """Largest resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


MEASURES = {
    measure.__name__: measure
    for measure in (limit, engine, trl, runs, adapters, start_up, first_step, sampling, generate)
}


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    row = MEASURES[sys.argv[1]](**json.loads(sys.argv[2]))
    print(json.dumps(row | {"peak MB": peak_memory()}))
