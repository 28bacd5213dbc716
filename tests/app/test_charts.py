"""Figures: palette and contrast, titles that say the finding, alt text, tables."""

import tomllib
from itertools import pairwise
from pathlib import Path

import plotly.graph_objects as go
import pytest

from app import charts
from app.story import Story
from core.config import RunConfig, with_settings
from core.events import to_dict
from core.methods import METHODS
from tests.app.filling import events

CONFIG = tomllib.loads((Path(__file__).parents[2] / ".streamlit" / "config.toml").read_text(encoding="utf-8"))
THEMES = ("light", "dark")


def luminance(colour: str) -> float:
    """Relative luminance of a hex colour (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(a: str, b: str) -> float:
    """Contrast ratio of two hex colours (WCAG 2.2)."""
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def mixed(colour: str, background: str, share: float) -> str:
    """`share` of a colour laid over a background."""
    pairs = [(int(colour[i : i + 2], 16), int(background[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(share * a + (1 - share) * b):02x}" for a, b in pairs)


def story(method="lora", **kwargs) -> Story:
    return Story.of(to_dict(e) for e in events(with_settings(RunConfig(method=method), {"steps": 120}), **kwargs))


@pytest.mark.parametrize("theme", THEMES)
def test_text_can_be_read(theme):
    colours = CONFIG["theme"][theme]
    for background in (colours["backgroundColor"], colours["secondaryBackgroundColor"]):
        assert contrast(colours["textColor"], background) >= 7
        assert contrast(colours["linkColor"], background) >= 4.5
        # st.caption is text at 60 %
        assert contrast(mixed(colours["textColor"], background, 0.6), background) >= 4.5
        # the quiet text of the live curve is text at 76 %
        assert contrast(mixed(colours["textColor"], background, 0.76), background) >= 4.5
    assert contrast("#ffffff", colours["primaryColor"]) >= 4.5
    assert contrast(colours["primaryColor"], colours["backgroundColor"]) >= 3


@pytest.mark.parametrize("theme", THEMES)
def test_marks_stand_off_the_background(theme):
    colours = CONFIG["theme"][theme]
    for style in charts._STYLES:
        for background in (colours["backgroundColor"], colours["secondaryBackgroundColor"]):
            assert contrast(style.colour, background) >= 3, (style, background)


def test_the_palette_knows_the_theme():
    assert CONFIG["theme"]["light"]["backgroundColor"] == charts.LIGHT_BACKGROUND
    assert CONFIG["theme"]["dark"]["backgroundColor"] == charts.DARK_BACKGROUND
    assert CONFIG["theme"]["chartCategoricalColors"] == [s.colour for s in charts._STYLES]


def test_nothing_is_fetched_for_the_looks():
    assert "http" not in (Path(__file__).parents[2] / ".streamlit" / "config.toml").read_text(encoding="utf-8")


def test_every_method_has_a_look_of_its_own():
    styles = [charts.method_style(m) for m in METHODS]
    assert len({s.marker for s in styles}) == len(styles)
    assert len({(s.colour, s.dash) for s in styles}) == len(styles)
    assert len({s.colour for s in styles[:4]}) == 4
    valid = go.Scatter().marker.__class__  # plotly refuses an unknown symbol
    assert all(valid(symbol=s.marker) for s in styles)
    assert charts.method_style("lora") == charts.method_style("lora")
    assert charts.method_style("no such method") == charts.BASE_STYLE


def test_curves_of_several_runs():
    chart = charts.losses([("LoRA", story()), ("Full", story("full"))])
    assert [t.name for t in chart.figure.data] == ["LoRA", "Full"]
    assert chart.figure.data[0].line.color == charts.method_style("lora").colour
    assert set(chart.table.columns) == {"run", "step", "loss"}
    assert len(chart.table) == sum(len(t.x) for t in chart.figure.data)
    assert "LoRA" in chart.alt
    assert chart.title.startswith("Lowest loss at the end: 0.0")


def test_two_runs_of_a_method_share_its_colour_but_not_its_dash():
    chart = charts.task_scores([("a", story()), ("b", story(reach=0.5))])
    first, second = chart.figure.data
    assert first.line.color == second.line.color
    assert first.line.dash != second.line.dash
    assert first.marker.symbol != second.marker.symbol
    assert chart.title == "Best on the task: 93\u00a0%, a"


def test_nothing_to_draw_is_no_error():
    assert charts.losses([]).table.empty
    assert charts.task_scores([("a", Story())]).table.empty
    assert charts.before_after(Story()) is None
    assert charts.comparison([("a", Story())]).iloc[0]["Task after"] == "not scored"


def test_before_and_after():
    chart = charts.before_after(story(), title="JSON")
    assert chart is not None
    assert chart.table.iloc[0].to_list() == ["JSON", 0, 93]
    assert "JSON: 0 % before, 93 % after." in chart.alt
    assert len(chart.table) == 6


def test_the_comparison_says_everything_in_words_and_in_numbers():
    runs = [("one", story()), ("two", story("bitfit", reach=0.3))]
    words, numbers = charts.comparison(runs), charts.comparison_numbers(runs)
    assert list(words["Task after"]) == ["93 %", "30 %"]
    assert words.iloc[0]["Share"] == "3.2 %"
    assert list(numbers["trainable"]) == [61_440, 9_984]
    assert numbers.iloc[0]["skills_change_points"] == pytest.approx(-22, abs=0.1)
    text = charts.csv(numbers).decode()
    assert text.splitlines()[0].startswith("run,method,task,before,after")
    assert len(text.splitlines()) == 3


def test_tables_of_one_run():
    assert list(charts.scores_table(story())["step"]) == [0, 30, 60, 90, 120]
    steps = charts.steps_table(story())
    assert all(a < b for a, b in pairwise(steps["step"]))
    assert len(steps) == 120
