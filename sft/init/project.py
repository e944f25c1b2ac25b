"""What `python -m sft.init` writes."""

from __future__ import annotations

import json

EXPERIMENT = """\
# @package _global_
# What belongs together in an experiment, in one file. Train it, from the folder above:
#   python -m sft --config-dir conf experiment=first
# What is set on the command line counts more than this file:
#   python -m sft --config-dir conf experiment=first lr=3e-4 lora.rank=16
# What comes of it, without training: add --cfg job. Every key: python -m sft --help
defaults:
  - override /dataset: chats      # conf/dataset/chats.yaml
  - override /model: smollm2      # small enough for any machine; qwen3 is on hosted Tinker
  - override /schedule: cosine    # how the learning rate falls; or linear, constant, wsd

batch_size: 4
epochs: 4
eval_every: 4                     # held-out NLL every 4 steps
lora:
  rank: 8
# lr: 3e-4                        # without it the run finds one by published sweeps (lr=auto)
"""

DATASET = """\
# The data. A file, a folder or a pattern such as data/*.jsonl; what it is, its content says.
#   python -m sft.preview --config-dir conf dataset=chats    # as the model sees it
defaults:
  - keys@_here_: file

path: chats.jsonl                 # from the folder in which you start
eval_size: 4                      # so many conversations are held out, and never trained on
"""

SWEEP = """\
# @package _global_
# A sweep over two keys:
#   python -m sft --config-dir conf experiment=first --multirun sweep=rates
# Others: lr: tag(log, interval(1e-5, 3e-3)), with sampler: tpe and n_trials: 20
hydra:
  sweeper:
    params:
      lr: choice(3e-4, 1e-3)
      lora.rank: choice(4, 16)
"""

FILES = {
    "conf/experiment/first.yaml": EXPERIMENT,
    "conf/dataset/chats.yaml": DATASET,
    "conf/sweep/rates.yaml": SWEEP,
}

QUESTIONS = {
    "When does the library open?": "At nine in the morning, and at ten on Saturdays.",
    "When does the library close?": "At eight in the evening, and at two on Saturdays.",
    "Is the library open on Sundays?": "No, it is closed on Sundays.",
    "How many books may I borrow?": "Ten books at once.",
    "How long may I keep a book?": "Four weeks, and two more if nobody waits for it.",
    "What does a card cost?": "Nothing, if you live in the town.",
    "What if I return a book late?": "It costs ten cents a day.",
    "Can I read newspapers there?": "Yes, on the first floor.",
    "Is there a place to work?": "Yes, forty desks on the second floor.",
    "May I bring my dog?": "No, except for guide dogs.",
    "Can I borrow films?": "Yes, three at once, for one week.",
    "Where can I leave my bicycle?": "In front of the main door.",
}


def chats() -> str:
    """The example's data: a conversation a line."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]
        }
        for question, answer in QUESTIONS.items()
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)
