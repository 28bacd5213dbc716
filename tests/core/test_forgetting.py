"""Forgetting and its cure: the measure, the sweep's outcomes, and old examples among the new."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.batches import Plan
from core.config import RunConfig, with_settings
from core.errors import BadInput, NotFound
from core.forgetting import lost, swept, swept_point
from core.material import dialogues, replayed_count
from core.world import SKILLS, examples

pytestmark = pytest.mark.usefixtures("untraced")


def config(replay: float, seed: int = 0) -> RunConfig:
    return with_settings(RunConfig(task="json", seed=seed), {"replay": replay, "train_examples": 200, "eval_items": 4})


def prompts(replay: float, seed: int = 0) -> list[str]:
    return [d.messages[0].content for d in dialogues(config(replay, seed))[0]]


def test_lost_is_the_mean_fall_over_common_skills_with_gains_counted() -> None:
    assert lost({"a": 1.0, "b": 0.5, "c": 1.0}, {"a": 0.5, "b": 0.9, "d": 0.0}) == pytest.approx(0.05)
    with pytest.raises(BadInput, match="no skill"):
        lost({"a": 1.0}, {"b": 1.0})


def test_the_sweep_is_of_the_base_that_is_shipped_and_is_found_by_its_rate() -> None:
    assert {"full", "lora", "bitfit"} <= {r.method for r in swept()}
    row = swept_point("lora", "json", 0.001)
    assert row.lost == pytest.approx(row.before - row.kept)
    with pytest.raises(NotFound, match=r"rates 0\.001"):
        swept_point("lora", "json", 0.5)


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.1, 22), (0.2, 50), (0.5, 200), (0.9, 1800)])
def test_old_examples_make_the_share_of_all_that_is_asked_for(share: float, count: int) -> None:
    assert replayed_count(200, share) == count
    assert count / (200 + count) == pytest.approx(share, abs=0.002)
    found = prompts(share)
    assert len(found) == 200 + count
    assert sum(p.startswith("JSON:") for p in found) == 200


def test_replay_draws_on_every_old_skill_and_never_on_what_is_scored() -> None:
    old = [p for p in prompts(0.5) if not p.startswith("JSON:")]
    scored = {e.prompt for name in SKILLS for e in examples(name, "heldout", 40, 20_000)}
    assert not scored & set(old)
    by_skill = {name: {e.prompt for e in examples(name, "train", 40, 0)} for name in SKILLS}
    assert {name: sum(p in known for p in old) for name, known in by_skill.items()} == dict.fromkeys(SKILLS, 40)


def test_what_is_replayed_depends_on_the_seed_alone() -> None:
    assert prompts(0.3) == prompts(0.3)
    assert prompts(0.3) != prompts(0.3, seed=1)


def test_old_and_new_meet_in_the_batches_from_the_first_epoch_on() -> None:
    found = prompts(0.3)
    plan = Plan([len(p) for p in found], 32, seed=0, buckets=False)
    mixed = [{found[i].startswith("JSON:") for i in plan.rows(n)} for n in range(plan.per_epoch)]
    assert all(kinds == {True, False} for kinds in mixed)


def test_a_run_with_replay_that_was_stopped_goes_on_with_the_same_batches(tmp_path: Path) -> None:
    from core.events import Step
    from core.train import train

    small = with_settings(
        config(0.3),
        {"steps": 4, "batch_size": 8, "train_examples": 20, "skill_items": 0, "max_length": 128, "learning_rate": 1e-3},
    )
    asked = iter([False, False, True])

    def losses(folder: str, **how: Any) -> list[float]:
        return [e.loss for e in train(small, tmp_path / folder, **how) if isinstance(e, Step)]

    whole = losses("whole")
    first = losses("parts", should_stop=lambda: next(asked, True))
    assert 0 < len(first) < len(whole)
    assert first + losses("parts", resume=True) == whole
