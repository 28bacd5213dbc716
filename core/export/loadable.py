"""Will it load? An adapter's folder held against the rules of four programs that serve adapters.

    verdicts = check(read(folder), describe_base("…"))
    worst(verdicts, VLLM)        # LOADS, CARE or FAILS

RULES is the table: each row says what is looked at and where the rule stands; its function looks at the folder and says
what follows and what to do. "Loads" is not enough: what would load and answer wrongly (a scale that a program does not
read) counts as failing. The sources were read on 2026-11-25, at the commit or version that an address names where it
names one; a program's next version may differ. Nothing here starts any of the programs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.export.folder import Adapter
from core.methods import METHODS
from core.methods.lora import STARTS
from core.methods.saved import PEFT_PREFIX

PEFT, VLLM, LLAMA_CPP, OLLAMA = "PEFT", "vLLM", "llama.cpp", "Ollama"
ENGINES = (PEFT, VLLM, LLAMA_CPP, OLLAMA)
LOADS, CARE, FAILS = "loads", "care", "fails"
LEVELS = (LOADS, CARE, FAILS)
CONVERT, MERGE = "convert", "merge"
"""What Deltalab can do about it: convert to plain LoRA, or merge into the base's weights."""

_VLLM = "https://github.com/vllm-project/vllm/blob"
_VLLM_HELPER = "https://docs.vllm.ai/en/latest/api/vllm/lora/peft_helper/"
_VLLM_CONFIG = "https://docs.vllm.ai/en/v0.22.1/api/vllm/config/lora/"
_VLLM_MODEL = f"{_VLLM}/0306474e9d1f26d8717aad457b9511f0c9e57d60/vllm/lora/lora_model.py"
_VLLM_NAMES = f"{_VLLM}/001e63a89b474b88345fd72912fe068c4ae83f41/vllm/lora/utils.py"
_VLLM_BASES = f"{_VLLM}/0046f770d322e202c2000e325a0c8cc1fcb2fc76/docs/models/supported_models.md"
_LLAMA = "https://github.com/ggml-org/llama.cpp/blob"
_LLAMA_CONVERT = f"{_LLAMA}/0b03adaa632b76c7651dd1f6fa3b7a0b5eda479c/convert_lora_to_gguf.py"
_LLAMA_BASES = f"{_LLAMA}/00bdaa105cb03380daf899b4fc9f026555745269/conversion/__init__.py"
_LLAMA_GPT2 = f"{_LLAMA}/5535795beecf39471f206eb12788e5f5cb8fb26e/conversion/gpt2.py"
_LLAMA_SCALE = "https://github.com/ggml-org/llama.cpp/blob/master/src/llama-adapter.h"
_LLAMA_TOKENIZER = "https://github.com/ggml-org/llama.cpp/pull/6920"
_OLLAMA_DOCS = "https://docs.ollama.com/import"
_OLLAMA = "https://github.com/ollama/ollama/blob"
_OLLAMA_CONVERT = f"{_OLLAMA}/01cf7445f35e9a0628d0b49655541a7afeee7a64/convert/convert.go"
_OLLAMA_LLAMA = f"{_OLLAMA}/02420803ae64261a12105e6e343a6dff146ff848/convert/convert_llama_adapter.go"
_PEFT_FORMAT = "https://huggingface.co/docs/peft/developer_guides/checkpoint"
_PEFT_START = "https://huggingface.co/docs/peft/developer_guides/lora#pissa"
_PEFT_QUANT = "https://huggingface.co/docs/peft/developer_guides/quantization"
_PEFT_TIED = "https://github.com/huggingface/peft/issues/2018"

