"""The widgets of the lessons on quantization, small methods, forgetting and shipping say what the engine says."""

from __future__ import annotations

from typing import Any

import pytest

from core.catalog import architecture_of
from core.claims import decimal_text
from core.counting import count
from core.memory.storage import storage
from core.methods import METHODS
from core.quantization import blockwise
from core.quantization.formats import FORMATS, normal_float


def drawn(name, options):
    from app import widgets

    widgets.renderer(name)(options, "w")


def said(page: Any) -> str:
    texts = [e.value for kind in (page.markdown, page.caption) for e in kind]
    return "\n".join([*map(str, texts), *(f"{m.label} {m.value}" for m in page.metric)])


def draw(visit: Any, name: str, **options: Any) -> Any:
    return visit(drawn, kwargs={"name": name, "options": options})


def test_nf4_levels_step_by_step(visit: Any) -> None:
    page = draw(visit, "nf4-levels", bits=4)
    assert "16 heights" in said(page)
    page.button_group[0].set_value("Levels").run()
    assert f"{normal_float(4).positive[-1][1]:.3f}" in said(page)
    assert len(page.dataframe[0].value) == 16


def test_one_block_tells_the_scale_and_what_an_outlier_does(visit: Any) -> None:
    page = draw(visit, "one-block", block_size=32)
    before = said(page)
    page.select_slider[1].set_value(16).run()
    assert "off by" in before
    assert said(page) != before


@pytest.mark.parametrize("double", [False, True])
def test_block_size_counts_bits_as_the_engine_does(visit: Any, double: bool) -> None:
    page = draw(visit, "block-size", block_size=128)
    page.toggle[0].set_value(double).run()
    assert f"Bits a weight {blockwise.bits_per_weight(FORMATS['nf4'], 128, double):.3f}" in said(page)


def test_two_criteria_on_both_kinds_of_numbers(visit: Any) -> None:
    page = draw(visit, "two-criteria")
    normal = said(page)
    page.button_group[0].set_value("real").run()
    assert "NF4 errs by" in normal
    assert said(page) != normal


def test_sixty_five_billion_fit_a_48_gb_card_with_qlora_and_70_do_not_with_lora(visit: Any) -> None:
    page = draw(visit, "on-a-card", model="LLaMA-1-65B", method="qlora", card="RTX A6000", length=512)
    assert "This step fits on" in said(page)
    page = draw(visit, "on-a-card", model="Llama-3.1-70B", method="lora", card="RTX A6000", length=512)
    assert "does not fit" in said(page)
    page = draw(visit, "on-a-card", model="LLaMA-1-65B", method="full", card="RTX A6000", length=512)
    assert "No estimate" in said(page)


def test_smallest_counts_are_the_closed_forms_and_refusals_are_told(visit: Any) -> None:
    page = draw(visit, "smallest-counts", model="BERT-base-uncased", tokens=20)
    wanted = count(architecture_of("BERT-base-uncased"), "bitfit").trainable
    assert wanted in page.dataframe[0].value.to_numpy().flatten().tolist() or f"{wanted:,}" in str(
        page.dataframe[0].value.to_numpy().tolist()
    )
    page.selectbox[0].set_value("Llama-3.1-8B").run()
    assert "no bias vectors" in said(page).replace("\\", "")
    assert "**0** have a bias" in said(page)


def test_learn_forget_shows_the_task_and_the_methods_that_are_chosen(visit: Any) -> None:
    page = draw(visit, "learn-forget", task="jargon", methods=["full", "lora"])
    assert set(page.dataframe[0].value["Method"]) == {"Full fine-tuning", "LoRA"}
    assert "Recorded" in said(page)


def test_the_shelf_is_counted_as_the_engine_counts_storage(visit: Any) -> None:
    page = draw(visit, "adapter-shelf", model="Llama-3.1-8B", tasks=10, rank=16)
    settings = METHODS["lora"].Config(rank=16)
    wanted = storage(architecture_of("Llama-3.1-8B"), "lora", settings, 10)
    assert f"One adapter {decimal_text(wanted.adapter)}" in said(page)
    assert f"Whole models {decimal_text(wanted.whole)}" in said(page)
    assert f"{100 * wanted.saved_share:.1f} %" in said(page)
    page.select_slider[1].set_value(1).run()
    assert "nothing is saved" in said(page)
