"""A model as a table of its modules: what a closed form needs to count parameters, without torch.

`Architecture.of(model)` reads the table off a model; `architecture_of_config` does the same for a transformers
configuration on the meta device, where a model of any size costs no memory. The table itself is plain data: it can be
written as JSON, and counting over it imports nothing.

Only modules that own parameters have a row. Tied weights (an output layer that shares the embedding's matrix) have a
row that says so, and count once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

Kind = Literal["linear", "conv1d", "embedding", "norm", "other"]


@dataclass(frozen=True)
class Module:
    """One module that owns parameters.

    name: its path in the model. kind: linear (y = xWᵀ + b, W of shape out × in), conv1d (GPT-2's y = xW + b, W of shape
    in × out), embedding (a table of in_features rows), norm, or other. weight, bias: number of elements; `bias` counts
    only what no earlier module owns. tied_to: the module that owns the weight, if this one only shares it.
    """

    name: str
    kind: Kind
    in_features: int
    out_features: int
    bias: int
    weight: int
    tied_to: str | None = None

    @property
    def parameters(self) -> int:
        """Elements that this module owns: a tied weight belongs to the other module."""
        return self.bias + (0 if self.tied_to else self.weight)


@dataclass(frozen=True)
class Architecture:
    """All modules of a model that own parameters, in the model's order.

    name: what the model is called. model_type: transformers' name of its family. total: number of parameters, tied ones
    once. head: the module that turns hidden states into logits, if the model says which. cache_numbers: how many keys
    and values one token leaves in the cache, over all layers; 0 if the model does not say. classifier: the modules of a
    classification head, () for a causal language model: every method trains them whole, beside what it does to the
    rest. active: share of the experts' weights that one token is computed with.
    """

    name: str
    model_type: str
    modules: tuple[Module, ...]
    total: int
    head: str | None = None
    cache_numbers: int = 0
    classifier: tuple[str, ...] = ()
    active: float = 1.0

    @property
    def experts(self) -> int:
        """Weights of experts that stand as one stack per block, not as linear layers: nothing is put beside them, and
        they are not stored in few bits."""
        return sum(m.weight for m in self.modules if m.kind == "other" and m.name.endswith(EXPERTS))

    @property
    def heads(self) -> frozenset[str]:
        """The modules that make the logits; no method puts anything beside them unasked."""
        return frozenset((*self.classifier, *((self.head,) if self.head else ())))

    @property
    def width(self) -> int:
        """Size of a token's hidden state: what the last norm is over, or, without any, what the embedding gives."""
        norms = [m.weight for m in self.modules if m.kind == "norm" and m.weight]
        return norms[-1] if norms else next((m.out_features for m in self.modules if m.kind == "embedding"), 0)

    @property
    def texts(self) -> int:
        """How many texts the model reads: two where an encoder and a decoder are both stacks of blocks, else one."""
        stacks = {found[1] for m in self.modules if (found := _STACK.search(m.name))}
        return max(1, len(stacks))

    def linears(self) -> Iterator[Module]:
        """The modules that multiply by a matrix, the head included."""
        return (m for m in self.modules if m.kind in ("linear", "conv1d"))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` is its inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Architecture:
        """Read what `to_dict` wrote."""
        rows = tuple(Module(**m) for m in record["modules"])
        return cls(**{**record, "modules": rows, "classifier": tuple(record.get("classifier", ()))})

    @classmethod
    def of(cls, model: torch.nn.Module, name: str | None = None) -> Architecture:
        """The table of a plain model (before a method is attached to it).

        Args:
            model: any module; on the meta device it need not have weights.
            name: what to call it; by default what its configuration says.
        """
        config = getattr(model, "config", None)
        get_head = getattr(model, "get_output_embeddings", None)
        head = get_head() if get_head is not None else None
        head_name = next((n for n, m in model.named_modules() if head is not None and m is head), None)
        owners: dict[int, str] = {}
        rows = []
        for path, module in model.named_modules():
            own = dict(module.named_parameters(recurse=False))
            if own:
                rows.append(_row(path, module, own, owners))
        called = name or getattr(config, "_name_or_path", "") or type(model).__name__
        modules = tuple(rows)
        total = sum(m.parameters for m in modules)
        layers, heads, size = cache_shape(config)
        own_text = getattr(config, "get_text_config", None)
        text = own_text() if own_text is not None else config
        return cls(
            called, getattr(config, "model_type", ""), modules, total, head_name, 2 * layers * heads * size,
            classifier_of(model), active_share(text),
        )  # fmt: skip


_STACK = re.compile(r"(?:^|\.)(encoder|decoder)\.\w+\.\d+\.")  # T5's encoder.block.0., BART's model.decoder.layers.0.
EXPERTS = ".experts"  # how transformers calls the stack of a block's experts
_OF_A_TOKEN = ("num_experts_per_tok", "experts_per_token", "moe_topk")
_OF_A_BLOCK = ("num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts")


def active_share(config: Any) -> float:
    """Experts that a token goes to, over all of a block, by a configuration or its values; 1 where there are none."""

    def first(names: tuple[str, ...]) -> int | None:
        found = (config.get(n) if isinstance(config, Mapping) else getattr(config, n, None) for n in names)
        return next((n for n in found if isinstance(n, int) and n > 0), None)

    one, every = first(_OF_A_TOKEN), first(_OF_A_BLOCK)
    return 1.0 if one is None or every is None else min(1.0, one / every)


def classifier_of(model: Any) -> tuple[str, ...]:
    """Paths of the modules of a classification head that own parameters, in the model's order: what stands outside the
    encoder, and what the checkpoint lacked inside it (a pooler)."""
    from core.base import FRESH, is_classifier

    if not is_classifier(model):
        return ()
    inside, fresh = f"{model.base_model_prefix}.", getattr(model, FRESH, ())
    return tuple(
        path
        for path, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None and (not path.startswith(inside) or path in fresh)
    )


def cache_shape(config: Any) -> tuple[int, int, int]:
    """Layers, key-value heads and numbers per head of a model's cache, by its configuration; zeros if it says none."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    layers, heads = getattr(text, "num_hidden_layers", 0), getattr(text, "num_attention_heads", 0)
    if not (isinstance(layers, int) and isinstance(heads, int) and heads):
        return 0, 0, 0
    size = getattr(text, "head_dim", None) or getattr(text, "hidden_size", 0) // heads
    return layers, getattr(text, "num_key_value_heads", None) or heads, size


def is_bias(parameter_name: str) -> bool:
    """Whether a parameter is a bias vector, by the naming that torch and transformers keep to (`bias`, `…_bias`)."""
    last = parameter_name.rpartition(".")[2]
    return last == "bias" or last.endswith("_bias")


def elements(parameter: torch.Tensor) -> int:
    """Number of weights a tensor holds. Four-bit weights are packed two to a byte, and say their shape elsewhere."""
    state = getattr(parameter, "quant_state", None)
    return int(state.shape.numel()) if state is not None else parameter.numel()


def _row(path: str, module: torch.nn.Module, own: dict[str, torch.Tensor], owners: dict[int, str]) -> Module:
    """The row of one module; `owners` maps the identity of each parameter seen so far to the module that owns it."""
    bias = weight = 0
    tied_to = None
    for name, parameter in own.items():
        owner = owners.setdefault(id(parameter), path)
        if is_bias(name):
            bias += elements(parameter) if owner == path else 0
        else:
            weight += elements(parameter)
            tied_to = owner if owner != path else tied_to
    kind, fan_in, fan_out = _kind(module)
    return Module(path, kind, fan_in, fan_out, bias, weight, tied_to)


def _kind(module: torch.nn.Module) -> tuple[Kind, int, int]:
    """Kind, inputs and outputs of a module that owns parameters."""
    import torch
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, torch.nn.Linear):
        return "linear", module.in_features, module.out_features
    if isinstance(module, Conv1D):
        return "conv1d", module.weight.shape[0], module.weight.shape[1]
    if isinstance(module, torch.nn.Embedding):
        return "embedding", module.num_embeddings, module.embedding_dim
    if "norm" in type(module).__name__.lower():
        weight = getattr(module, "weight", None)
        width = weight.numel() if weight is not None else 0
        return "norm", width, width
    return "other", 0, 0


def architecture_of_config(config: PretrainedConfig, name: str | None = None) -> Architecture:
    """The table of the causal language model that a transformers configuration describes, without its weights.

    Built on the meta device: seconds for the largest models, and no memory. An encoder is built with a classification
    head for as many labels as its configuration says (two, if it says nothing); any other family that has no causal
    language model as its plain model.
    """
    return Architecture.of(meta_model(config), name or getattr(config, "_name_or_path", "") or None)


def meta_model(config: PretrainedConfig) -> torch.nn.Module:
    """The model of a configuration on the meta device: shapes and names, no weights, no code from the hub.

    Raises:
        BaseUnavailable: its values make no model, with the field that is wrong, as far as that can be known.
    """
    import torch
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    from core.base import FRESH, NO_POOLER, is_encoder, no_model

    maker: Any = AutoModelForCausalLM if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING else AutoModel
    if is_encoder(config):
        maker = AutoModelForSequenceClassification
    try:
        with torch.device("meta"):
            model: torch.nn.Module = maker.from_config(config)
    except Exception as why:  # (each architecture has its own ways to find a value wrong)
        name = getattr(config, "_name_or_path", "") or "the model"
        raise no_model(name, config.model_type, why, config.to_dict()) from why
    if getattr(config, NO_POOLER, False):
        setattr(model, FRESH, tuple(path for path, _ in model.named_modules() if ".pooler." in f".{path}."))
    return model