# PEFT 0.21, utils/peft_types.py.
PEFT_TYPES = frozenset(
    "ADALORA ADAMSS ADAPTION_PROMPT BEFT BOFT C3A CARTRIDGE CPT DEFT DELORA FOURIERFT FROD GLORA GRALORA HIRA HRA IA3 "
    "LILY LN_TUNING LOHA LOKR LORA MISS MULTITASK_PROMPT_TUNING OFT OSF PEANUT POLY PREFIX_TUNING PROMPT_TUNING PSOFT "
    "PVERA P_TUNING RANDLORA ROAD SHADOW SHIRA SUPERTUNING TINYLORA TRAINABLE_TOKENS UNILORA VBLORA VERA WAVEFT "
    "XLORA".split()
)
# vLLM's table of text-generation models (_VLLM_BASES): the column "LoRA". Of both kinds those that fit one GPU.
VLLM_BASES = frozenset(
    f"{name}ForCausalLM" for name in
    "Llama Mistral Mixtral Gemma Gemma2 Gemma3 Qwen2 Qwen2Moe Qwen3 Qwen3Moe Phi Phi3 OPT Granite SmolLM3 Olmo Olmo2 "
    "Olmo3 Starcoder2 GPTBigCode Cohere Cohere2 Glm Glm4 Exaone Exaone4 InternLM2 InternLM3 Nemotron MiniCPM MiniCPM3 "
    "DeepseekV2 DeepseekV3 FalconH1 Jamba Lfm2 Solar SeedOss GptOss".split()
)  # fmt: skip
VLLM_WITHOUT = frozenset(
    ["GPT2LMHeadModel"] + [f"{name}ForCausalLM" for name in
    "GPTJ GPTNeoX Bloom Falcon MPT Mamba Mamba2 StableLm Orion Dbrx Olmoe Gemma3n Jais2".split()]
)  # fmt: skip
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
VLLM_DEFAULT_RANK = 16
# llama.cpp's table (_LLAMA_BASES); the same choice.
LLAMA_BASES = frozenset(
    ["GPT2LMHeadModel"] + [f"{name}ForCausalLM" for name in
    "Llama Mistral Mixtral Gemma Gemma2 Gemma3 Gemma3n Qwen2 Qwen2Moe Qwen3 Qwen3Moe Phi Phi3 PhiMoE Granite "
    "GraniteMoe SmolLM3 Olmo Olmo2 Olmo3 Olmoe Starcoder2 GPTBigCode GPTNeoX Bloom Falcon FalconH1 MPT Mamba Mamba2 "
    "StableLm Orion Dbrx Cohere Cohere2 Glm Glm4 Exaone Exaone4 InternLM2 InternLM3 Nemotron MiniCPM MiniCPM3 "
    "DeepseekV2 DeepseekV3 Jamba Lfm2 SeedOss GptOss Jais2".split()]
)  # fmt: skip
# Ollama's page names the families of whose adapters it says that they can be imported.
OLLAMA_BASES = frozenset(f"{name}ForCausalLM" for name in "Llama Mistral Mixtral Gemma Gemma2".split())
# The projections that its converter knows by name (_OLLAMA_LLAMA, Replacements).
OLLAMA_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_SHARED = ("lm_head", "embed_tokens", "wte", "embed_out")  # what a tied base uses at both ends


@dataclass(frozen=True)
class Finding:
    """What a rule comes to for a folder. level: LOADS, CARE or FAILS. fix: what to do, '' where nothing. action:
    CONVERT or MERGE where Deltalab can do that, None where it cannot."""

    level: str
    sentence: str
    fix: str = ""
    action: str | None = None


Check = Callable[[Adapter, Mapping[str, Any]], Finding | None]


@dataclass(frozen=True)
class Rule:
    """engine: whose. name: what is looked at. source: where it stands. check: what it comes to; None where it has
    nothing to say."""

    engine: str
    name: str
    source: str
    check: Check


@dataclass(frozen=True)
class Verdict:
    """A rule and what it came to: `Rule` and `Finding` in one row of plain data."""

    engine: str
    rule: str
    source: str
    level: str
    sentence: str
    fix: str
    action: str | None


def check(adapter: Adapter, base: Mapping[str, Any] | None = None) -> list[Verdict]:
    """Every rule that has something to say about this folder, engine by engine.

    Args:
        base: the facts of the model it belongs to (`core.base.describe_base`); None: not known.
    """
    out = []
    for rule in RULES:
        found = rule.check(adapter, base or {})
        if found is not None:
            out.append(
                Verdict(rule.engine, rule.name, rule.source, found.level, found.sentence, found.fix, found.action)
            )
    return out


def worst(verdicts: Sequence[Verdict], engine: str) -> str:
    """LOADS, CARE or FAILS: the worst that a rule of this engine came to."""
    return max((v.level for v in verdicts if v.engine == engine), key=LEVELS.index, default=LOADS)


# --- what several engines ask -----------------------------------------------------------------------------------------


