"""Lessons 1 to 3: their widgets' arithmetic is the engine's, and their exercises take the right answers only."""

from __future__ import annotations

import ast
import math
from typing import Any

import numpy as np
import pytest

from app import block_drawing, calc, charts_lessons_a, index
from app.widgets import renderer
from core import anatomy, exercise, picture
from core.claims import claim
from core.errors import BadInput
from core.memory import needs, per_parameter
from core.memory.storage import storage
from core.methods import METHODS

SLUGS = ("01_why_full_hurts", "02_freeze_and_add", "03_lora_rank")
LESSONS = [lesson for lesson in index.lessons() if lesson.slug in SLUGS]
EXERCISES = [(lesson, cell) for lesson in LESSONS for cell in lesson.cells if cell.kind == "exercise"]
MODELS = ("embedded", "Llama-3.1-8B", "GPT-2")
each_exercise = pytest.mark.parametrize(("lesson", "cell"), EXERCISES, ids=lambda x: getattr(x, "slug", None) or x.id)


def test_the_three_lessons_are_there() -> None:
    assert [lesson.slug for lesson in LESSONS] == list(SLUGS)
    for lesson in LESSONS:
        kinds = {cell.kind for cell in lesson.cells}
        assert {"predict", "compare", "quiz", "exercise", "code", "source", "widget", "image"} <= kinds
        quizzes = {cell.body.get("kind", "single") for cell in lesson.cells if cell.kind == "quiz"}
        assert {"numeric", "ordering", "multiple", "single"} <= quizzes
        assert 5 <= len(lesson.summary_points) <= 8


# --- exercises --------------------------------------------------------------------------------------------------------


def checked(lesson: index.Lesson, cell: index.Cell, code: str) -> exercise.Verdict:
    space: dict[str, Any] = {}
    exec(compile(ast.parse(code), "<answer>", "exec"), space)
    return exercise.run(lesson.folder / "checks.py", index.check_name(cell), space)


@each_exercise
def test_the_solution_is_accepted(lesson: index.Lesson, cell: index.Cell) -> None:
    assert checked(lesson, cell, cell.body["solution"]).right


@each_exercise
def test_the_stub_is_not(lesson: index.Lesson, cell: index.Cell) -> None:
    assert not checked(lesson, cell, cell.body["stub"]).right


@each_exercise
def test_wrong_answers_are_told_why(lesson: index.Lesson, cell: index.Cell) -> None:
    for wrong in cell.body["wrong"]:
        verdict = checked(lesson, cell, wrong["code"])
        assert not verdict.right
        assert wrong["says"] in verdict.words, verdict.words


# --- where a method trains --------------------------------------------------------------------------------------------


def test_the_table_of_the_embedded_base_is_that_of_the_model() -> None:
    from core.architecture import architecture_of_config
    from core.base import load_config
    from core.config import EMBEDDED

    ours, real = anatomy.embedded(), architecture_of_config(load_config(EMBEDDED))
    assert {m.name: m for m in ours.modules} == {m.name: m for m in real.modules}
    assert (ours.total, ours.head, ours.cache_numbers, ours.width) == (
        real.total, real.head, real.cache_numbers, real.width
    )  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_what_lights_up_is_what_the_method_counts(model: str) -> None:
    table = anatomy.table_of(model)
    for name, method in METHODS.items():
        if name == "bitfit" and model == "Llama-3.1-8B":
            continue
        shown = anatomy.lit(table, name)
        assert sum(one.total for one in shown) == method.count(table, method.Config())
        assert all(one.kind in anatomy.KINDS and one.place in anatomy.NAMES for one in shown)
        assert not [one for one in shown if one.place == "elsewhere"]


def test_each_kind_of_method_lights_up_where_it_belongs() -> None:
    table = anatomy.embedded()

    def found(method: str) -> set[tuple[str, str]]:
        return {(one.place, one.kind) for one in anatomy.lit(table, method)}

    assert found("lora") == {(place, "pair") for place in ("q", "k", "v", "o", "gate", "up", "down")}
    assert found("lora_fa") == {(place, "half") for place in ("q", "k", "v", "o", "gate", "up", "down")}
    assert found("ia3") == {("k", "scale"), ("v", "scale"), ("down", "scale")}
    assert found("adapters") == {("adapter_1", "network"), ("adapter_2", "network")}
    assert found("ln_tuning") == {("norm_1", "whole"), ("norm_2", "whole"), ("norm_end", "whole")}
    assert {kind for _, kind in found("bitfit")} == {"bias"}
    assert found("prompt_tuning") == {("prompt", "vectors")}
    assert found("prefix_tuning") == {("prefix", "vectors")}
    assert found("p_tuning") == {("prompt", "vectors"), ("maker", "network")}
    assert max(one.blocks for one in anatomy.lit(table, "last_k")) == METHODS["last_k"].Config().blocks


