"""A plan agrees with the calculators that it is made of."""

from __future__ import annotations

import pytest

from core.errors import BadInput
from core.memory import cost as costs
from core.memory.planning import first_that_fits, plan


def test_a_plan_is_the_calculators_answer() -> None:
    found = plan("Llama-3.1-8B", "qlora", "RTX 4090", length=1024, examples=2000, epochs=3)
    assert found.verdict == "fits"
    assert found.totals is not None
    assert found.totals.process[1] < found.card.usable_bytes
    assert found.most_batch is not None
    assert found.most_batch >= 1
    assert found.cost is not None
    assert found.cost.steps == 6000
    assert found.cost.tokens == 6000 * 1024
    least, likely, most = found.cost.hours
    assert least < likely < most
    listed = costs.price("RTX 4090")
    assert listed is not None
    assert found.cost.money is not None
    assert found.cost.money[1] == pytest.approx(likely * listed.usd_per_hour)


def test_a_price_of_ones_own_takes_the_catalogues_place() -> None:
    listed, own = (plan("Llama-3.1-8B", "qlora", "RTX 4090", usd_per_hour=price).cost for price in (None, 10.0))
    assert listed is not None
    assert own is not None
    assert own.money is not None
    assert own.money[1] == pytest.approx(10.0 * own.hours[1])
    assert own.hours == listed.hours


def test_the_first_method_that_fits() -> None:
    assert first_that_fits("Llama-3.1-8B", "H100 SXM", length=1024) == "lora"
    assert first_that_fits("Llama-3.1-8B", "RTX 4090", length=1024) == "qlora"
    assert first_that_fits("Llama-3.1-70B", "RTX 4090", length=1024) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "magic"}, "no method"),
        ({"examples": 0}, "at least one example"),
        ({"epochs": 0}, "at least one example"),
    ],
)
def test_what_cannot_be_planned_is_refused(change: dict[str, object], words: str) -> None:
    step: dict[str, object] = {"name": "Llama-3.1-8B", "method": "qlora", "card": "RTX 4090"}
    with pytest.raises(BadInput, match=words):
        plan(**{**step, **change})  # type: ignore[arg-type]