def _way_out(adapter: Adapter) -> tuple[str, str | None]:
    """What Deltalab can do with a change that is not plain LoRA: a fix in words, and its action."""
    method = METHODS.get(adapter.method)
    if method is None:
        return "Merge it with PEFT, and serve the merged model.", None
    if not method.MERGES:
        return f"{method.TITLE} can be neither converted nor merged: serve it with PEFT, or train with lora.", None
    if getattr(method, "VECTORS", False):
        return "It changes no matrix, so no LoRA can hold it: merge it, and serve the merged model.", MERGE
    return "Convert it to LoRA (what a rank keeps is measured), or merge it.", CONVERT


def _title(adapter: Adapter) -> str:
    method = METHODS.get(adapter.method)
    return method.TITLE if method is not None else adapter.peft_type or "This method"


def _only_lora(engine: str) -> Check:
    def look(adapter: Adapter, base: Mapping[str, Any]) -> Finding:
        if adapter.is_lora:
            return Finding(LOADS, "It is a LoRA adapter in PEFT's files.")
        if adapter.method == "full":
            return Finding(
                FAILS, "Full fine-tuning leaves a whole model, not an adapter.",
                "Merge it (which adds the tokenizer), and serve the folder as a model.", MERGE,
            )  # fmt: skip
        fix, action = _way_out(adapter)
        return Finding(FAILS, f"{engine} knows LoRA alone; this is {_title(adapter)}.", fix, action)

    return look


def _flag(name: str, sentence: str, well: str) -> Check:
    """A field of PEFT's file that must not be used."""

    def look(adapter: Adapter, base: Mapping[str, Any]) -> Finding | None:
        if not adapter.is_lora:
            return None
        value = adapter.setting(name)
        if value is None or value == "none":
            return Finding(LOADS, well)
        if name == "modules_to_save":
            told = sentence.format(", ".join(map(str, value)) if isinstance(value, list) else value)
            return Finding(FAILS, told, "Merge it, and serve the merged model.", MERGE)
        fix = {
            "use_dora": "Convert it to plain LoRA: DoRA's change has a higher rank, and what a rank keeps is measured.",
            "bias": "Convert it to plain LoRA, which leaves the trained biases out, or merge it, which keeps them.",
        }[name]
        return Finding(FAILS, sentence.format(value), fix, CONVERT)

    return look


def _start(adapter: Adapter, base: Mapping[str, Any]) -> Finding | None:
    start = adapter.setting("init_lora_weights")
    if not adapter.is_lora:
        return None
    if not isinstance(start, str) or start.lower() in STARTS:
        return Finding(LOADS, "It is a change of the base's own weights.")
    return Finding(
        FAILS,
        f"It was started with {start}, which also changed the base; the folder holds a change of those other weights.",
        "Save it in PEFT as plain LoRA: save_pretrained with path_initial_model_for_weight_conversion.",
    )


def _scale_by_module(adapter: Adapter, base: Mapping[str, Any]) -> Finding | None:
    """For programs that compute one α/r for all pairs."""
    if not adapter.is_lora:
        return None
    alpha = adapter.setting("alpha_pattern")
    rank = adapter.setting("rank_pattern")
    if alpha is None and rank is None:
        return Finding(LOADS, "One rank and one alpha for all matrices.")
    name = "alpha_pattern" if alpha is not None else "rank_pattern"
    return Finding(
        FAILS, f"It is loaded, but {name} is not read: every pair would be scaled by the one lora_alpha / r.",
        "Convert it to LoRA of one rank: nothing is lost at the highest of its ranks.", CONVERT,
    )  # fmt: skip


def _alpha_by_module(adapter: Adapter, base: Mapping[str, Any]) -> Finding | None:
    """For programs that divide one alpha by each pair's own rank, as PEFT does."""
    if not adapter.is_lora:
        return None
    if adapter.setting("alpha_pattern") is not None:
        return Finding(
            FAILS, "It is loaded, but alpha_pattern is not read: some pairs would be scaled wrongly.",
            "Convert it to LoRA of one alpha.", CONVERT,
        )  # fmt: skip
    return Finding(LOADS, "Alpha is divided by each pair's own rank, as in PEFT.")