@pytest.mark.parametrize("model", MODELS)
def test_the_drawing_says_every_number(model: str) -> None:
    table = anatomy.table_of(model)
    places = anatomy.drawn(table)
    for name in METHODS:
        if name == "bitfit" and model == "Llama-3.1-8B":
            continue
        shown = anatomy.lit(table, name)
        svg, alt = block_drawing.block(
            places, shown, name, blocks=anatomy.depth(table), tied=True, four_bit=name == "qlora"
        )
        boxes = {box.place for box in block_drawing.layout(places)[0]}
        assert {one.place for one in shown} <= boxes
        for one in shown:
            assert f"{one.each:,}" in alt
        assert svg.count('font-weight="700"') >= len({one.place for one in shown})
        assert "nan" not in svg


# --- bytes, cards and disks -------------------------------------------------------------------------------------------


def test_the_rule_of_sixteen_to_twenty_bytes() -> None:
    each = {name: per_parameter.each(recipe) for name, (_, recipe) in per_parameter.RECIPES.items()}
    assert (each["mixed"], each["summed"], each["bare"], each["single"]) == (16, 20, 12, 16)
    assert [f.value for f in claim(1).figures[:2]] == [each["mixed"], each["summed"]]
    assert claim(2).figures[0].value == per_parameter.needed(
        per_parameter.recipe("mixed"), anatomy.table_of("Llama-3.1-70B").total
    )
    assert claim(3).figures[0].value == calc.value(
        calc.parse("training_bytes(model='Llama-3.1-70B', recipe='bare')"), index.ROOT
    )
    assert per_parameter.frozen(per_parameter.recipe("mixed")) == 2


def test_every_byte_has_a_square() -> None:
    for _, recipe in per_parameter.RECIPES.values():
        parts = per_parameter.parts(recipe)
        svg, alt = charts_lessons_a.byte_squares(parts)
        whole = sum(int(p.bytes) for p in parts) + sum(p.bytes > int(p.bytes) for p in parts)
        assert svg.count("<rect") == whole
        assert f"{per_parameter.each(recipe):g} bytes" in alt


def test_enough_cards_are_the_fewest_that_hold_the_step() -> None:
    one = needs.need("Llama-3.1-8B", "full", "RTX 4090")
    assert one.cards is not None
    assert one.cards > 1
    assert one.each is not None
    assert one.each.process[1] <= one.card.usable_bytes < one.alone.process[1]
    assert needs.need("Llama-3.1-8B", "qlora", "RTX 4090").cards == 1
    assert needs.need("Llama-3.1-70B", "full", "RTX 4090").cards is None


def test_the_figure_of_cards_has_the_unit_of_its_table() -> None:
    rows = [needs.need("Llama-3.1-8B", method, "RTX 4090") for method in ("full", "qlora")]
    bars = charts_lessons_a.needs(rows, "Llama-3.1-8B").figure.data[0]
    table = charts_lessons_a.needs_table(rows, 1599.0)
    assert list(bars.text) == list(table.iloc[:, 1])
    assert bars.x[0] == pytest.approx(float(bars.text[0].removesuffix(" GiB")), rel=0.01)


def test_the_disk_lines_are_the_storage_calculators() -> None:
    table = anatomy.table_of("Llama-3.1-70B")
    rows = {m: [storage(table, m, METHODS[m].Config(), n) for n in (1, 10)] for m in ("full", "lora")}
    chart = charts_lessons_a.disks(rows, "Llama-3.1-70B")
    full, lora = (chart.table.query(f"method == '{m}' and tasks == 10")["bytes"].item() for m in ("full", "lora"))
    assert full == 10 * 2 * table.total
    assert lora == 2 * table.total + 10 * 4 * METHODS["lora"].count(table, METHODS["lora"].Config())
    assert f"{100 * (1 - lora / full):.0f}" in chart.title


# --- the picture ------------------------------------------------------------------------------------------------------


def test_no_edit_leaves_the_paper() -> None:
    photo = picture.photo()
    assert photo.shape == (picture.ROWS, picture.COLUMNS)
    assert 0 <= photo.min() < 0.3
    assert 0.9 < photo.max() <= 1


@pytest.mark.parametrize("name", picture.EDITS)
def test_the_pair_is_the_closest_of_its_rank(name: str) -> None:
    whole = picture.edit(name)
    values = picture.singular_values(name)
    for rank in (0, 1, 3, 8):
        b, a = picture.best_pair(whole, rank)
        assert b.shape == (picture.ROWS, rank)
        assert a.shape == (rank, picture.COLUMNS)
        left = float(np.linalg.norm(whole - b @ a))
        assert math.isclose(left, math.sqrt(sum(v * v for v in values[rank:])), abs_tol=1e-9)
        assert picture.pair_numbers(rank) == b.size + a.size
        assert math.isclose(picture.kept(name, rank), 1 - left**2 / float(np.square(whole).sum()), abs_tol=1e-9)


