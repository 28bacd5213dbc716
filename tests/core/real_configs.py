"""Configurations of published models, written out from their public config.json files, with their exact sizes.

The sizes are those of the models as published; they are facts to test against, not computed here.
"""

from __future__ import annotations

from typing import Any


def _llama(
    hidden: int, ff: int, layers: int, heads: int, kv: int, vocab: int, *, tied: bool = False, **more: Any
) -> Any:
    return {
        "hidden_size": hidden, "intermediate_size": ff, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv, "vocab_size": vocab, "tie_word_embeddings": tied, **more,
    }  # fmt: skip


def _opt(hidden: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": hidden, "ffn_dim": 4 * hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "vocab_size": 50272, "word_embed_proj_dim": hidden, **more,
    }  # fmt: skip


# name -> (transformers' model_type, configuration, parameters)
REAL: dict[str, tuple[str, dict[str, Any], int]] = {
    "Llama-2-7B": ("llama", _llama(4096, 11008, 32, 32, 32, 32000), 6_738_415_616),
    "Llama-2-13B": ("llama", _llama(5120, 13824, 40, 40, 40, 32000), 13_015_864_320),
    "Llama-3.1-8B": ("llama", _llama(4096, 14336, 32, 32, 8, 128256), 8_030_261_248),
    "Llama-3.2-1B": ("llama", _llama(2048, 8192, 16, 32, 8, 128256, tied=True), 1_235_814_400),
    "Llama-3.2-3B": ("llama", _llama(3072, 8192, 28, 24, 8, 128256, tied=True, head_dim=128), 3_212_749_824),
    "Mistral-7B-v0.1": ("mistral", _llama(4096, 14336, 32, 32, 8, 32000), 7_241_732_096),
    "Qwen2.5-0.5B": ("qwen2", _llama(896, 4864, 24, 14, 2, 151936, tied=True), 494_032_768),
    "Qwen2.5-3B": ("qwen2", _llama(2048, 11008, 36, 16, 2, 151936, tied=True), 3_085_938_688),
    "Gemma-2B": ("gemma", _llama(2048, 16384, 18, 8, 1, 256000, tied=True, head_dim=256), 2_506_172_416),
    "Gemma-2-2B": ("gemma2", _llama(2304, 9216, 26, 8, 4, 256000, tied=True, head_dim=256), 2_614_341_888),
    "Phi-2": ("phi", _llama(2560, 10240, 32, 32, 32, 51200), 2_779_683_840),
    "GPT-2": (
        "gpt2", {"n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257, "n_positions": 1024}, 124_439_808,
    ),
    "OPT-125M": ("opt", _opt(768, 12, 12), 125_239_296),
    "OPT-350M": ("opt", _opt(1024, 24, 16, word_embed_proj_dim=512, do_layer_norm_before=False), 331_196_416),
    "OPT-6.7B": ("opt", _opt(4096, 32, 32), 6_658_473_984),
    "Pythia-160M": (
        "gpt_neox",
        {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
         "vocab_size": 50304, "tie_word_embeddings": False},
        162_322_944,
    ),
    "BLOOM-560M": ("bloom", {"hidden_size": 1024, "n_layer": 24, "n_head": 16, "vocab_size": 250880}, 559_214_592),
}  # fmt: skip


def config_of(name: str) -> Any:
    """The transformers configuration of a model in REAL."""
    from transformers import CONFIG_MAPPING

    model_type, values, _ = REAL[name]
    config = CONFIG_MAPPING[model_type](**values)
    config._name_or_path = name
    return config
