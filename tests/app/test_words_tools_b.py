"""The tools of training and the widgets of lessons in German: their words are there, and none of their English ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app import index, widgets, words
from core.base import EMBEDDED_FOLDER
from core.config import RunConfig
from tests.app.conftest import whole
from tests.app.filling import fill
from tests.core.ship_support import adapter, with_adapter

FIGURES = (
    "charts", "charts_lesson", "charts_forgetting", "charts_failures", "charts_race", "charts_lessons_a", "charts_rag",
    "charts_ship", "charts_inside", "quantity", "live", "changes", "story",
)  # fmt: skip
TABLES = ("playground", "race", "rag", "runs", "ship", "data", "documents", "takeaway", "widgets", *FIGURES)
REQUIRED = {
    "exhibit": {"run": "both-zero", "mended": "few-targets"},
    "rag-measured": {"view": "needs"},
    "step-ledger": {"run": "01_why_full_hurts/full-jargon"},
}
"""Options that a widget cannot do without."""
SHORTEST = 20  # characters: what is shorter stands in the words of core, too, which are English in every language


def page(name, lang):
    from importlib import import_module

    from app import words

    words.settle(None)
    assert words.current() == lang
    import_module(f"app.views.{name}").render()


def all_widgets(names, required):
    from app import widgets, words

    words.settle(None)
    for name in names:
        widgets.renderer(name)(dict(required.get(name, {})), name)


def lesson(slug):
    from app import index, words
    from app.cells import page

    words.settle(None)
    page.render(next(one for one in index.lessons() if one.slug == slug))


def texts(message: Any) -> list[str]:
    """Every text in a message to the browser, those in its parts too."""
    out = []
    for field, value in message.ListFields():
        if field.name in ("id", "element_id", "url", "page_script_hash"):
            continue
        for one in value if isinstance(value, (list, tuple)) or hasattr(value, "append") else [value]:
            if isinstance(one, str):
                out += strings(as_json(one))
            elif hasattr(one, "ListFields"):
                out += texts(one)
    return out


def as_json(text: str) -> Any:
    """A figure, or what a component is given, taken apart; any other text as it is."""
    try:
        return json.loads(text) if text.startswith("{") else text
    except ValueError:
        return text


def strings(spec: Any) -> list[str]:
    """Every text in the JSON of a figure."""
    if isinstance(spec, dict):
        return [text for name, value in spec.items() if name != "template" for text in strings(value)]
    if isinstance(spec, list):
        return [text for value in spec for text in strings(value)]
    return [spec] if isinstance(spec, str) else []


def shown(page: Any) -> str:
    found = [text for node in page._tree if getattr(node, "proto", None) is not None for text in texts(node.proto)]
    tables = [str(column) for frame in page.dataframe for column in frame.value.columns]
    return "\n".join([*found, *tables])


def english_of(tables: tuple[str, ...]) -> dict[str, str]:
    """Key -> the longest piece between blanks of its English words, where the German ones lack it."""
    out = {}
    for key, text in words.catalogue("en").items():
        piece = max(words.BLANK.sub("\0", text).split("\0"), key=len).strip()
        ours = key.startswith(tuple(f"{table}." for table in tables))
        if ours and len(piece) >= SHORTEST and " " in piece and piece not in words.catalogue("de")[key]:
            out[key] = piece
    return out


def left_over(text: str) -> dict[str, str]:
    return {key: piece for key, piece in english_of(TABLES).items() if piece in text}


def test_what_is_looked_for_is_found_in_english(visit: Any) -> None:
    """The check can fail: the same page in English is full of it."""
    assert len(english_of(TABLES)) > 150
    assert len(left_over(shown(visit(page, kwargs={"name": "playground", "lang": "en"}, lang="en")))) > 5


@pytest.mark.parametrize(
    ("name", "query", "keys"),
    [
        ("playground", {}, ("playground.intro", "playground.embedded", "playground.link_why")),
        ("playground", {"task": "own", "base": "hub"}, ("playground.file", "playground.hub_help", "data.label")),
        ("race", {}, ("race.intro", "race.front", "race.across", "shared.table_csv")),
        ("rag", {}, ("rag.intro", "rag.dash", "rag.facts.city", "rag.wordings", "documents.intro")),
        ("runs", {}, ("runs.none",)),
        ("ship", {}, ("ship.intro", "ship.none", "ship.strangers")),
    ],
)
def test_a_page_in_german(visit: Any, name: str, query: dict[str, str], keys: tuple[str, ...]) -> None:
    text = shown(visit(page, kwargs={"name": name, "lang": "de"}, lang="de", **query))
    assert [key for key in keys if words.said("de", key) not in text] == []
    assert left_over(text) == {}


def test_runs_and_what_is_done_with_them_in_german(visit: Any, store: Any, tmp_path: Path) -> None:
    run = fill(store, "alice", RunConfig(), title="Mine", key="Mine")
    run = with_adapter(store, run, adapter(EMBEDDED_FOLDER, tmp_path / "adapter", "lora"), "lora", {})
    fill(store, "alice", RunConfig(seed=2), title=None, key="Other")
    listed = shown(visit(page, kwargs={"name": "runs", "lang": "de"}, lang="de"))
    assert "fertig · " in listed
    assert "**Lauf**" in listed
    assert left_over(listed) == {}
    told = shown(visit(page, kwargs={"name": "runs", "lang": "de"}, lang="de", run=run.id))
    keys = ("runs.download", "live.answers.samples", "live.is_training", "live.score_title", "run.happened")
    assert [key for key in keys if words.said("de", key) not in told] == []
    assert "**Der Preis.**" in told
    assert left_over(told) == {}
    for do in ("load", "merge", "convert", "latency", "swap", "card", "take"):
        text = shown(visit(page, kwargs={"name": "ship", "lang": "de"}, lang="de", run=run.id, do=do))
        assert words.said("de", f"ship.sections.{do}") in text
        assert left_over(text) == {}, do


def test_every_widget_in_german(visit: Any) -> None:
    names = [p.stem.replace("_", "-") for p in sorted(Path(widgets.__file__).parent.glob("[a-z]*.py"))]
    assert len(names) > 20
    text = shown(visit(all_widgets, kwargs={"names": names, "required": REQUIRED}, lang="de"))
    keys = ("widgets.batch_tokens", "widgets.course_model", "widgets.plan_it.predicted", "widgets.two_criteria.of.real")
    assert [key for key in keys if words.said("de", key) not in text] == []
    assert left_over(text) == {}


def test_figures_of_a_lesson_and_of_the_race_in_german(visit: Any, store: Any) -> None:
    assert len(english_of(FIGURES)) > 100
    keys = ("charts.loss", "charts.comparison.run", "quantity.exact_match_after", "charts.nats")
    long = next(one for one in index.lessons() if one.slug == "03_lora_rank")
    for lang in ("en", "de"):
        told = shown(whole(visit(lesson, kwargs={"slug": long.slug}, lang=lang), long))
        assert [key for key in keys if words.said(lang, key) not in told] == []
        assert (left_over(told) == {}) == (lang == "de")
    race = shown(visit(page, kwargs={"name": "race", "lang": "de"}, lang="de"))
    for key in ("charts_race.pareto", "charts.comparison.method", "charts_race.here_too"):
        assert words.said("de", key) in race, key
