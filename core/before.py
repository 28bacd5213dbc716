"""What a base scores before a run, kept for the next run of the same process that would score the same.

    scores = scored_before(key_of(…), lambda: objective.score(…))

A race scores one base on one set of questions as often as it has methods, and gets the same numbers each time, to the
last bit: nothing in that depends on what is trained afterwards. So the first run of a process scores and the others
read. Only in memory: another process, another version or another machine scores for itself.

What the numbers depend on is the key, all of it:
- the weights: the files they came from (name, size, time of change), the fingerprint of their content, the format they
  were loaded in, and what the method has done to them by then: nothing where it starts as the base bit for bit (START
  "base"; the conformance tests hold every method to that) or is switched off meanwhile ("other"); where it quantizes
  them or starts as the base but for rounding, the key has the method, its settings and the seed;
- the questions: their text, the wanted answers, and the held-out rows as token ids;
- how it is computed: device, precision, form of attention, threads, rows in a pass, our kernels or none.

A classifier's head may be drawn anew for each seed, so its scores are not kept.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from core.lately import lately
from core.methods import METHODS
from core.objective import CausalLM, Scores

if TYPE_CHECKING:
    from core.base import Base
    from core.config import RunConfig

MOST = 32
_known: OrderedDict[str, Scores] = OrderedDict()


def key_of(config: RunConfig, base: Base, model: Any, objective: Any, precision: str, batch_size: int) -> str | None:
    """What the score of a base depends on, as one text; None where it is not kept.

    Args:
        model: the base with the method attached, not trained yet. batch_size: rows in a pass of the held-out loss.
    """
    if not isinstance(objective, CausalLM) or not base.files:
        return None
    method = METHODS[config.method]
    changed = method.BASE == "quantized" or method.START == "rounding"
    record = config.to_dict()
    return json.dumps([
        base.source, base.files, base.facts["fingerprint"], base.facts["dtype"],
        [config.method, record["settings"], config.seed] if changed else None,
        config.task, questions_digest(objective),
        str(next(model.parameters()).device), precision, model.config._attn_implementation, torch.get_num_threads(),
        batch_size, config.train.fast_step,
    ])  # fmt: skip


def questions_digest(objective: CausalLM) -> str:
    """A hash of everything that is asked and wanted."""
    seen = hashlib.sha256()
    for name, items in [("", objective.items), *objective.skills.items()]:
        turns = [[[(m.role, m.content) for m in item.messages], item.reference] for item in items]
        seen.update(json.dumps([name, turns]).encode())
    seen.update(json.dumps([(row.ids, row.labels) for row in objective.held_out_rows]).encode())
    seen.update(str(objective.tokenizer.chat_template).encode())
    return seen.hexdigest()


def scored_before(key: str | None, score: Callable[[], Scores]) -> Scores:
    """The scores under `key`, else what `score` gives, kept for the next one who asks."""
    if key is None:
        return score()
    return lately(_known, key, score, MOST)


__all__ = ["key_of", "questions_digest", "scored_before"]
