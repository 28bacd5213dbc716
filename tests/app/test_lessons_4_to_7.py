"""Lessons 4 to 7: what their text says in words, their recorded results show in numbers."""

from __future__ import annotations

from typing import Any

import pytest

from app import calc, index
from core.counting import count

SLUGS = ("04_qlora", "05_bitfit_and_smallest", "06_forgetting", "07_shipping_adapters")
LESSONS = {lesson.slug: lesson for lesson in index.lessons() if lesson.slug in SLUGS}


def recorded(slug: str, run: str, what: str) -> float:
    return calc.recorded(LESSONS[slug].folder, run, what)


def probed(slug: str, name: str) -> Any:
    return calc.probed_result(LESSONS[slug].folder / "runs" / f"{name}.json")["result"]


@pytest.mark.parametrize("slug", SLUGS)
def test_a_lesson_has_all_kinds_of_cells(slug: str) -> None:
    lesson = LESSONS[slug]
    kinds = [cell.kind for cell in lesson.cells]
    assert {"predict", "quiz", "exercise", "code", "source", "widget", "image"} <= set(kinds)
    assert {"compare", "probe", "experiment"} & set(kinds)
    assert kinds.count("quiz") >= 3
    assert {"numeric", "ordering"} <= {c.body.get("kind") for c in lesson.cells if c.kind == "quiz"}
    assert 5 <= len(lesson.summary_points) <= 8


def test_four_bits_spare_the_base_and_two_do_not() -> None:
    formats = {(f["format"], f["double"]): f for f in probed("04_qlora", "suffering")["formats"]}
    assert formats["nf4", True]["added"] < 0.02 < formats["nf2", False]["added"]
    assert formats["nf3", False]["added"] < 0.1 < formats["nf2", False]["added"]
    # NF4 errs less than INT4 on the weights, and the loss does not follow.
    assert formats["int4", False]["added"] < formats["nf4", False]["added"]
    for matrix in probed("04_qlora", "errors")["matrices"]:
        errors = matrix["errors"]
        assert errors["nf4"]["rmse"] < errors["int4"]["rmse"] < errors["fp4"]["rmse"]
        assert errors["int8"]["rmse"] < errors["nf4"]["rmse"] / 10


def test_qlora_learns_as_much_in_less_memory() -> None:
    lora, qlora = (recorded("04_qlora", f"lora-or-qlora/{m}", "peak_bytes") for m in ("lora", "qlora"))
    assert 0 < lora - qlora < calc.base_bytes()
    assert recorded("04_qlora", "lora-or-qlora/qlora", "exact_match_after") >= 90


def test_bitfit_at_loras_rate_learns_nothing_and_at_its_own_the_task() -> None:
    slug = "05_bitfit_and_smallest"
    assert recorded(slug, "rates/r1", "exact_match_after") <= 20
    assert recorded(slug, "rates/r30", "exact_match_after") >= 90
    assert recorded(slug, "smallest/ia3", "exact_match_after") >= 90


def test_the_order_of_sizes_that_the_quiz_asks_for_is_right() -> None:
    from core.catalog import architecture_of

    table = architecture_of("Llama-3.1-8B")
    sizes = [count(table, m).trainable or 0 for m in ("prompt_tuning", "ia3", "prefix_tuning", "lora")]
    assert sizes == sorted(sizes)


def test_forgetting_comes_before_learning_and_replay_undoes_it_at_a_price() -> None:
    slug = "06_forgetting"
    events = calc.recorded_events(LESSONS[slug].folder / "runs" / "during.jsonl")
    middle = next(e for e in events if e["kind"] == "evaluated" and e["step"] == 40)
    assert middle["exact_match"] < 0.05
    assert sum(middle["skills"].values()) / len(middle["skills"]) < 0.85
    assert recorded(slug, "replay/none", "skills_after") <= 85
    assert recorded(slug, "replay/tenth", "skills_after") >= 95
    assert recorded(slug, "replay/tenth", "exact_match_after") < recorded(slug, "replay/none", "exact_match_after")
    # The same method at half the rate learns less and forgets less; the smallest learns nothing and forgets.
    assert recorded(slug, "methods/gentle", "skills_after") > recorded(slug, "methods/lora", "skills_after") + 10
    assert recorded(slug, "methods/gentle", "exact_match_after") < recorded(slug, "methods/lora", "exact_match_after")
    assert recorded(slug, "methods/bitfit", "exact_match_after") <= 5
    assert recorded(slug, "methods/bitfit", "skills_after") <= 95


def test_what_is_shipped_is_what_was_trained() -> None:
    slug = "07_shipping_adapters"
    swapped = probed(slug, "swapped")
    assert swapped["equal"] == 1.0
    assert swapped["one_base_bytes"] < 0.6 * swapped["models_bytes"]
    timed = {row["label"]: row for row in probed(slug, "timed")["rows"]}
    assert timed["LoRA, unmerged"]["decode_ratio"][1] > 1.2 * timed["LoRA, merged"]["decode_ratio"][1]
    assert swapped["switch_seconds"][1] < timed["base"]["decode_ms"] / 1000
    forms = {row["form"]: row for row in probed(slug, "rounded")["rows"]}
    assert forms["float32"]["exact_match"] == forms["trained"]["exact_match"]
    change = probed(slug, "rounded")["change"]
    assert change["learnt"] > change["rounded"]