def test_the_edits_are_of_the_ranks_that_the_lesson_tells_of() -> None:
    ranks = {name: picture.rank_of(name) for name in picture.EDITS}
    assert ranks["dusk"] == 1
    assert ranks["window"] == 2
    assert ranks["caption"] < 8
    assert ranks["grain"] == picture.ROWS
    assert picture.kept("cloud", 4) > 0.98
    assert picture.kept("grain", 8) < 0.3


# --- as they are drawn ------------------------------------------------------------------------------------------------


def drawn_widget(name: str, options: dict) -> None:
    from app.widgets import renderer

    renderer(name)(options, "w")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("byte-rule", {}),
        ("step-ledger", {"run": "01_why_full_hurts/full-jargon"}),
        ("cards-needed", {}),
        ("task-storage", {}),
        ("block-map", {}),
        ("photo-filter", {}),
    ],
)
def test_a_widget_is_drawn(name: str, options: dict[str, Any], visit: Any) -> None:
    assert renderer(name)
    app = visit(drawn_widget, kwargs={"name": name, "options": options})
    assert any("**" in str(m.value) for m in app.markdown)


def test_the_ledger_shows_both_sides_of_the_recorded_step(visit: Any) -> None:
    options = {"run": "01_why_full_hurts/full-jargon"}
    app = visit(drawn_widget, kwargs={"name": "step-ledger", "options": options})
    assert [m for m in app.markdown if "predicted 185 MiB, measured 185 MiB" in str(m.value)]


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("gpt_trained()", "18,874,368"),  # the paper's 18.9 M (Hu et al. 2021, table 4)
        ("lora_parameters(d=4096, k=4096, r=16)", "131,072"),
        ("even_rank(d=4096, k=4096)", "2,048"),
        ("trained(model='embedded', method='lora')", "196,608"),
        ("trains(model='Llama-3.1-8B', method='bitfit')", "no place for it"),
        ("raced(method='lora', what='trainable')", "197 k"),
        ("raced(method='full', what='exact_match')", "100 %"),
        ("published(method='full-finetuning', experiment='lr_0.00001', what='memory')", "36.2 GiB"),
        ("edit_numbers(rank=2)", "448"),
        ("training_gb(model='Llama-2-7B', recipe='mixed')", "108 GB"),
        ("bytes_that_give(model='Llama-3.1-70B', terabytes=1.2)", "17.0"),
        ("card_price(card='RTX 3090')", "\\$1,499"),
    ],
)
def test_what_a_lesson_prints(expression: str, text: str) -> None:
    assert calc.text(calc.parse(expression), index.ROOT) == text


@pytest.mark.parametrize(
    "expression",
    [
        "bytes_a_parameter(recipe='none')",
        "trained(model='embedded', method='lorra')",
        "trained(model='embedded', method='bitfit', rank=4)",
        "gpt(what='depth')",
        "edit_rank(edit='moon')",
        "claim_figure(number=2, figure=9)",
        "published(method='lora', experiment='rank1', what='accuracy')",
    ],
)
def test_what_there_is_none_of_is_said(expression: str) -> None:
    with pytest.raises(BadInput):
        calc.text(calc.parse(expression), index.ROOT)


def test_a_model_without_biases_says_so_on_the_map(visit: Any) -> None:
    app = visit(drawn_widget, kwargs={"name": "block-map", "options": {"method": "bitfit", "model": "Llama-3.1-8B"}})
    assert "no bias" in app.error[0].value
    app.selectbox[1].set_value("embedded").run()
    assert not app.exception
    assert not app.error


def test_a_recipe_of_ones_own_adds_up(visit: Any) -> None:
    app = visit(drawn_widget, kwargs={"name": "byte-rule", "options": {}})
    app.selectbox[0].set_value("own").run()
    app.checkbox[1].check().run()
    assert not app.exception
    assert app.metric[0].value == "20 bytes"
    app.selectbox[1].set_value("sgd").run()
    assert app.metric[0].value == "12 bytes"


def test_the_picture_follows_the_rank(visit: Any) -> None:
    app = visit(drawn_widget, kwargs={"name": "photo-filter", "options": {"edit": "window", "rank": 1}})
    app.select_slider[0].set_value(2).run()
    assert not app.exception
    assert app.metric[1].value == f"{picture.pair_numbers(2):,}"
    assert app.metric[2].value == "100 %"


