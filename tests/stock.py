"""HF PEFT's own configuration of each method, with the settings that are defaults here: the other side of the oracle
tests and of the benchmark."""

from __future__ import annotations

from typing import Any

from core.export import peft_config as ours

# What IA3 scales; PEFT's own table differs from the paper here and there.
IA3_MODULES = {
    "llama": ["k_proj", "v_proj", "down_proj"],
    "qwen2": ["k_proj", "v_proj", "down_proj"],
    "gpt2": ["c_attn", "mlp.c_proj"],
    "opt": ["k_proj", "v_proj", "fc2"],
}
# Where all norms train, PEFT wants their names.
NORMS = {
    "llama": ["input_layernorm", "post_attention_layernorm", "norm"],
    "qwen2": ["input_layernorm", "post_attention_layernorm", "norm"],
    "gpt2": ["ln_1", "ln_2", "ln_f"],
    "opt": ["self_attn_layer_norm", "final_layer_norm"],
}


def peft_config(method: str, family: str) -> Any:
    """PEFT's configuration for our defaults of a method.

    Args:
        family: the model type, for methods whose modules go by name.

    Raises:
        KeyError: PEFT does not have the method.
    """
    return ours.peft_config(
        method, find=lambda _, names: [n for n in names if n in IA3_MODULES[family]], norms=NORMS[family]
    )
