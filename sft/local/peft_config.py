"""`adapter_config.json`: what PEFT needs to know to load an adapter's weights."""

from __future__ import annotations

from sft.local.engine_api import AdapterState

LORA_ALPHA = 32  # scale = alpha / rank at every rank, as the hosted service trains


def adapter_config(state: AdapterState) -> dict:
    """The configuration for the modules whose weights the state holds.

    A weight is named base_model.model.<path>.<module>.lora_A.weight; PEFT finds modules by the
    last part of their path.
    """
    modules = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in state.weights}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": state.base_model,
        "r": state.lora.rank,
        "lora_alpha": LORA_ALPHA,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted(modules),
    }