def _root_of_rank(adapter: Adapter, base: Mapping[str, Any]) -> Finding | None:
    if not adapter.is_lora:
        return None
    if adapter.setting("use_rslora") is None:
        return Finding(LOADS, "Its scale is alpha / rank, which is what is computed.")
    rank = (adapter.config or {}).get("r")
    return Finding(
        FAILS, f"It is loaded, but as alpha / rank: rsLoRA's scale is √{rank} times that, so it would answer wrongly.",
        "Convert it to plain LoRA with the same product: nothing is lost.", CONVERT,
    )  # fmt: skip


def _quantized(adapter: Adapter, base: Mapping[str, Any]) -> Finding | None:
    quant = (adapter.record.get("settings") or {}).get("quant_type") if adapter.method == "qlora" else None
    if quant is None:
        return None
    return Finding(
        CARE, f"It was trained beside a base in {quant.upper()}; beside another precision it answers a little "
        "differently.", "Measure how differently under Merge, or serve the base in the same format.",
    )  # fmt: skip


def _tied(adapter: Adapter) -> list[str]:
    return [m for m in adapter.modules() if m.rpartition(".")[2] in _SHARED]


# --- PEFT -------------------------------------------------------------------------------------------------------------


def _peft_method(adapter: Adapter, base: Mapping[str, Any]) -> Finding:
    if adapter.peft_type in PEFT_TYPES:
        return Finding(LOADS, f"PEFT has the method ({adapter.peft_type}).")
    if adapter.peft_type:
        return Finding(FAILS, f"PEFT 0.21 has no method {adapter.peft_type}.", "Use the PEFT that wrote it.")
    if adapter.method == "full":
        return Finding(
            FAILS, "Full fine-tuning leaves a whole model, not an adapter.",
            "Load it with transformers; merge it to have the tokenizer beside it.", MERGE,
        )  # fmt: skip
    fix, action = _way_out(adapter)
    return Finding(FAILS, f"PEFT does not have {_title(adapter)}: the folder is in Deltalab's own format.", fix, action)


def _peft_names(adapter: Adapter, base: Mapping[str, Any]) -> Finding | None:
    if not adapter.is_lora:
        return None
    odd = next((n for n in adapter.tensors if not n.startswith(PEFT_PREFIX)), None)
    if odd is None:
        return Finding(LOADS, f"All {len(adapter.tensors)} tensors have PEFT's names.")
    return Finding(
        FAILS, f"{odd} does not begin with {PEFT_PREFIX}: PEFT would pass over it, and nothing would be learnt.",
        "Save it again with save_pretrained of the PEFT model.",
    )  # fmt: skip


def _peft_base(adapter: Adapter, base: Mapping[str, Any]) -> Finding | None:
    if adapter.config is None:
        return None
    name = adapter.base
    if "/" in name:
        return Finding(LOADS, f"It names its base by a hub id: {name}.")
    told = f"It calls its base {name!r}, which is no hub id" if name else "It does not name its base"
    return Finding(
        CARE, f"{told}, so nobody can fetch it by that name.",
        "Load the base from its folder yourself: PeftModel.from_pretrained(base, folder).",
    )  # fmt: skip


def _peft_tied(adapter: Adapter, base: Mapping[str, Any]) -> Finding | None:
    if not adapter.is_lora or not _tied(adapter) or base.get("tied_embeddings") is False:
        return None
    if not base.get("tied_embeddings"):
        return Finding(CARE, f"It changes {_tied(adapter)[0]}; whether the base shares that matrix is not known here.")
    return Finding(
        CARE, f"The base uses one matrix at both ends, and {_tied(adapter)[0]} is part of the adapter: it loads, but "
        "merging would change the other end too.", "Leave that module out of target_modules.",
    )  # fmt: skip


# --- vLLM -------------------------------------------------------------------------------------------------------------


def _vllm_rank(adapter: Adapter, base: Mapping[str, Any]) -> Finding | None:
    if not adapter.is_lora:
        return None
    rank = max([int((adapter.config or {}).get("r") or 0), *adapter.ranks().values()])
    if rank <= VLLM_DEFAULT_RANK:
        return Finding(LOADS, f"Rank {rank} is within the limit of {VLLM_DEFAULT_RANK} that it starts with.")
    if rank > VLLM_RANKS[-1]:
        return Finding(
            FAILS, f"Rank {rank} is above {VLLM_RANKS[-1]}, the highest limit that can be set.",
            f"Convert it to LoRA of rank {VLLM_RANKS[-1]} or less.", CONVERT,
        )  # fmt: skip
    limit = next(r for r in VLLM_RANKS if r >= rank)
    return Finding(
        CARE, f"Rank {rank} is above the limit of {VLLM_DEFAULT_RANK} that it starts with.",
        f"Start it with --max-lora-rank {limit}, or convert to LoRA of rank {VLLM_DEFAULT_RANK}.", CONVERT,
    )  # fmt: skip


