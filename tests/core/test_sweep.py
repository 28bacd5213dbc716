"""The default settings are what the committed sweep says, and the rule that chooses them does what it says."""

from __future__ import annotations

import tomllib

from core import sweep
from core.config import RunConfig, resolved
from core.methods import METHODS
from core.world import TASKS


def row(method: str, task: str, rate: float, exact: float, skills: float, steps: int = 100) -> dict[str, str]:
    return {
        "base": "x", "method": method, "task": task, "learning_rate": str(rate), "steps": str(steps),
        "exact_match": str(exact), "skills_after": str(skills), "held_out_loss": "0.01",
    }  # fmt: skip


def test_the_committed_defaults_follow_from_the_committed_tables() -> None:
    rows, short = (
        [r for r in sweep.read_table(table) if r["base"] == sweep.base_hash()]
        for table in (sweep.TABLE, sweep.SHORT_TABLE)
    )
    tried = {(r["method"], r["task"]) for r in rows}
    assert tried >= {(m, t) for m in ("full", "lora", "qlora", "bitfit") for t in TASKS}
    assert tried >= {(m, "json") for m in METHODS}, "the race needs a rate for every method"
    assert sweep.defaults_text(rows, short) == sweep.DEFAULTS.read_text(encoding="utf-8")


def test_a_task_that_was_not_tried_gets_what_did_best_on_the_others(monkeypatch) -> None:
    rows = [row("ia3", "json", 3e-2, 0.9, 0.9, steps=120)]
    monkeypatch.setattr("core.config.default_table", lambda: tomllib.loads(sweep.defaults_text(rows, [])))
    train = resolved(RunConfig(method="ia3", task="facts")).train
    assert (train.learning_rate, train.steps) == (3e-2, 120)


def test_the_highest_score_wins() -> None:
    rows = [row("lora", "json", 1e-3, 0.7, 0.9), row("lora", "json", 3e-3, 0.95, 0.2)]
    assert sweep.best(rows)["learning_rate"] == "0.003"


def test_among_close_scores_the_one_that_forgets_less_wins_then_the_shorter() -> None:
    rows = [
        row("lora", "json", 1e-3, 0.97, 0.6),
        row("lora", "json", 3e-3, 0.98, 0.4),
        row("lora", "json", 1e-3, 0.97, 0.6, steps=60),
    ]
    assert sweep.best(rows) == rows[2]


def test_where_nothing_is_learnt_the_lowest_loss_wins() -> None:
    still, moving = row("p_tuning", "json", 1e-3, 0.02, 0.9), row("p_tuning", "json", 1e-2, 0.0, 0.1)
    still["held_out_loss"], moving["held_out_loss"] = "1.5", "1.1"
    assert sweep.best([still, moving]) == moving
    still["exact_match"] = "0.03"
    assert sweep.best([still, moving]) == still


def test_short_runs_give_a_rate_by_their_steps_and_change_nothing_else() -> None:
    rows = [row("lora", "json", 1e-3, 1.0, 0.9), row("lora", "facts", 1e-3, 0.9, 0.9)]
    short = [
        row("lora", "json", 1e-3, 0.5, 0.9, steps=30), row("lora", "json", 6e-3, 1.0, 0.9, steps=30),
        row("lora", "json", 3e-3, 1.0, 0.9, steps=60), row("full", "json", 1e-3, 1.0, 0.9, steps=30),
    ]  # fmt: skip
    without, text = (sweep.defaults_text(rows, more) for more in ([], short))
    told = "rates = { 30 = 0.006, 60 = 0.003 }\n"
    assert text == without.replace(
        "[lora.json]\nlearning_rate = 0.001\nsteps = 100\n", f"[lora.json]\nlearning_rate = 0.001\nsteps = 100\n{told}"
    )
    assert tomllib.loads(text)["lora"]["json"]["rates"] == {"30": 0.006, "60": 0.003}


def test_among_equals_the_lower_loss_wins_wherever_it_stands() -> None:
    slow, quick = row("pissa", "json", 3e-4, 1.0, 1.0), row("pissa", "json", 1e-3, 1.0, 1.0)
    slow["held_out_loss"], quick["held_out_loss"] = "0.0047", "0.0005"
    assert sweep.best([slow, quick]) == quick
    assert sweep.best([quick, slow]) == quick
    assert "[pissa.any]\nlearning_rate = 0.001" in sweep.defaults_text([slow, quick], [])
    quick["skills_after"] = "0.9"
    assert sweep.best([slow, quick]) == slow, "forgetting less counts before it"


def test_any_takes_the_rate_that_is_best_over_the_tasks() -> None:
    rows = [
        row("lora", "json", 1e-3, 0.9, 0.9),
        row("lora", "json", 3e-3, 1.0, 0.9),
        row("lora", "facts", 1e-3, 0.9, 0.9),
        row("lora", "facts", 3e-3, 0.1, 0.9, steps=200),
    ]
    text = sweep.defaults_text(rows, [])
    assert "[lora.any]\nlearning_rate = 0.001\nsteps = 100\n" in text
    assert "[lora.json]\nlearning_rate = 0.003" in text


def test_another_base_gets_a_published_rate_with_its_source() -> None:
    text = sweep.defaults_text([row("lora", "json", 3e-3, 1.0, 0.9), row("full", "json", 5e-4, 1.0, 0.9)], [])
    for method, (rate, source) in ((name, module.PUBLISHED) for name, module in METHODS.items()):
        assert (f"# {source}\n[{method}.other]\nlearning_rate = {rate}\n" in text) == (method in ("lora", "full"))
        rate, source = getattr(METHODS[method], "PUBLISHED_ENCODER", (0.0, ""))
        assert (f"# {source}\n[{method}.encoder]\nlearning_rate = {rate}\n" in text) == (method in ("lora", "full"))
    for method in METHODS:
        config = RunConfig(base="owner/name", method=method)
        assert resolved(config).train.learning_rate == METHODS[method].PUBLISHED[0] < 0.5