# --- what the texts say in words, the recorded runs say in numbers ----------------------------------------------------


def figure(slug: str, run: str, what: str) -> float:
    return calc.recorded(index.ROOT / slug, run, what)


def test_lesson_1_says_what_its_runs_say() -> None:
    slug = "01_why_full_hurts"
    # The rule's part is a fraction of the peak, activations are the larger part, and the prediction is close.
    folder = index.ROOT / slug
    rule = calc.value(calc.parse("training_bytes(model='embedded', recipe='single')"), folder)
    assert figure(slug, "full-jargon", "peak_bytes") > 2 * rule
    share = calc.value(calc.parse("ledger_share(run='full-jargon', term='activations and temporaries')"), folder)
    assert share > 50
    assert calc.value(calc.parse("ledger_error(run='full-jargon')"), folder) < 5
    # It is learnt, and it costs old skills, one of them nearly whole; a gentle run keeps them and learns less.
    assert figure(slug, "full-jargon", "exact_match_after") >= 90
    assert figure(slug, "full-jargon", "skills_after") <= figure(slug, "full-jargon", "skills_before") - 15
    assert figure(slug, "full-jargon", "reversal_after") < 50
    learnt = [figure(slug, f"rates/{run}", "exact_match_after") for run in ("gentle", "middle", "usual")]
    kept = [figure(slug, f"rates/{run}", "skills_after") for run in ("gentle", "middle", "usual")]
    assert learnt == sorted(learnt)
    assert kept == sorted(kept, reverse=True)
    assert learnt[0] < 60
    assert kept[-1] < kept[0] - 15


def test_lesson_2_says_what_its_runs_say() -> None:
    slug = "02_freeze_and_add"
    peak = {run: figure(slug, f"race/{run}", "peak_bytes") for run in ("full", "lora", "bitfit")}
    # LoRA saves little memory here, and BitFit more though both train little.
    assert 0.6 * peak["full"] < peak["lora"] < peak["full"]
    assert peak["bitfit"] < 0.9 * peak["lora"]
    for run in ("full", "lora", "qlora", "adapters"):
        assert figure(slug, f"race/{run}", "trainable") > 100_000
        assert figure(slug, f"race/{run}", "exact_match_after") >= 95
    for run in ("bitfit", "ia3"):
        assert figure(slug, f"race/{run}", "exact_match_after") >= 60
    assert figure(slug, "race/prompt-tuning", "skills_after") < 40


def test_the_order_of_methods_by_size_is_the_one_that_is_asked_for() -> None:
    table = anatomy.embedded()
    asked = ("ia3", "bitfit", "adapters", "lora", "last_k")
    sizes = [METHODS[name].count(table, METHODS[name].Config()) for name in asked]
    assert sizes == sorted(sizes)


def test_lesson_3_says_what_its_runs_say() -> None:
    slug = "03_lora_rank"
    # Rank one is enough at a brisk rate, and not at a third of it.
    assert figure(slug, "ranks/r1-fast", "exact_match_after") >= 90
    assert figure(slug, "ranks/r1", "exact_match_after") < 50
    # A full run's change goes in all directions; the task needs a few.
    folder = index.ROOT / slug
    assert calc.probed(folder, "truncation", "enough") <= 16
    assert calc.probed(folder, "truncation", "largest") == 256
    # Alpha is a volume knob.
    assert figure(slug, "alphas/low", "loss_after") > 10 * figure(slug, "alphas/usual", "loss_after")
    assert figure(slug, "alphas/high", "exact_match_after") >= 90
    assert figure(slug, "alphas/high", "skills_after") < figure(slug, "alphas/usual", "skills_after") - 10
    # About the same budget each time; attention alone does worst, and the MLP takes less memory than everywhere.
    budgets = {run: figure(slug, f"targets/{run}", "trainable") for run in ("qv", "mlp", "all")}
    assert max(budgets.values()) < 1.2 * min(budgets.values())
    losses = {run: figure(slug, f"targets/{run}", "loss_after") for run in budgets}
    assert losses["qv"] > 1.5 * max(losses["mlp"], losses["all"])
    assert figure(slug, "targets/mlp", "peak_bytes") < 0.9 * figure(slug, "targets/all", "peak_bytes")
    # LoRA wants about ten times the rate.
    assert figure(slug, "rates/lora-low", "loss_after") > 10 * figure(slug, "rates/full-usual", "loss_after")
    for run in ("lora-five", "lora-fifteen"):
        assert figure(slug, f"rates/{run}", "exact_match_after") >= 95
        assert figure(slug, f"rates/{run}", "skills_after") >= 90
    assert figure(slug, "rates/full-high", "skills_after") < 80
    assert figure(slug, "rates/lora-high", "skills_after") < 80
