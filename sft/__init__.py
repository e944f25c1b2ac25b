"""Supervised fine-tuning of language models with LoRA through the Tinker API: a map.

What is typed or imported lies here at the top:

    train, types, datasets, renderers, evaluators, hooks    the Python API
    __main__, sample, resume, reproduce, runs,
    compare, preview, publish, promote, ui                  the commands
    chat, cost, doctor, export, init, models                the same, in folders of their parts
    errors, files, keys, secrets                            what every folder may use

Everything else has a folder, and folders import downwards only:

    command/      what commands share: bad input, signals, starting a run
    display/      the terminal, tables, charts, pages
    past/         earlier runs: finding, trusting, comparing them
    tracking/     the view of a run in MLflow, and other trackers
    run/          the training loop, and its calls of the SDK
    config/       the schema of every key, composing, the saved config, `train.Config`
    evaluation/   what a run measures beside training: held-out NLL, sampled answers
    record/       the run directory: metrics, checkpoints, what a run was made with
    data/         from a file or the Hub to conversations
    tokens/       from tokens to datums: cache, pool, tables
    rendering/    from a conversation to tokens, and which of them are trained
    models/       the demo model, tokenizers, sizes of adapters, merging, GGUF
    cost/         prices, the estimate before a run, the meter during it, budgets
    prior/        what published sweeps say of learning rate and rank, and `lr=auto`
    schedules/    the learning rate over the steps of a run
    losses/       what a step minimises
    service/      the local service as a child process, and other servers' habits
    chat/         several turns with one run or two
    export/       a checkpoint as files for other programs, and its model card
    doctor/       what a service can do, as a table
    local/        the local Tinker service itself; imports nothing of the harness

More: docs/architecture.md; how to add something: CONTRIBUTING.md.
"""
