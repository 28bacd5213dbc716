"""HF PEFT's own configuration of each method, with the settings that are defaults here: the other side of the oracle
tests and of the benchmark."""

from __future__ import annotations

from typing import Any

# Where PEFT's tables of names differ from what the papers say, the names are given.
IA3_MODULES = {
    "llama": (["k_proj", "v_proj", "down_proj"], ["down_proj"]),
    "qwen2": (["k_proj", "v_proj", "down_proj"], ["down_proj"]),
    "gpt2": (["c_attn", "mlp.c_proj"], ["mlp.c_proj"]),
    "opt": (["k_proj", "v_proj", "fc2"], ["fc2"]),
}
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
    import peft

    task = {"task_type": "CAUSAL_LM"}
    lora = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"} | task
    makers: dict[str, Any] = {
        "lora": lambda: peft.LoraConfig(**lora),
        "qlora": lambda: peft.LoraConfig(**lora),
        "lora_plus": lambda: peft.LoraConfig(**lora),
        "rslora": lambda: peft.LoraConfig(**lora | {"r": 16, "lora_alpha": 8}, use_rslora=True),
        "dora": lambda: peft.LoraConfig(**lora, use_dora=True),
        "pissa": lambda: peft.LoraConfig(**lora | {"lora_alpha": 8}, init_lora_weights="pissa"),
        "vera": lambda: peft.VeraConfig(r=256, target_modules="all-linear", d_initial=0.1, **task),
        "ia3": lambda: peft.IA3Config(
            target_modules=IA3_MODULES[family][0], feedforward_modules=IA3_MODULES[family][1], **task
        ),
        "ln_tuning": lambda: peft.LNTuningConfig(target_modules=NORMS[family], **task),
        "prompt_tuning": lambda: peft.PromptTuningConfig(num_virtual_tokens=20, **task),
        "p_tuning": lambda: peft.PromptEncoderConfig(num_virtual_tokens=20, encoder_hidden_size=128, **task),
        "prefix_tuning": lambda: peft.PrefixTuningConfig(num_virtual_tokens=10, **task),
    }
    return makers[method]()