def _vllm_names(adapter: Adapter, base: Mapping[str, Any]) -> Finding | None:
    if not adapter.is_lora or any(adapter.setting(n) for n in ("use_dora", "modules_to_save")):
        return None
    odd = [n for n in adapter.extra() if not n.endswith(".bias")]
    if not odd:
        return Finding(LOADS, "It holds pairs lora_A and lora_B only.")
    return Finding(FAILS, f"{odd[0]} is neither lora_A nor lora_B.", "Merge it, and serve the merged model.", MERGE)


def _vllm_bases(adapter: Adapter, base: Mapping[str, Any]) -> Finding | None:
    if not adapter.is_lora:
        return None
    name = base.get("architecture")
    if not name:
        return Finding(CARE, "The base is not known here.", "Name it to have its architecture checked.")
    if name in VLLM_BASES:
        return Finding(LOADS, f"{name} is a base whose adapters it serves.")
    if name in VLLM_WITHOUT:
        return Finding(
            FAILS, f"It runs {name}, but without adapters.", "Merge it, and serve the merged model.", MERGE
        )  # fmt: skip
    return Finding(CARE, f"{name} is not in the list kept here.", "Look it up in the table, column LoRA.")


def _vllm_head(adapter: Adapter, base: Mapping[str, Any]) -> Finding | None:
    """Embeddings and heads are served only where the model's class says so."""
    if not adapter.is_lora or not _tied(adapter):
        return None
    return Finding(
        CARE, f"It changes {_tied(adapter)[0]}: all linear layers are served, embeddings and heads only where the "
        "model's own class names them.", "Leave that module out of target_modules, or merge it.", MERGE,
    )  # fmt: skip


# --- llama.cpp --------------------------------------------------------------------------------------------------------


def _llama_names(adapter: Adapter, base: Mapping[str, Any]) -> Finding | None:
    known = ("use_dora", "modules_to_save", "bias")
    if not adapter.is_lora or any(adapter.setting(n) not in (None, "none") for n in known):
        return None
    odd = [n for n in adapter.extra() if "_layernorm" not in n and ".norm" not in n]
    if not odd:
        return Finding(LOADS, "It holds pairs lora_A and lora_B only.")
    return Finding(
        FAILS, f"The converter stops at {odd[0]}: not a lora_A or lora_B tensor.",
        "Merge it, and convert the merged model.", MERGE,
    )  # fmt: skip


def _llama_bases(adapter: Adapter, base: Mapping[str, Any]) -> Finding | None:
    if not adapter.is_lora:
        return None
    name = base.get("architecture")
    if not name:
        return Finding(CARE, "The base is not known here.", "Name it to have its architecture checked.")
    if name in LLAMA_BASES:
        return Finding(LOADS, f"{name} is an architecture that it converts.")
    if name == "OPTForCausalLM":
        return Finding(FAILS, f"{name} is not among the architectures that it converts.", "Serve it with vLLM or PEFT.")
    return Finding(CARE, f"{name} is not in the list kept here.", "Look it up in the table.")


def _llama_transposed(adapter: Adapter, base: Mapping[str, Any]) -> Finding | None:
    if not adapter.is_lora or base.get("architecture") != "GPT2LMHeadModel":
        return None
    return Finding(
        FAILS, "Its converter transposes GPT-2's matrices, which are stored the other way round; PEFT's pairs are not, "
        "and come out transposed.", "Merge it, and convert the merged model.", MERGE,
    )  # fmt: skip


def _llama_tied(adapter: Adapter, base: Mapping[str, Any]) -> Finding | None:
    head = [m for m in adapter.modules() if m.rpartition(".")[2] == "lm_head"]
    if not adapter.is_lora or not head or base.get("tied_embeddings") is False:
        return None
    return Finding(
        FAILS if base.get("tied_embeddings") else CARE,
        "It changes lm_head, which a base with tied embeddings does not have in GGUF.",
        "Leave lm_head out of target_modules.",
    )


