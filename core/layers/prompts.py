"""Trained tokens that stand before the text: vectors in front of its embeddings, or keys and values in every layer.

    X = [P; E(x)]                                (Lester et al. 2021, section 2: prompt tuning)
    head = Attn(xW_q, [P_k; CW_k], [P_v; CW_v])  (Li and Liang 2021, section 4: prefix tuning; He et al. 2022, eq. 7)

Both are modules that stand in the model beside its own, and hooks on the model's decoder that make use of them. On the
way in they put the trained tokens there and shift masks and positions; on the way out they take the tokens' own outputs
away again, so that whoever calls the model sees as many positions as there are words. Hooks act on one model; nobody's
class is changed.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def decoder_of(model: nn.Module) -> Any:
    """The part of a causal language model below the head: it embeds and runs the layers.

    Some families have two modules inside each other there, and call the inner one (OPT).
    """
    inner = getattr(model, "base_model", model)
    return getattr(inner, "decoder", inner)


def _named(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of a call by name."""
    return dict(zip(inspect.signature(module.forward).parameters, args, strict=False)) | dict(kwargs)


def _seen(arguments: Mapping[str, Any]) -> int:
    """How many positions the cache holds already."""
    cache = arguments.get("past_key_values")
    return int(cache.get_seq_length()) if cache is not None else 0


class Prompt(nn.Module):
    """What both kinds share: the number of tokens, the switch, and the hooks' registration.

    tokens: how many positions of the model's context they take.
    """

    IS_PROMPT = True

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.enabled = True

    def register(self, model: nn.Module) -> None:
        """Put the hooks on the model's decoder."""
        decoder_of(model).register_forward_pre_hook(self.before, with_kwargs=True)

    def before(self, decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        raise NotImplementedError

    def _shift(self, arguments: dict[str, Any], rows: int, device: torch.device) -> None:
        """Make masks see the tokens, and let the words' positions begin behind them."""
        mask = arguments.get("attention_mask")
        if isinstance(mask, torch.Tensor):
            if mask.dim() != 2:
                raise ValueError("Trained tokens need the attention mask as (rows, tokens), not spread out.")
            arguments["attention_mask"] = torch.cat([mask.new_ones(rows, self.tokens), mask], dim=1)
        if arguments.get("position_ids") is not None:
            arguments["position_ids"] = arguments["position_ids"] + self.tokens


class SoftPrompt(Prompt):
    """Trained vectors in front of the embeddings.

    Args:
        start: what they start as, (tokens, width).
        encoder: computes them from the trained embedding (P-tuning); without one they are that embedding itself.
    """

    def __init__(self, start: torch.Tensor, encoder: nn.Module | None = None) -> None:
        super().__init__(len(start))
        self.embedding = nn.Embedding(start.shape[0], start.shape[1], dtype=torch.float32, device=start.device)
        with torch.no_grad():
            self.embedding.weight.copy_(start)
        self.encoder = encoder
        self._put = False

    def forward(self) -> torch.Tensor:
        """The vectors, (tokens, width)."""
        return self.embedding.weight if self.encoder is None else self.encoder(self.embedding.weight)

    def register(self, model: nn.Module) -> None:
        super().register(model)
        decoder_of(model).register_forward_hook(self.after)

    def before(self, decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._put = False
        if not self.enabled:
            return None
        arguments = _named(decoder, args, kwargs)
        ids, embeds = arguments.get("input_ids"), arguments.get("inputs_embeds")
        if embeds is None:
            embeds = decoder.get_input_embeddings()(ids)
        rows = len(embeds)
        positions = arguments.get("position_ids")
        self._shift(arguments, rows, embeds.device)
        if _seen(arguments) == 0:
            vectors = self().to(embeds.dtype).expand(rows, -1, -1)
            arguments |= {"input_ids": None, "inputs_embeds": torch.cat([vectors, embeds], dim=1)}
            if positions is not None:
                first = torch.arange(self.tokens, device=positions.device).expand(len(positions), -1)
                arguments["position_ids"] = torch.cat([first, arguments["position_ids"]], dim=1)
            self._put = True
        return (), arguments

    def after(self, decoder: Any, args: tuple[Any, ...], out: Any) -> Any:
        if self._put:
            out.last_hidden_state = out.last_hidden_state[:, self.tokens :]
        return out


class Prefix(Prompt):
    """Trained keys and values in front of every layer's own.

    They go into the key-value cache before the words do, so the model treats them as a past.

    Args:
        tokens: how many. layers, heads, size: of the keys and values, per layer.
        projection: width of a two-layer network that computes them from a smaller embedding of `width` numbers per
            token; None trains them directly.
    """

    def __init__(
        self, tokens: int, layers: int, heads: int, size: int, *, projection: int | None, width: int, device: Any
    ) -> None:
        super().__init__(tokens)
        self.layers, self.heads, self.size = layers, heads, size
        numbers = 2 * layers * heads * size
        self.embedding = nn.Embedding(tokens, width if projection else numbers, dtype=torch.float32)
        self.transform: nn.Sequential | None = None
        if projection:
            # Made and started as PEFT's, so that one can be copied into the other.
            self.transform = nn.Sequential(nn.Linear(width, projection), nn.Tanh(), nn.Linear(projection, numbers))
        self.to(device)

    def forward(self) -> torch.Tensor:
        """All keys and values, (tokens, 2·layers·heads·size)."""
        return self.embedding.weight if self.transform is None else self.transform(self.embedding.weight)

    def before(self, decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        from transformers import DynamicCache

        if not self.enabled:
            return None
        arguments = _named(decoder, args, kwargs)
        given = arguments.get("inputs_embeds")
        given = arguments["input_ids"] if given is None else given
        rows = len(given)
        cache = arguments.get("past_key_values")
        if cache is None:
            cache = arguments["past_key_values"] = DynamicCache(config=decoder.config)
        self._shift(arguments, rows, given.device)
        if cache.get_seq_length() == 0:
            # (tokens, 2·layers, heads, size) -> per layer and kind (rows, heads, tokens, size)
            numbers = self().view(self.tokens, 2 * self.layers, self.heads, self.size).permute(1, 2, 0, 3)
            numbers = numbers.to(_dtype(decoder, numbers)).unsqueeze(1).expand(-1, rows, -1, -1, -1)
            for layer in range(self.layers):
                cache.update(numbers[2 * layer], numbers[2 * layer + 1], layer)
        return (), arguments


def _dtype(decoder: nn.Module, like: torch.Tensor) -> torch.dtype:
    """The dtype of keys and values in this pass: autocast's inside an autocast region, else the weights'."""
    kind = like.device.type
    if torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return next(p.dtype for p in decoder.parameters() if p.is_floating_point())
