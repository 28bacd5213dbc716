"""Numbers in German: a comma before the decimals, in tables, figures and drawings; what is no number stays."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from app import localized, words
from app.cells import svg
from app.numbers import ENGLISH, LONGEST, NARROW_SPACE, written

GERMAN = words.separators("de")


@pytest.mark.parametrize(
    ("english", "german"),
    [
        ("0.42", "0,42"),
        ("1,536", f"1{NARROW_SPACE}536"),
        ("1,234.5 GiB", f"1{NARROW_SPACE}234,5 GiB"),
        ("1.5 %", "1,5 %"),
        ("+0.25", "+0,25"),
        ("3.2 × 4.0", "3,2 × 4,0"),
        ("0.9 to 1.1 nats", "0,9 to 1,1 nats"),
        ("12.5 (11.0 to 13.9) ms", "12,5 (11,0 to 13,9) ms"),
        ("<b>1.2 MiB</b>", "<b>1,2 MiB</b>"),
        ("4.127 bits", "4,127 bits"),
        ("AMD EPYC, 2 cores, 23.5 GiB", "AMD EPYC, 2 cores, 23,5 GiB"),
        ("frozen weights 5.2 GiB, Llama 3.1", "frozen weights 5,2 GiB, Llama 3.1"),
    ],
)
def test_a_number_with_its_unit_is_written_in_german(english: str, german: str) -> None:
    assert written(english, GERMAN) == german
    assert written(written(english, GERMAN), GERMAN) == german, "twice is the same as once"
    assert written(english, ENGLISH) == english


@pytest.mark.parametrize(
    "text",
    ["Llama 3.1 8B", "0.50.1", "pip install peft==0.19", "rank 8, alpha 0.5 kept", "model.safetensors", "A, b.", "8"],
)
def test_names_versions_and_commands_stay(text: str) -> None:
    assert written(text, GERMAN) == text


def test_a_text_that_is_nearly_a_quantity_is_read_once() -> None:
    """Not once for every way to pair its signs: of sixty pairs nobody would see the end."""
    text = "<>" * 59 + ".Q"
    assert len(text) == LONGEST
    assert written(text, GERMAN) == text


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0.0, "0"), (0.125, "0,125"), (1e-4, "0,0001"), (12.0, "12"), (3e-5, "0,00003"), (-1e-6, "-0,000001"),
        (3.7e-5, "0,00004"), (float("inf"), "inf"), (float("-inf"), "-inf"),
    ],
)  # fmt: skip
def test_a_small_number_in_a_cell_does_not_become_0(value: float, told: str) -> None:
    assert localized.cell(value, GERMAN) == told


def test_blanks_are_filled_in_the_languages_numbers_and_names_are_not() -> None:
    assert words.said("de", "form.told", label="Rate", value="0.003") == "Rate: 0,003."
    assert words.said("en", "form.told", label="Rate", value="0.003") == "Rate: 0.003."
    assert words.said("de", "form.told", label="2.5", value="1") == "2.5: 1."
    assert words.separators("en") == ENGLISH


@pytest.fixture
def german(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (words, localized):
        monkeypatch.setattr(module, "current", lambda: "de")


@pytest.mark.usefixtures("german")
def test_a_table_shows_commas_and_keeps_its_numbers() -> None:
    table = pd.DataFrame(
        {"loss": [0.125, float("nan")], "size": ["1.5 MiB", "–"], "model": ["Qwen 2.5", "b"], "n": [1, 2]}
    )
    styled = localized._styled(table, None)
    assert styled.data["loss"].tolist()[0] == 0.125
    shown = styled.to_html()
    assert "0,125" in shown
    assert "1,5 MiB" in shown
    assert "Qwen 2.5" in shown
    assert "nan" not in shown


def test_a_table_asks_for_the_language_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    for module in (words, localized):
        monkeypatch.setattr(module, "current", lambda: asked.append("de") or "de")
    localized._styled(pd.DataFrame({"loss": [0.125] * 50, "size": ["1.5 MiB"] * 50}), None).to_html()
    assert asked == ["de"]


@pytest.mark.usefixtures("german")
def test_a_figure_has_commas_on_its_axes_and_in_its_words() -> None:
    import plotly.graph_objects as go

    fig = go.Figure(go.Bar(x=[1.5], y=["a"], text=["1.5 GiB"]))
    fig.update_xaxes(tickvals=[1.5], ticktext=["1.5 k"])
    fig.add_annotation(text="0.7")
    drawn = localized.localised(fig)
    assert drawn.layout.separators == f",{NARROW_SPACE}"
    assert list(drawn.data[0].text) == ["1,5 GiB"]
    assert list(drawn.layout.xaxis.ticktext) == ["1,5 k"]
    assert drawn.layout.annotations[0].text == "0,7"
    assert svg.spoken('<text x="1.5">1.5 GiB</text>') == '<text x="1.5">1,5 GiB</text>'


def test_in_english_tables_and_figures_are_as_they_were() -> None:
    import plotly.graph_objects as go

    table = pd.DataFrame({"loss": [0.125]})
    assert localized._styled(table, None) is table
    assert localized.localised(go.Figure()).layout.separators is None


def test_every_table_figure_and_number_goes_through_one_place() -> None:
    """Only what a learner's own code has put out is shown as it is."""
    import re

    calls = re.compile(r"\bst\.(?:metric|dataframe|table|plotly_chart)\(")
    found: dict[str, Any] = {
        path.name: calls.findall(text)
        for path in words.FOLDER.parent.rglob("*.py")
        if calls.search(text := path.read_text(encoding="utf-8")) and path.name not in ("localized.py", "outputs.py")
    }
    assert found == {}, "show them with app.localized"