def _llama_base(adapter: Adapter, base: Mapping[str, Any]) -> Finding | None:
    if not adapter.is_lora:
        return None
    name = adapter.base
    if "/" in name:
        return Finding(LOADS, f"It finds the base's settings by its hub id, {name}.")
    return Finding(
        CARE, "It looks for the base on the hub by the name in the file, which is no hub id.",
        "Name the base's folder: convert_lora_to_gguf.py --base FOLDER.",
    )  # fmt: skip


def _llama_tokenizer(adapter: Adapter, base: Mapping[str, Any]) -> Finding | None:
    if base.get("kind") != "embedded" or not adapter.is_lora:
        return None
    return Finding(
        FAILS, "The embedded base itself cannot be made into GGUF: its tokenizer is its own, and the converter takes "
        "those that it knows.", "Train on a base that llama.cpp has, such as one of the hub's.",
    )  # fmt: skip


# --- Ollama -----------------------------------------------------------------------------------------------------------


def _ollama_bases(adapter: Adapter, base: Mapping[str, Any]) -> Finding | None:
    if not adapter.is_lora:
        return None
    name = base.get("architecture")
    if not name:
        return Finding(CARE, "The base is not known here.", "Name it to have its architecture checked.")
    if name in OLLAMA_BASES - {"GemmaForCausalLM"}:
        return Finding(LOADS, f"Adapters of {name} can be imported.")
    if name in OLLAMA_BASES:
        return Finding(
            CARE, f"Its page names the family of {name}; its converter knows llama and gemma2 alone.",
            "Convert it with llama.cpp's convert_lora_to_gguf.py, and import the GGUF file.",
        )  # fmt: skip
    fix = "Convert it with llama.cpp's convert_lora_to_gguf.py, and import the GGUF file."
    if name not in LLAMA_BASES:
        fix = f"Serve it with PEFT; {name} is not in llama.cpp's list either."
    return Finding(FAILS, f"Adapters of {name} are not imported from safetensors (Llama, Mistral and Gemma are).", fix)


def _ollama_modules(adapter: Adapter, base: Mapping[str, Any]) -> Finding | None:
    if not adapter.is_lora:
        return None
    odd = [m for m in adapter.modules() if m.rpartition(".")[2] not in OLLAMA_MODULES]
    if not odd:
        return Finding(LOADS, "It changes projections that the converter knows by name.")
    return Finding(
        FAILS, f"{odd[0]} is none of {', '.join(OLLAMA_MODULES)}, the projections that its converter renames.",
        "Merge it, and import the merged model as GGUF.", MERGE,
    )  # fmt: skip


def _ollama_alpha(adapter: Adapter, base: Mapping[str, Any]) -> Finding | None:
    if not adapter.is_lora:
        return None
    alpha = (adapter.config or {}).get("lora_alpha")
    if isinstance(alpha, int) and not isinstance(alpha, bool):
        return Finding(LOADS, f"lora_alpha is a whole number, {alpha}.")
    return Finding(
        FAILS, f"lora_alpha is {alpha!r}; it is read as a whole number.",
        "Convert it to LoRA, whose alpha is its rank.", CONVERT,
    )  # fmt: skip


def _ollama_tokenizer(adapter: Adapter, base: Mapping[str, Any]) -> Finding | None:
    found = _llama_tokenizer(adapter, base)
    return found and Finding(
        FAILS, "Ollama needs the base as GGUF, and the embedded base cannot be made into it: its tokenizer is its own.",
        found.fix,
    )  # fmt: skip


# --- the table --------------------------------------------------------------------------------------------------------

_DORA = "DoRA's lengths (use_dora) are not computed"
_BIAS = "It trains biases too (bias={}), which are not loaded"
_MODULES = "It carries whole modules (modules_to_save: {}), which are not loaded"

