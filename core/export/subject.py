"""A finished run in memory: its base, its change attached, and what it is scored on. Imports torch where it is used."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import RunConfig
from core.errors import BadInput, Refused
from core.methods import METHODS
from core.probes import Source

if TYPE_CHECKING:
    import torch

    from core.base import Base
    from core.methods import Attached
    from core.objective import Objective


def config_of(source: Source) -> RunConfig:
    """The run's settings; its data file is the copy in its folder."""
    data = source.config.get("data")
    record = {**source.config, "data": str(source.adapter.parent / data) if data else None}
    return RunConfig.from_dict(record)


def device() -> str:
    """Where things are measured: the first GPU, or the CPU."""
    import torch

    return "cuda:0" if torch.cuda.is_available() else "cpu"


def precision_of(source: Source) -> str:
    """What the run computed in."""
    from core.hardware import pick_precision

    return source.dtype or pick_precision(device())


def load_plain(source: Source, method: str | None = None) -> Base:
    """The run's base, loaded as `method` (None: as it is) wants it.

    Raises:
        BaseUnavailable: as `core.base.load_base`.
    """
    from core.base import load_base
    from core.methods import loading
    from core.objective import objective_for

    config = config_of(source)
    how = loading(method, precision_of(source), device())
    return load_base(config.base, revision=config.revision, **how, **objective_for(config).loading)


def load_run(source: Source, *, keep_base: bool = True) -> tuple[Base, Attached]:
    """The run's base with what it learnt attached and switched on, in evaluation mode.

    Raises:
        BaseUnavailable, BadInput: the base is not there any more, or is another one.
    """
    from core.methods import attach_saved

    base = load_plain(source, config_of(source).method)
    attached = attach_saved(base.model, source.adapter, keep_base=keep_base, device=device())
    base.model.eval()
    return base, attached


def check_merges(method: str) -> None:
    """Raise Refused for a method whose change cannot become part of the weights."""
    if not METHODS[method].MERGES:
        raise Refused(
            f"{METHODS[method].TITLE} cannot be merged: what it adds is computed with every text, not part of a "
            "weight.",
            "Keep it beside the base, or train with a method that merges, such as lora.",
        )


def check_generates(sources: Sequence[Source]) -> None:
    """Raise Refused for runs whose base gives labels to texts: they generate nothing."""
    from core.base import CLASSIFICATION, kind_of_base

    for source in sources:
        base, revision = source.config["base"], source.config.get("revision")
        if kind_of_base(base, revision) == CLASSIFICATION:
            raise Refused(
                f"{base} is an encoder, which gives labels to texts and generates none.",
                "Choose a run of a language model.",
            )


def check_one_base(sources: Sequence[Source]) -> None:
    """Raise BadInput when the runs were not trained on the same base."""
    bases = {(s.config["base"], s.config.get("revision")) for s in sources}
    if len(bases) > 1:
        raise BadInput(
            f"These runs have {len(bases)} bases: {', '.join(sorted(str(b) for b, _ in bases))}.",
            "Choose runs of one base.",
        )


@contextmanager
def computing(precision: str) -> Iterator[None]:
    """Without gradients, in autocast where the run computed so."""
    import torch

    with torch.no_grad(), torch.autocast(device().partition(":")[0], torch.bfloat16, enabled=precision == "bfloat16"):
        yield


def questions(source: Source, base: Base, most: int) -> Objective:
    """The run's own held-out items and old skills, at most so many of each.

    Args:
        base: for its tokenizer.
    """
    from core.objective import objective_for

    config = config_of(source)
    loop = replace(
        config.train, eval_items=min(config.train.eval_items, most), skill_items=min(config.train.skill_items, most),
        train_examples=1, replay=0.0,
    )  # fmt: skip
    made = objective_for(replace(config, train=loop))
    made.prepare(base)
    return made


@dataclass(frozen=True)
class Scores:
    """exact_match: share of the held-out items answered right (None: nothing held out). loss: of their answers, nats a
    token. skills: the old ones' shares; skills_mean: their mean (None: a base without). answers: to the items."""

    exact_match: float | None
    loss: float | None
    skills: dict[str, float]
    skills_mean: float | None
    answers: tuple[str, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Without the answers."""
        return {
            "exact_match": self.exact_match, "loss": self.loss, "skills": self.skills, "skills_mean": self.skills_mean,
        }  # fmt: skip


def narrowed(asked: Objective, items: int, skill_items: int) -> Objective:
    """The same questions, at most so many of the held-out ones and of each old skill (0: none). A classifier's stay: it
    reads each but once."""
    from core.objective import CausalLM

    if not isinstance(asked, CausalLM):
        return asked
    fewer = copy.copy(asked)
    fewer.items, fewer.held_out_rows = asked.items[:items], asked.held_out_rows[:items]
    fewer.skills = {name: part[:skill_items] for name, part in asked.skills.items() if skill_items}
    return fewer


def scores(model: Any, base: Base, asked: Objective, precision: str, rows: int = 32) -> Scores:
    """Score a model on the run's own questions, as the run itself was scored.

    Args:
        rows: of a batch; another number than the run's rounds a little differently.
    """
    from core.evaluate import answer_loss, score
    from core.objective import CausalLM

    if not isinstance(asked, CausalLM):
        with computing(precision):
            found = asked.score(model, rows)
        return Scores(found.share, found.loss, {}, None)
    with computing(precision):
        task = score(model, base.tokenizer, asked.items)
        loss = answer_loss(model, base.tokenizer, asked.held_out_rows, batch_size=rows)
        skills = {name: score(model, base.tokenizer, items, whole=0).share for name, items in asked.skills.items()}
    return Scores(
        task.share if asked.items else None,
        loss,
        skills,
        sum(skills.values()) / len(skills) if skills else None,
        task.answers,
    )


def held_bytes(*holders: Mapping[str, torch.Tensor] | Any) -> int:
    """Bytes of all tensors in these modules and mappings; memory that is shared counts once."""
    seen: dict[int, int] = {}
    for holder in holders:
        if not isinstance(holder, Mapping):
            tensors = [*holder.parameters(), *holder.buffers()]
            # A 4-bit weight keeps its scales outside the module's parameters.
            states = [getattr(t, "quant_state", None) for t in tensors]
            tensors += [t for s in states if s is not None for t in _state_tensors(s)]
        else:
            tensors = list(holder.values())
        for tensor in tensors:
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values())


def _state_tensors(state: Any) -> list[torch.Tensor]:
    found = [state.absmax, state.code]
    if state.state2 is not None:
        found += [state.state2.absmax, state.state2.code]
    return found


def folder_bytes(folder: Path) -> int:
    """What a folder's files hold."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
