"""A finished run's model, loaded as the run itself had it when it was scored: the same precision, the same attention,
the same held-out items, so that scoring it again gives the run's own numbers."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.export.subject import config_of, load_run, narrowed, precision_of, scores

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
        rows = min(32, self.config.train.batch_size)  # as in the run: other batches would round differently
        asked = narrowed(self.objective, items, skill_items)
        found = scores(self.model, self.base, asked, self.precision, rows)
        return {"exact_match": found.exact_match, "loss": found.loss, "skills": found.skills}


def load(source: Source, tell: Tell) -> Trained:
    """Load base and adapter of a run.

    Raises:
        DeltalabError: the base is gone or has changed, or the adapter cannot be read.
    """
    from core.objective import objective_for
    from core.train import EAGER_TOKENS, pick_device

    tell(None, "Loading the model")
    config = config_of(source)
    base, attached = load_run(source)
    objective = objective_for(config)
    objective.prepare(base)
    told: Any = attached.model
    on = pick_device()
    if on.type == "cpu" and max(objective.lengths) <= EAGER_TOKENS and told.config._attn_implementation != "eager":
        told.set_attn_implementation("eager")
    return Trained(config, base, attached, objective, precision_of(source), on)


def same_base(sources: Sequence[Source]) -> bool:
    """Whether runs began from the same weights, as far as their records say."""
    from core.methods.saved import read_record

    prints = {read_record(s.adapter).get("base_fingerprint") for s in sources}
    named = {(s.config.get("base"), s.config.get("revision")) for s in sources}
    return len(prints) == 1 if all(prints) else len(named) == 1
