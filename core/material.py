"""What a run learns from and is scored on, as conversations: generated, or read from a person's file. No torch.

The order is that of the generator or of the file; `core.batches.Plan` then says which of them make up each batch.
"""

from __future__ import annotations

import math
from pathlib import Path

from core.config import RunConfig
from core.template import Dialogue, dialogue
from core.world import SKILLS, examples

# Held-out questions do not depend on the run's seed: two runs are scored on the same items.
SCORING_SEED = 20_000


def dialogues(config: RunConfig) -> tuple[list[Dialogue], list[Dialogue]]:
    """Everything that a run trains on (of any length), replayed old skills last; and what is held out.

    Raises:
        BadInput: the file cannot be read.
    """
    loop = config.train
    if config.task is not None:
        made = examples(config.task, "train", loop.train_examples, config.seed)
        held = examples(config.task, "heldout", loop.eval_items, SCORING_SEED)
        train, held_out = ([dialogue(e.prompt, e.completion) for e in part] for part in (made, held))
    else:
        from core.dataset import read_file, split

        assert config.data is not None
        train, held_out = split(read_file(Path(config.data)), loop.held_out, config.seed)
    if loop.replay > 0:
        extra = replayed_count(len(train), loop.replay)
        per_skill = math.ceil(extra / len(SKILLS))
        old = [e for name in SKILLS for e in examples(name, "train", per_skill, config.seed)]
        train = train + [dialogue(e.prompt, e.completion) for e in old[:extra]]
    return train, held_out


def replayed_count(new: int, share: float) -> int:
    """How many old examples go with `new` ones, so that the old are that share of all: n·s/(1 − s).

    Args:
        share: 0 to below 1.
    """
    return round(new * share / (1 - share))
