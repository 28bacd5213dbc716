"""Real training steps on the CPU, measured: what traces are held against. And whole runs of the embedded base."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from core.batches import IGNORED
from core.config import RunConfig, with_settings
from core.evaluate import answer_loss_sum
from core.memory.ledger import Ledger
from core.memory.measure import Mark, measure_step
from core.memory.setup import Setup
from core.memory.trace import EAGER_TOKENS
from core.methods import METHODS, attach, loading
from core.optimizers import make_optimizer
from core.train import train
from tests.gpu_models import random_model

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "llama_biased": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "qwen2": ("qwen2", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "mistral": ("mistral", {"num_key_value_heads": 2, "sliding_window": None}),
    "gemma": ("gemma", {"num_key_value_heads": 1, "head_dim": 32, "tie_word_embeddings": True}),
    "gpt2": ("gpt2", {}),
    "opt": ("opt", {}),
}


def config_of(family: str, *, width: int = 128, layers: int = 3, vocabulary: int = 1000) -> Any:
    """A small model of a family."""
    from transformers import CONFIG_MAPPING

    kind, more = FAMILIES[family]
    if kind == "gpt2":
        values = {"n_embd": width, "n_layer": layers, "n_head": 4, "n_positions": 1024}
    elif kind == "opt":
        values = {"hidden_size": width, "ffn_dim": 4 * width, "num_hidden_layers": layers, "num_attention_heads": 4,
                  "word_embed_proj_dim": width, "max_position_embeddings": 1024}  # fmt: skip
    else:
        values = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": layers,
                  "num_attention_heads": 4, "max_position_embeddings": 2048}  # fmt: skip
    config = CONFIG_MAPPING[kind](**values, vocab_size=vocabulary, **more)
    config._name_or_path = family
    return config


CPU = torch.device("cpu")


def measured(config: Any, setup: Setup, device: torch.device = CPU, steps: int = 1, model: Any = None) -> Ledger:
    """The ledger of a real step: the one after `steps`, when the optimizer's state exists.

    Args:
        model: the base, if it is made already.
    """
    if model is None:
        how = loading(setup.method, setup.precision, device.type)
        model = random_model(config, getattr(torch, how["dtype"]), torch.device(how["device"]))
    attached = attach(model, setup.method, setup.settings, keep_base=False, device=device)
    if device.type == "cpu" and setup.length <= EAGER_TOKENS:
        model.set_attn_implementation("eager")
    if setup.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    factors = attached.rate_factors()
    optimizer, _ = make_optimizer(
        setup.optimizer, trained, 1e-4, 0.0, [factors.get(name, 1.0) for name in attached.trainable_names()]
    )

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.randint(0, config.vocab_size, (setup.batch, setup.length))
        labels = torch.full_like(ids, IGNORED)
        places = torch.randperm(setup.batch * (setup.length - 1))[: setup.answer_tokens]
        labels[places // (setup.length - 1), 1 + places % (setup.length - 1)] = 7
        return ids.to(device), labels.to(device)

    def step(mark: Mark) -> None:
        batches = [batch() for _ in range(setup.accumulation)]
        for ids, labels in batches:
            mark("forward")
            with torch.autocast(device.type, torch.bfloat16) if setup.precision == "bfloat16" else nullcontext():
                part = answer_loss_sum(model, ids, labels) / setup.answer_tokens
            mark("backward")
            part.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0).item()
        mark("optimizer")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(steps):
        step(lambda part: None)
    _, ledger = measure_step(step, model, optimizer, device)
    return ledger


# --- whole runs of the embedded base ----------------------------------------------------------------------------------

# Settings of each method that no estimate ships for.
OTHER: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"rank": 4, "target_modules": "attention", "dropout": 0.1, "bias": "lora_only"},
    "qlora": {"quant_type": "int8"},
    "bitfit": {"biases": "q_proj,up_proj"},
    "dora": {"rank": 1, "dropout": 0.1},
    "rslora": {"rank_pattern": "q_proj=4"},
    "lora_plus": {"bias": "all"},
    "lora_fa": {"target_modules": "mlp"},
    "pissa": {"fast": True, "target_modules": "q_proj,v_proj"},
    "vera": {"target_modules": "attention", "dropout": 0.1},
    "ia3": {"target_modules": "q_proj,down_proj", "feedforward_modules": "down_proj"},
    "adapters": {"width": 8, "placement": "pfeiffer", "activation": "gelu"},
    "last_k": {"blocks": 1, "final_norm": False},
    "ln_tuning": {"norms": "input_layernorm"},
    "prompt_tuning": {"tokens": 7},
    "p_tuning": {"tokens": 9, "hidden": 64},
    "prefix_tuning": {"tokens": 5, "projection": 32},
}
MAIN = ("full", "lora", "qlora", "bitfit")
FORMATS = ("float32", "bfloat16")
Case = tuple[str, str, dict[str, Any]]  # method, precision, settings of method and loop


def grid() -> list[Case]:
    """Every method in both formats, with its default settings and with others; the main ones recomputed, too; and what
    the loop can do besides."""
    cases: list[Case] = []
    for method in METHODS:
        for precision in FORMATS:
            for settings in ({}, OTHER[method]) if OTHER[method] else ({},):
                cases.append((method, precision, settings))
                if method in MAIN:
                    cases.append((method, precision, {**settings, "gradient_checkpointing": True}))
    for precision in FORMATS:
        for settings in ({"accumulation": 3, "length_buckets": False}, {"optimizer": "adamw_8bit"}):
            cases += [(method, precision, settings) for method in ("full", "lora")]
    return cases


def run_of(case: Case, folder: Path, **loop: Any) -> Any:
    """The last event of a run of two steps on the json task."""
    method, precision, settings = case
    few = {"steps": 2, "train_examples": 64, "eval_items": 4, "skill_items": 0, "precision": precision}
    return list(train(with_settings(RunConfig(task="json", method=method), {**few, **settings, **loop}), folder))[-1]
