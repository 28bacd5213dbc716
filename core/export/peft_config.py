"""Our settings of a method in the words of Hugging Face PEFT: the one place where the two are matched.

The exported scripts write it out, and the oracle tests and the benchmark build it. Full fine-tuning, last-k and BitFit
train the model's own parameters and need no configuration; bottleneck adapters are not in PEFT.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from core.methods import LORAS, METHODS
from core.methods.lora import ALL_LINEAR, GROUPS, ranks
from core.methods.modules import FUSED, KEYS, MLP_OUTPUTS, VALUES, ends_with, names_of

WITHOUT_CONFIG = ("full", "bitfit", "last_k", "adapters")
# What IA3 scales by itself, in any family. PEFT's own table of families gives some other places than the paper.
IA3_MODULES = [*KEYS, *VALUES, *FUSED, *MLP_OUTPUTS]


# What makes of a list of every family's names, which is called TARGETS or INPUTS, those that a model has.
Find = Callable[[str, list[str]], Any]


def targets(text: str, find: Find) -> Any:
    """Our target_modules as PEFT's: 'all-linear', or a list of the ends of names."""
    asked = text.lower()
    if asked == ALL_LINEAR:
        return ALL_LINEAR
    return find("TARGETS", list(GROUPS[asked])) if asked in GROUPS else names_of(text)


def peft_arguments(
    method: str, settings: Any, *, find: Find = lambda _, names: names, norms: Any = None, base: Any = None
) -> tuple[str, dict[str, Any]]:
    """PEFT's configuration for our settings of a method: the name of its class, and what that is called with.

    Args:
        settings: an instance of the method's Config.
        find: chooses from every family's names those that the model has. PEFT ignores the others, but they would stay
            in the adapter's own file.
        norms: the norms' names, where all of them train: PEFT wants names, and every family has its own.
        base: what PEFT loads the tokenizer from that reads a prompt's first text.

    Raises:
        KeyError: PEFT does not have the method.
    """
    makers: Mapping[str, Any] = {
        "ln_tuning": lambda s: (
            "LNTuningConfig", {"target_modules": norms if s.norms.lower() == "all" else names_of(s.norms)}
        ),
        "ia3": lambda s: _ia3(s, find), "vera": lambda s: _vera(s, find),
        "prompt_tuning": lambda s: _prompt_tuning(s, base),
        "p_tuning": lambda s: (
            # Its defaults are two hidden layers, as here.
            "PromptEncoderConfig", {"num_virtual_tokens": s.tokens, "encoder_hidden_size": s.hidden}
        ),
        "prefix_tuning": _prefix_tuning,
        **dict.fromkeys(LORAS, lambda s: _lora(method, s, find)),
    }  # fmt: skip
    kind, arguments = makers[method](settings)
    return kind, {"task_type": "CAUSAL_LM", **arguments}


def peft_config(method: str, settings: Any = None, **names: Any) -> Any:
    """The configuration itself; see `peft_arguments`. Imports PEFT.

    Raises:
        KeyError: PEFT does not have the method.
    """
    import peft

    kind, arguments = peft_arguments(method, settings if settings is not None else METHODS[method].Config(), **names)
    return getattr(peft, kind)(**arguments)


def _lora(method: str, s: Any, find: Find) -> tuple[str, dict[str, Any]]:
    out: dict[str, Any] = {"r": s.rank, "lora_alpha": s.alpha, "target_modules": targets(s.target_modules, find)}
    if s.dropout:
        out["lora_dropout"] = s.dropout
    if s.rank_pattern:
        out["rank_pattern"] = ranks(s)
    if s.bias != "none":
        out["bias"] = s.bias
    if method == "rslora":
        out["use_rslora"] = True
    if method == "dora":
        out["use_dora"] = True
    if method == "pissa":
        out["init_lora_weights"] = "pissa_niter_4" if s.fast else "pissa"
    return "LoraConfig", out


def _vera(s: Any, find: Find) -> tuple[str, dict[str, Any]]:
    out = {"r": s.rank, "target_modules": targets(s.target_modules, find), "d_initial": s.d_initial}
    if s.dropout:
        out["vera_dropout"] = s.dropout
    if s.projection_seed:
        out["projection_prng_key"] = s.projection_seed
    return "VeraConfig", out


def _ia3(s: Any, find: Find) -> tuple[str, dict[str, Any]]:
    own = s.target_modules.lower() != "auto"
    modules = names_of(s.target_modules) if own else IA3_MODULES
    inputs = names_of(s.feedforward_modules)
    if s.feedforward_modules.lower() == "auto":
        # PEFT wants these among the others.
        inputs = [name for name in modules if any(ends_with(name, known) for known in MLP_OUTPUTS)]
    if not own:
        return "IA3Config", {
            "target_modules": find("TARGETS", modules), "feedforward_modules": find("INPUTS", inputs)
        }  # fmt: skip
    return "IA3Config", {"target_modules": modules, "feedforward_modules": inputs}


def _prompt_tuning(s: Any, base: Any) -> tuple[str, dict[str, Any]]:
    out: dict[str, Any] = {"num_virtual_tokens": s.tokens}
    if s.start == "text":
        out |= {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": s.text, "tokenizer_name_or_path": base}
    else:
        out["prompt_tuning_init"] = "RANDOM" if s.start == "random" else "SAMPLE_VOCAB"
    return "PromptTuningConfig", out


def _prefix_tuning(s: Any) -> tuple[str, dict[str, Any]]:
    out = {"num_virtual_tokens": s.tokens}
    if s.projection:
        out |= {"prefix_projection": True, "encoder_hidden_size": s.projection}
    return "PrefixTuningConfig", out
