"""What the methods have in common that train tokens before the text: prompt tuning, P-tuning and prefix tuning.

They add a module to the model and touch none of its own, so switching off is exact and free. There is nothing to fold
into weights: the tokens take part in every pass, as words would.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import BadInput, Incompatible, Refused
from core.methods import saved
from core.methods.modules import check_plain

if TYPE_CHECKING:
    import torch

    from core.architecture import Architecture
    from core.layers.prompts import Prompt

MODULE = "trained_prompt"  # what the added module is called in the model
TOKENS = f"{MODULE}.embedding"  # and what of it holds the tokens
EXTRA = "encoder.safetensors"  # beside PEFT's file, what computes the tokens: PEFT's holds only what came out
# What is trained, as `core.methods.base.Method` has it under PROMPT.
AS_TOKENS, AS_KEYS = "tokens", "keys"
INFERENCE = "The tokens take part in every pass and take their number from the context; they cannot be merged."


def embedding_width(architecture: Architecture) -> int:
    """Width of the token embedding.

    Raises:
        Incompatible: the model has none, or it is an encoder.
    """
    if architecture.classifier:
        raise Incompatible(
            f"{architecture.name} is an encoder, whose label is read off its first token: trained tokens would "
            "stand in that place.",
            "Use lora, bitfit or ia3; they train encoders as published.",
        )
    row = next((m for m in architecture.modules if m.kind == "embedding"), None)
    if row is None:
        raise Incompatible(f"{architecture.name} has no token embedding.", "Choose a transformer as base.")
    return row.out_features


def vectors(architecture: Architecture, tokens: int) -> int:
    """How many vectors `tokens` trained tokens are: an encoder-decoder reads two texts, and has as many before each
    (as PEFT's num_transformer_submodules)."""
    return tokens * architecture.texts


def put(model: Any, prompt: Prompt) -> None:
    """Freeze `model` and let `prompt` stand before every text that it reads.

    Raises:
        Incompatible: it would take more than half of the model's context.
    """
    from core.base import context_tokens

    context = context_tokens(model)
    if context is not None and prompt.tokens > context // 2:
        raise Incompatible(
            f"{prompt.tokens} trained tokens would leave {max(0, context - prompt.tokens)} of the {context} positions "
            "that this model has for the text.",
            f"Set tokens to {context // 2} at most.",
        )
    model.requires_grad_(False)
    model.add_module(MODULE, prompt)
    prompt.train(model.training)
    prompt.requires_grad_(True)
    prompt.register(model)


def check(model: Any) -> None:
    """Raise Incompatible for a model that carries something already, or reads no tokens."""
    check_plain(model)
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise Incompatible(
            f"{type(model).__name__} reads two texts, an encoder's and a decoder's: what tokens before both take is "
            "counted here, and not trained.",
            "Choose a model that continues a text, or train this one with lora.",
        )
    if getattr(model, "get_input_embeddings", None) is None:
        raise Incompatible(f"{type(model).__name__} has no token embedding.", "Choose a transformer as base.")


def tokens_in(folder: Path, *types: str) -> int:
    """How many tokens the folder of one of PEFT's types holds.

    Raises:
        BadInput: none there, of another type, or without a usable number.
    """
    tokens = saved.read_peft(folder, *types).get("num_virtual_tokens")
    if not isinstance(tokens, int) or tokens < 1:
        raise BadInput(f"The file {saved.ADAPTER_CONFIG} in {Path(folder).name} lacks a usable num_virtual_tokens.")
    return tokens


class Attached:
    """A model with trained tokens before its text; see `core.methods.base.Attached`."""

    PEFT_TYPE = ""
    ALSO: tuple[str, ...] = ()  # other types of PEFT's whose folders hold the same thing

    def __init__(self, model: Any, prompt: Prompt, method: str, config: Any) -> None:
        self.model = model
        self.prompt = prompt
        self.method = method
        self.config = config

    def _parameters(self) -> dict[str, torch.nn.Parameter]:
        return {f"{MODULE}.{name}": p for name, p in self.prompt.named_parameters()}

    def trainable_names(self) -> list[str]:
        """The added module's parameters."""
        return list(self._parameters())

    def rate_factors(self) -> dict[str, float]:
        """All parameters move at the run's rate."""
        return {}

    def disable(self) -> None:
        """Leave the tokens out: the model computes what the base computes."""
        self.prompt.enabled = False

    def enable(self) -> None:
        """Put the tokens before the text again."""
        self.prompt.enabled = True

    def merge(self) -> torch.nn.Module:
        """Raises:
        Refused: always.
        """
        raise Refused(
            "Trained tokens cannot be merged: they are read with every text, not part of a weight.",
            "Keep them beside the base, or use a method that merges, such as lora.",
        )

    def peft_fields(self) -> dict[str, Any]:
        """The fields of PEFT's file that are this method's own."""
        return {}

    def save(self, folder: Path) -> None:
        """Write PEFT's two files, our `deltalab.json` and, where the tokens are computed from something, that too.
        `folder` is replaced whole."""
        import torch
        from safetensors.torch import save_file

        own = {name: p.detach().cpu().contiguous() for name, p in self.prompt.named_parameters()}
        with torch.no_grad():
            vectors = self.prompt().detach().cpu().contiguous()
        text = self.model.config.get_text_config()
        config = {
            "peft_type": self.PEFT_TYPE,
            "task_type": "CAUSAL_LM",
            **saved.base_fields(self.model),
            "num_virtual_tokens": self.prompt.tokens,
            "num_transformer_submodules": 1,
            "num_layers": text.num_hidden_layers,
            "num_attention_heads": text.num_attention_heads,
            "token_dim": vectors.shape[1],
            "inference_mode": True,
            **self.peft_fields(),
        }
        with saved.replacing(folder) as fresh:
            save_file({"prompt_embeddings": vectors}, fresh / saved.ADAPTER_WEIGHTS, metadata={"format": "pt"})
            if len(own) > 1:
                save_file(own, fresh / EXTRA, metadata={"format": "pt"})
            saved.write_json(fresh / saved.ADAPTER_CONFIG, config)
            total = sum(t.numel() for t in own.values())
            saved.write_record(fresh, self.method, self.config, self.model, total)

    def load(self, folder: Path) -> None:
        """Read what `save` or PEFT wrote for as many tokens.

        Raises:
            BadInput: files are missing or damaged, another method's, or of another size; or (from PEFT) only the tokens
                are there where this method trains what computes them.
        """
        folder = Path(folder)
        what = f"The adapter in {folder.name}"
        saved.check_type(self.model, folder)
        also = () if saved.read_record(folder) else self.ALSO
        saved.read_peft(folder, self.PEFT_TYPE, *also)
        vectors = saved.read_tensors(folder / saved.ADAPTER_WEIGHTS)
        own = dict(self.prompt.named_parameters())
        if len(own) == 1:
            saved.copy_into({"prompt_embeddings": next(iter(own.values()))}, vectors, what)
            return
        if not (folder / EXTRA).exists():
            raise BadInput(
                f"{what} holds only the tokens that its encoder made, not the encoder, so they cannot be trained on.",
                self.without_encoder(),
            )
        tensors = saved.read_tensors(folder / EXTRA)
        saved.copy_into(own, tensors, what)

    def without_encoder(self) -> str:
        """What to do about a folder that has none."""
        return ""