RULES: tuple[Rule, ...] = (
    Rule(PEFT, "method", _PEFT_FORMAT, _peft_method),
    Rule(PEFT, "names of the tensors", _PEFT_FORMAT, _peft_names),
    Rule(PEFT, "start of the pairs", _PEFT_START, _start),
    Rule(PEFT, "tied embeddings", _PEFT_TIED, _peft_tied),
    Rule(PEFT, "quantized base", _PEFT_QUANT, _quantized),
    Rule(PEFT, "name of the base", _PEFT_FORMAT, _peft_base),
    Rule(VLLM, "method", _VLLM_HELPER, _only_lora(VLLM)),
    Rule(VLLM, "rank", _VLLM_CONFIG, _vllm_rank),
    Rule(VLLM, "DoRA", _VLLM_HELPER, _flag("use_dora", f"{_DORA}: it refuses the adapter.", "No DoRA.")),
    Rule(VLLM, "bias", _VLLM_HELPER, _flag("bias", f"{_BIAS}: it refuses the adapter.", "No biases.")),
    Rule(VLLM, "modules_to_save", _VLLM_HELPER, _flag("modules_to_save", f"{_MODULES}.", "No whole modules.")),
    Rule(VLLM, "scale by module", _VLLM_HELPER, _scale_by_module),
    Rule(VLLM, "names of the tensors", _VLLM_NAMES, _vllm_names),
    Rule(VLLM, "embeddings and head", _VLLM_NAMES, _vllm_head),
    Rule(VLLM, "start of the pairs", _PEFT_START, _start),
    Rule(VLLM, "architecture of the base", _VLLM_BASES, _vllm_bases),
    Rule(VLLM, "quantized base", _PEFT_QUANT, _quantized),
    Rule(LLAMA_CPP, "method", _LLAMA_CONVERT, _only_lora(LLAMA_CPP)),
    Rule(LLAMA_CPP, "DoRA", _LLAMA_CONVERT, _flag("use_dora", f"{_DORA}: the converter stops.", "No DoRA.")),
    Rule(LLAMA_CPP, "bias", _LLAMA_CONVERT, _flag("bias", f"{_BIAS}: the converter stops.", "No biases.")),
    Rule(
        LLAMA_CPP,
        "modules_to_save",
        _LLAMA_CONVERT,
        _flag("modules_to_save", f"{_MODULES}: the converter stops.", "No whole modules."),
    ),
    Rule(LLAMA_CPP, "names of the tensors", _LLAMA_CONVERT, _llama_names),
    Rule(LLAMA_CPP, "scale", _LLAMA_SCALE, _root_of_rank),
    Rule(LLAMA_CPP, "scale by module", _LLAMA_SCALE, _alpha_by_module),
    Rule(LLAMA_CPP, "tied embeddings", _LLAMA_CONVERT, _llama_tied),
    Rule(LLAMA_CPP, "start of the pairs", _PEFT_START, _start),
    Rule(LLAMA_CPP, "architecture of the base", _LLAMA_BASES, _llama_bases),
    Rule(LLAMA_CPP, "transposed matrices", _LLAMA_GPT2, _llama_transposed),
    Rule(LLAMA_CPP, "tokenizer of the base", _LLAMA_TOKENIZER, _llama_tokenizer),
    Rule(LLAMA_CPP, "quantized base", _PEFT_QUANT, _quantized),
    Rule(LLAMA_CPP, "name of the base", _LLAMA_CONVERT, _llama_base),
    Rule(OLLAMA, "method", _OLLAMA_DOCS, _only_lora(OLLAMA)),
    Rule(OLLAMA, "DoRA", _OLLAMA_LLAMA, _flag("use_dora", f"{_DORA}.", "No DoRA.")),
    Rule(OLLAMA, "bias", _OLLAMA_LLAMA, _flag("bias", f"{_BIAS}.", "No biases.")),
    Rule(OLLAMA, "modules_to_save", _OLLAMA_LLAMA, _flag("modules_to_save", f"{_MODULES}.", "No whole modules.")),
    Rule(OLLAMA, "projections", _OLLAMA_LLAMA, _ollama_modules),
    Rule(OLLAMA, "alpha", _OLLAMA_CONVERT, _ollama_alpha),
    Rule(OLLAMA, "scale", _OLLAMA_CONVERT, _root_of_rank),
    Rule(OLLAMA, "scale by module", _OLLAMA_CONVERT, _alpha_by_module),
    Rule(OLLAMA, "start of the pairs", _PEFT_START, _start),
    Rule(OLLAMA, "architecture of the base", _OLLAMA_DOCS, _ollama_bases),
    Rule(OLLAMA, "tokenizer of the base", _LLAMA_TOKENIZER, _ollama_tokenizer),
    Rule(OLLAMA, "quantized base", _OLLAMA_DOCS, _quantized),
)
