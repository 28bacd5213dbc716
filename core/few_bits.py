"""Checkpoints whose weights are stored in few bits already: what their config.json says, and what follows from it.

transformers writes a `quantization_config` into the config.json of every model that it saves quantized. What
bitsandbytes stored (NF4, FP4, with and without double quantization, or 8 bits) can be a base here: the codes and scales
are taken as they are, and methods that leave the weights alone train beside them. What others stored (GPTQ, AWQ, FP8 …)
cannot: each has a layout and kernels of its own.

Imports no torch: a page that is given such a checkpoint says what it is without loading it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.errors import BadInput, BaseUnavailable
from core.outside import MOST_QUOTED

if TYPE_CHECKING:
    from core.config import RunConfig

# Attribute of a loaded model, and of a configuration that came without its weights: a Stored.
STORED = "stored_in_few_bits"

TITLES = {"nf4": "NF4", "fp4": "FP4", "int8": "8 bits"}
# quant_method, as transformers has it -> what people call it.
OTHERS = {
    "gptq": "GPTQ", "awq": "AWQ", "fp8": "FP8", "fbgemm_fp8": "FP8 of FBGEMM", "mxfp4": "MXFP4", "nvfp4": "NVFP4",
    "mxfp8": "MXFP8", "torchao": "torchao", "compressed-tensors": "compressed-tensors", "hqq": "HQQ",
    "aqlm": "AQLM", "quanto": "Quanto", "eetq": "EETQ",
    "higgs": "HIGGS", "vptq": "VPTQ", "spqr": "SpQR", "bitnet": "BitNet", "auto-round": "AutoRound", "quark": "Quark",
    "modelopt": "ModelOpt",
}  # fmt: skip
# The end of a tensor's name in such a checkpoint, for what belongs to a weight and is no parameter of its own
# (bitsandbytes: QuantState.as_dict, Linear8bitLt._save_to_state_dict).
CONSTANTS = (
    ".weight.absmax", ".weight.quant_map", ".weight.nested_absmax", ".weight.nested_quant_map",
    ".weight.quant_state.bitsandbytes__nf4", ".weight.quant_state.bitsandbytes__fp4", ".SCB", ".weight_format",
)  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """How a checkpoint's linear layers are stored, in the words of QLoRA's settings.

    quant_type: 'nf4', 'fp4' or 'int8'. double_quantization: whether the block scales are in 8 bits (False for int8).
    skipped: layers that the checkpoint leaves in full precision by its own choice, by name; None: bitsandbytes' own
    choice, which is the output head.
    """

    quant_type: str
    double_quantization: bool = False
    skipped: tuple[str, ...] | None = None

    @property
    def title(self) -> str:
        """'NF4 with double quantization'."""
        return TITLES[self.quant_type] + (" with double quantization" if self.double_quantization else "")

    @property
    def settings(self) -> dict[str, Any]:
        """The same as QLoRA's settings; what has no effect on them is left out."""
        four = {} if self.quant_type == "int8" else {"double_quantization": self.double_quantization}
        return {"quant_type": self.quant_type} | four

    def differences(self, settings: Any) -> list[str]:
        """In which of QLoRA's settings another storage is asked for, as 'quant_type nf4'."""
        return [
            f"{name} {getattr(settings, name)}".lower()
            for name, value in self.settings.items()
            if getattr(settings, name) != value
        ]


def stored_by(config: Mapping[str, Any], where: str) -> Stored | None:
    """How the weights that belong to a config.json are stored; None: as plain numbers.

    Args:
        config: the content of config.json. where: the base's name, for a sentence.

    Raises:
        BaseUnavailable: in a way that cannot be a base here, with its name.
    """
    text = config.get("text_config")
    inside = text.get("quantization_config") if isinstance(text, Mapping) else None
    said = config.get("quantization_config") or config.get("compression_config") or inside
    if not said:
        return None
    said = said if isinstance(said, Mapping) else {}
    four, eight = bool(said.get("load_in_4bit")), bool(said.get("load_in_8bit"))
    method = str(said.get("quant_method") or ("bitsandbytes" if four or eight else "an unknown method"))
    kind = str(said.get("bnb_4bit_quant_type") or "fp4") if four else "int8"
    if method not in ("bitsandbytes", "bitsandbytes_4bit", "bitsandbytes_8bit"):
        method = method if method in OTHERS else method[:MOST_QUOTED]
        name = OTHERS.get(method, method)
        raise BaseUnavailable(
            f"The weights of {where} are quantized already (by {method}), and {name} cannot be trained beside here.",
            "Name the unquantized checkpoint of the same model: qlora stores it in 4 bits itself. Of those quantized "
            "already, the ones that bitsandbytes wrote (4 bits as NF4 or FP4, or 8 bits) can be a base.",
        )
    if four == eight or kind not in TITLES or said.get("llm_int8_has_fp16_weight"):
        raise BaseUnavailable(
            f"The weights of {where} are quantized already (by bitsandbytes), in a way that is not known here: neither "
            "4 bits as NF4 or FP4 nor 8 bits.",
            "Name the unquantized checkpoint of the same model: qlora stores it in 4 bits itself.",
        )
    skipped = said.get("llm_int8_skip_modules")
    names = tuple(map(str, skipped)) if isinstance(skipped, (list, tuple)) and list(skipped) != ["lm_head"] else None
    return Stored(kind, four and bool(said.get("bnb_4bit_use_double_quant")), names)


