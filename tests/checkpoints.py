"""Tiny checkpoints of real architectures, written into a folder: what the tests train, load and save.

Weights are random (seeded), the tokenizer is a byte-level BPE trained on the spot. Everything is as
`save_pretrained` writes it, so loading takes the same path as for a real model. Nothing is downloaded.

    folder = write("gpt2", tmp_path)
    folder = write_encoder("bert", tmp_path)
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

VOCABULARY = 384

# Chat templates as the families have them, in short form. What matters is their habits: a header per turn (Llama 3),
# brackets and no generation prompt (Mistral), a default system text (Qwen2), no system role at all (Gemma).
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% set ns = namespace(system='') %}{% for m in messages %}"
    "{% if m.role == 'system' %}{% set ns.system = m.content + '\n\n' %}"
    "{% elif m.role == 'user' %}{{ '[INST] ' + ns.system + m.content + ' [/INST]' }}{% set ns.system = '' %}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
QWEN2 = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + (m.content | trim) "
    "+ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)

# family -> (config class, config, chat template, special tokens: bos, eos, pad, then others)
_SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_GROUPED = _SHAPE | {"num_key_value_heads": 2, "max_position_embeddings": 256}
_FAMILIES: dict[str, tuple[str, dict[str, Any], str | None, tuple[str | None, ...]]] = {
    "llama": (
        "LlamaConfig", _GROUPED, LLAMA3,
        ("<|begin_of_text|>", "<|eot_id|>", None, "<|start_header_id|>", "<|end_header_id|>"),
    ),
    "llama_biased": (
        "LlamaConfig", _GROUPED | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}, LLAMA3,
        ("<|begin_of_text|>", "<|eot_id|>", "<|pad|>", "<|start_header_id|>", "<|end_header_id|>"),
    ),
    "gpt2": (
        "GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}, None,
        ("<|endoftext|>", "<|endoftext|>", None),
    ),
    "opt": (
        "OPTConfig",
        {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "max_position_embeddings": 256, "word_embed_proj_dim": 32},
        None, ("</s>", "</s>", "<pad>"),
    ),
    "qwen2": (
        "Qwen2Config", _GROUPED | {"tie_word_embeddings": True}, QWEN2,
        (None, "<|im_end|>", "<|endoftext|>", "<|im_start|>"),
    ),
    "mistral": ("MistralConfig", _GROUPED | {"sliding_window": None}, MISTRAL, ("<s>", "</s>", None)),
    "gemma": (
        "GemmaConfig", _GROUPED | {"head_dim": 8}, GEMMA,
        ("<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>"),
    ),
}  # fmt: skip
FAMILIES: tuple[str, ...] = tuple(_FAMILIES)

# family -> (config class, config, special tokens: unknown, first, between and last, pad, mask). Small as above.
_ROW = _SHAPE | {"max_position_embeddings": 128}
_BERT = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
_ROBERTA = ("<unk>", "<s>", "</s>", "<pad>", "<mask>")
_ENCODERS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "bert": ("BertConfig", _ROW, _BERT),
    "roberta": ("RobertaConfig", _ROW | {"max_position_embeddings": 132, "type_vocab_size": 1}, _ROBERTA),
    "distilbert": (
        "DistilBertConfig",
        {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 128}, _BERT,
    ),
    "electra": ("ElectraConfig", _ROW | {"embedding_size": 16}, _BERT),
    "albert": ("AlbertConfig", _ROW | {"embedding_size": 16}, _BERT),
    "deberta-v2": (
        "DebertaV2Config",
        _ROW | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16,
                "norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False,
                "type_vocab_size": 0}, _BERT,
    ),
    "modernbert": ("ModernBertConfig", _ROW | {"global_attn_every_n_layers": 2, "local_attention": 16}, _BERT),
}  # fmt: skip
ENCODERS: tuple[str, ...] = tuple(_ENCODERS)

_TEXT = (
    "What is the job of Ana? Ana is a baker and lives in Lyon. Who owns a cat? Ben owns a grey cat.",
    "The answer to the question is number 12. 3 + 4 = 7; 25 + 17 = 42. Is the film good? Yes, it was a joy.",
    '{"name": "Ana", "city": "Lyon", "pet": "cat"} Write it as an object, please. Speak plainly about stones.',
    "### Question: ### Answer: You are a helpful assistant. user assistant system model number quartz",
)


@lru_cache
def _bpe(special: tuple[str, ...], begin: str | None, words: str | None) -> str:
    """A byte-level BPE of `VOCABULARY` tokens as JSON.

    Args:
        begin: a token it writes before every text.
        words: regular expression that splits a text into words (None: GPT-2's); with it texts are normalised to NFC.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if words is not None:
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(words), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=list(special), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(_TEXT * 8, trainer)
    if begin is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))]
        )
    return tokenizer.to_str()


def make_tokenizer(family: str) -> Any:
    """The family's tokenizer, with its special tokens and chat template."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    _, _, chat, (bos, eos, pad, *others) = _FAMILIES[family]
    special = tuple(dict.fromkeys(t for t in (bos, eos, pad, *others) if t is not None))
    begin = bos if family not in ("gpt2", "qwen2") else None
    words = None
    if family == "qwen2":  # transformers rebuilds this family's tokenizer with this expression, whatever is saved
        from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX as words
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_bpe(special, begin, words)), bos_token=bos, eos_token=eos, pad_token=pad,
        extra_special_tokens=[t for t in others if t is not None], chat_template=chat, model_max_length=256,
    )  # fmt: skip


def make_config(family: str, **changes: Any) -> Any:
    """The family's configuration, with the tokenizer's special ids; `changes` override fields."""
    import transformers

    name, values, _, _ = _FAMILIES[family]
    return getattr(transformers, name)(**{**values, **_numbers(family), **changes})


@lru_cache
def _numbers(family: str) -> dict[str, Any]:
    """What a configuration takes from the family's tokenizer: the size of the vocabulary and the special ids."""
    tokenizer = make_tokenizer(family)
    ids = {f"{t}_token_id": getattr(tokenizer, f"{t}_token_id") for t in ("bos", "eos", "pad")}
    return {"vocab_size": len(tokenizer), **ids}


