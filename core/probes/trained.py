"""A finished run's model, loaded as the run itself had it when it was scored: the same precision, the same attention,
the same held-out items, so that scoring it again gives the run's own numbers."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.export.subject import config_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from core.base import Base
    from core.config import RunConfig
    from core.methods.base import Attached
    from core.objective import Objective
    from core.probes import Source, Tell


@dataclass
class Trained:
    """model: with the adapter on it, switched on. objective: what it was trained on and is scored by."""

    config: RunConfig
    base: Base
    attached: Attached
    objective: Objective
    precision: str
    device: Any

    @property
    def model(self) -> Any:
        return self.attached.model

    @property
    def tokenizer(self) -> Any:
        return self.base.tokenizer

    def autocast(self) -> Any:
        """The number format of the run's passes."""
        import torch

        if self.precision == "bfloat16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def counted(self, items: int) -> int:
        """How many held-out items `scores` looks at: of a classifier's all, since it reads each but once."""
        from core.objective import CausalLM

        return min(self.objective.held_out, items) if isinstance(self.objective, CausalLM) else self.objective.held_out

    def scores(self, items: int, skill_items: int) -> dict[str, Any]:
        """Score the model as it is now, as the run does.

        Args:
            items: of the held-out items, at most so many. skill_items: of each old skill, likewise; 0: none.

        Returns:
            {"exact_match": share right (None: nothing is held out), "loss": nats a token, "skills": {name: share}}
        """
        from core.evaluate import answer_loss, score
        from core.objective import CausalLM

        rows = min(32, self.config.train.batch_size)  # as in the run: other batches would round differently
        if not isinstance(self.objective, CausalLM):
            with self.autocast():
                found = self.objective.score(self.model, rows)
            return {"exact_match": found.share, "loss": found.loss, "skills": found.skills}
        held_out, asked = self.objective.held_out_rows[:items], self.objective.items[:items]
        with self.autocast():
            loss = answer_loss(self.model, self.tokenizer, held_out, batch_size=rows)
            share = score(self.model, self.tokenizer, asked).share if asked else None
            skills = {
                name: score(self.model, self.tokenizer, part[:skill_items]).share
                for name, part in self.objective.skills.items()
                if skill_items
            }
        return {"exact_match": share, "loss": loss, "skills": skills}


def load(source: Source, tell: Tell) -> Trained:
    """Load base and adapter of a run.

    Raises:
        DeltalabError: the base is gone or has changed, or the adapter cannot be read.
    """
    from core.base import load_base
    from core.hardware import pick_precision
    from core.methods import attach_saved, loading
    from core.objective import objective_for
    from core.train import EAGER_TOKENS, pick_device

    tell(None, "Loading the model")
    config = config_of(source)
    device = pick_device()
    precision = source.dtype or pick_precision(device)
    how = loading(config.method, precision, str(device))
    objective = objective_for(config)
    base = load_base(config.base, revision=config.revision, **how, **objective.loading)
    attached = attach_saved(base.model, source.adapter, device=device)
    told: Any = attached.model
    told.eval()
    objective.prepare(base)
    if device.type == "cpu" and max(objective.lengths) <= EAGER_TOKENS and told.config._attn_implementation != "eager":
        told.set_attn_implementation("eager")
    return Trained(config, base, attached, objective, precision, device)


def same_base(sources: Sequence[Source]) -> bool:
    """Whether runs began from the same weights, as far as their records say."""
    from core.methods.saved import read_record

    prints = {read_record(s.adapter).get("base_fingerprint") for s in sources}
    named = {(s.config.get("base"), s.config.get("revision")) for s in sources}
    return len(prints) == 1 if all(prints) else len(named) == 1