def why_not(method: str, settings: Any, stored: Stored, where: str) -> tuple[str, str] | None:
    """Why a method cannot train on a base that is stored so, and what to do; None when it can.

    A storage that QLoRA's settings ask for must be the one that the checkpoint has: nothing is stored anew.
    """
    from core.methods import METHODS

    module: Any = METHODS[method]
    changes = getattr(module, "CHANGES_WEIGHTS", "")
    if changes:
        return (
            f"{module.TITLE} {changes}, and those of {where} are stored in {stored.title} already.",
            "Choose a method that trains beside them, such as lora, or name the unquantized checkpoint of the same "
            "model.",
        )
    if module.BASE != "quantized":
        return None
    other = stored.differences(settings)
    if not other:
        return None
    wanted = " and ".join(f"{name} to {str(value).lower()}" for name, value in stored.settings.items())
    return (
        f"{where} is stored in {stored.title} already, and {' and '.join(other)} would be another storage.",
        f"Set {wanted}, or choose lora, which takes the weights as they are.",
    )


def check_counted(config: Any, method: str, settings: Any) -> None:
    """See that a method may train on the checkpoint that a configuration came with; for calculators.

    Args:
        config: a transformers configuration, as `core.base.load_config` gives it.

    Raises:
        BadInput: it may not, and why.
    """
    stored: Stored | None = getattr(config, STORED, None)
    found = why_not(method, settings, stored, _name(config)) if stored is not None else None
    if found is not None:
        raise BadInput(*found)


def check_traced(config: Any, method: str, settings: Any) -> None:
    """See that the memory of a step on that checkpoint can be told: it is that of QLoRA, which would store the plain
    model in the same form.

    Raises:
        BadInput: it cannot, and why.
    """
    stored: Stored | None = getattr(config, STORED, None)
    if stored is None:
        return
    check_counted(config, method, settings)
    if method != "qlora":
        wanted = ", ".join(f"{name} {str(value).lower()}" for name, value in stored.settings.items())
        raise BadInput(
            f"{_name(config)} is stored in {stored.title}, and what a step beside such weights takes is only told for "
            "the method qlora.",
            f"Choose qlora with {wanted}: on this checkpoint lora is the same step.",
        )
    if stored.skipped is not None:
        some = ", ".join(stored.skipped[:3]) + (", …" if len(stored.skipped) > 3 else "")
        raise BadInput(
            f"{_name(config)} leaves layers of its own choice out of {stored.title} "
            f"({some or 'none, not even the head'}), and what its steps take is not told.",
            "A run on it is measured all the same; the plain model with qlora tells what it takes with all layers "
            "stored.",
        )


def _name(config: Any) -> str:
    return _short(str(getattr(config, "_name_or_path", "") or config.model_type))


def problems(config: RunConfig) -> list[str]:
    """What a run's settings have against the storage of its base, as far as its config.json is on this machine."""
    from core.base import stored_base
    from core.methods import METHODS

    stored = stored_base(config.base, config.revision)
    if stored is None:
        return []
    settings = config.settings if config.settings is not None else METHODS[config.method].Config()
    found = why_not(config.method, settings, stored, _short(config.base))
    return [" ".join(found)] if found is not None else []


def in_few_bits(config: Mapping[str, Any]) -> bool:
    """Whether a run trains beside weights in few bits: by its method, or because its base is stored so.

    Args:
        config: a RunConfig as `to_dict` gives it.
    """
    from core.base import stored_base
    from core.methods import METHODS

    return (
        METHODS[config["method"]].BASE == "quantized" or stored_base(config["base"], config.get("revision")) is not None
    )


def _short(base: str) -> str:
    """A folder's last name; a hub id as it is."""
    return (
        base if base.count("/") == 1 and not base.startswith((".", "/", "~")) else base.rstrip("/").rpartition("/")[2]
    )


__all__ = [
    "CONSTANTS", "OTHERS", "STORED", "Stored", "check_counted", "check_traced", "in_few_bits", "problems", "stored_by",
    "why_not",
]  # fmt: skip