def make_model(family: str, *, seed: int = 0, **changes: Any) -> Any:
    """A randomly initialised model of the family; biases are random too, so that a forgotten one shows."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(make_config(family, **changes))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(std=0.02)
    return model.eval()


def write(family: str, folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """Write a checkpoint of `family` (one of FAMILIES) into `folder/family` and return that folder.

    Args:
        seed: of the random weights.
        changes: fields of the family's configuration to override.
    """
    target = Path(folder) / family
    make_model(family, seed=seed, **changes).save_pretrained(target)
    make_tokenizer(family).save_pretrained(target)
    return target


# Rows of 64: bitsandbytes' own functions misread blocks that cross the ends of rows on CPUs.
WIDE = {"hidden_size": 64, "intermediate_size": 128}


def write_half(family: str, folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """As `write`, with weights that 16 bits hold exactly, stored in 32: what quantizes them from 16 bits (bitsandbytes
    to 8) and from 32 gets the same codes."""
    target = Path(folder) / family
    make_model(family, seed=seed, **changes).half().float().save_pretrained(target)
    make_tokenizer(family).save_pretrained(target)
    return target


def quantized(plain: Path, target: Path, **settings: Any) -> Path:
    """The checkpoint in `plain` as bitsandbytes and transformers store it quantized, in `target`.

    Args:
        settings: of transformers' BitsAndBytesConfig.
    """
    import shutil

    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    import core.layers.quiet_bitsandbytes  # noqa: F401 (before bitsandbytes itself)

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        plain, quantization_config=BitsAndBytesConfig(**settings), dtype=torch.float32, device_map={"": "cpu"}
    )
    loaded.save_pretrained(target)
    for path in plain.glob("*token*"):
        shutil.copy(path, target)
    for path in plain.glob("*.jinja"):
        shutil.copy(path, target)
    return target


def make_encoder_tokenizer(family: str) -> Any:
    """The encoder's tokenizer, which sets its special tokens around a text or a pair."""
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    unknown, first, last, pad, mask = special = _ENCODERS[family][2]
    tokenizer = Tokenizer.from_str(_bpe(special, None, None))
    between = f"{last}:0 {last}:0" if family == "roberta" else f"{last}:0"
    second = "0" if family == "roberta" else "1"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", pair=f"{first}:0 $A:0 {between} $B:{second} {last}:{second}",
        special_tokens=[(t, tokenizer.token_to_id(t)) for t in (first, last)],
    )  # fmt: skip
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=unknown, cls_token=first, sep_token=last, pad_token=pad, mask_token=mask,
        model_max_length=128,
    )  # fmt: skip


def make_encoder(family: str, *, labels: int | None = 3, seed: int = 0, **changes: Any) -> Any:
    """A randomly initialised encoder with a head for so many labels; None: as it was pretrained, without one."""
    import torch
    import transformers

    tokenizer = make_encoder_tokenizer(family)
    name, values, _ = _ENCODERS[family]
    ids = {f"{t}_token_id": getattr(tokenizer, f"{t}_token_id") for t in ("pad", "cls", "sep")}
    ids |= {"bos_token_id": ids["cls_token_id"], "eos_token_id": ids["sep_token_id"]}
    config = getattr(transformers, name)(**{"vocab_size": len(tokenizer), **values, **ids, **changes})
    if labels is not None:
        config.num_labels = labels
        maker = transformers.AutoModelForSequenceClassification
    else:
        maker = transformers.AutoModelForPreTraining if family == "electra" else transformers.AutoModelForMaskedLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = maker.from_config(config)
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if parameter_name.endswith("bias"):
                    parameter.normal_(std=0.02)
    return model.eval()


def write_encoder(
    family: str, folder: Path, *, labels: int | None = None, seed: int = 0, names: tuple[str, ...] = (), **changes: Any
) -> Path:
    """Write a checkpoint of an encoder (one of ENCODERS) into `folder/family` and return that folder.

    Args:
        labels: of its classification head; None: it has none, as a pretrained one.
        names: what the labels are called, for as many.
        changes: fields of the family's configuration to override.
    """
    target = Path(folder) / family
    model = make_encoder(family, labels=len(names) or labels, seed=seed, **changes)
    if names:
        model.config.id2label = dict(enumerate(names))
        model.config.label2id = {name: i for i, name in enumerate(names)}
    model.save_pretrained(target)
    make_encoder_tokenizer(family).save_pretrained(target)
    return target


if __name__ == "__main__":
    import sys

    for each in FAMILIES:
        print(write(each, Path(sys.argv[1])))


def write_doubles(path: Path, count: int = 40) -> Path:
    """Rows to train on: each number's double, in words of different length so that padding occurs."""
    lines = [{"prompt": "twice " + "very " * (i % 5) + str(i), "completion": f"{2 * i}"} for i in range(count)]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path
