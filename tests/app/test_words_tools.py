"""The tools that plan and look inside, in German: nothing of theirs stays English, and choices outlive a language."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from app import form, state, words
from core.catalog import gpu
from core.config import RunConfig
from core.errors import BadInput
from core.memory.card import Totals, verdict_text
from core.methods import METHODS
from core.units import GIB

ANY = re.compile(r"\{\w+\}")


def sentences() -> set[str]:
    """Stretches of four words and more of the tools' English words, as they stand between blanks."""
    out: set[str] = set()
    german = words.catalogue("de")
    for key in own():
        for part in ANY.split(words.catalogue("en")[key]):
            told = part.strip(" .,:;*()")
            if len(told.split()) >= 4 and told not in german[key]:
                out.add(told)
    return out


def labels() -> set[str]:
    """The tools' English words that are a label each, and another in German; not those that methods' settings have."""
    english, german = words.catalogue("en"), words.catalogue("de")
    core = {knob.label for name in METHODS for knob in form.knobs(RunConfig(method=name))}
    return {english[key] for key in own() if german[key] != english[key] and english[key][0].isupper()} - core


def own() -> list[str]:
    """The keys of the tools' files, their figures' included."""
    tables: set[str] = set()
    for name in ("tools_plan", "tools_look", "charts_tools"):
        found = tomllib.loads((words.FOLDER / "en" / f"{name}.toml").read_text(encoding="utf-8"))
        charts = found.pop("charts", {})
        tables |= {*(f"{table}." for table in found), *(f"charts.{table}." for table in charts)}
    return [key for key in words.catalogue("en") if key.startswith(tuple(tables))]


def strings(message: Any) -> Iterator[str]:
    """Every text in what is sent to the browser."""
    for field, value in message.ListFields():
        values = value if field.is_repeated and not isinstance(value, str | bytes) else [value]
        for one in values:
            if isinstance(one, str):
                yield one
            elif hasattr(one, "ListFields"):
                yield from strings(one)


def shown(page: Any) -> list[str]:
    """Every text on a page: what is said, labels, options, helps, alternative texts, figures as the text that they are
    sent in."""
    out: list[str] = []

    def walk(node: Any) -> None:
        for child in node.children.values():
            proto = getattr(child, "proto", None)
            if proto is not None:
                out.extend(strings(proto))
            if hasattr(child, "children"):
                walk(child)

    walk(page.main)
    return [text.replace("\\", "").replace("\u00a0", " ") for text in out]


def said(page: Any) -> str:
    """The same in one text, with the heads of tables."""
    return "\n".join([*shown(page), *(str(name) for table in page.dataframe for name in table.value.columns)])


def left(page: Any) -> tuple[set[str], set[str]]:
    """The English that is left on a page: (sentences, labels)."""
    found = shown(page)
    everything = "\n".join(found)
    long = {told for told in sentences() if told.replace("\u00a0", " ") in everything}
    return long, labels() & set(found)


def draw(view: str) -> None:
    import importlib

    from app import words

    words.settle(None)
    importlib.import_module(f"app.views.{view}").render()


def results() -> None:
    """What measurements of the page Ship, of retrieval and of the layers found."""
    import dataclasses

    from app import findings, words
    from core.rag.experiment import recorded
    from tests.app import ship_results
    from tests.app.test_quantization_page import LAYERS

    words.settle(None)
    for probe in ("merge", "convert", "latency", "swap"):
        findings.draw(probe, getattr(ship_results, probe)(), f"x-{probe}")
    findings.draw("quantized_layers", LAYERS, "x-layers")
    findings.draw("rag", {"cells": [dataclasses.asdict(cell) for cell in recorded()["cells"]]}, "x-rag")


def proposed() -> None:
    from app import proposals, words
    from core.config import RunConfig

    words.settle(None)
    proposals.choose("hub", RunConfig(method="lora"), "knob")


def unknown() -> None:
    from types import SimpleNamespace

    from app import calculator_panels, words

    words.settle(None)
    calculator_panels._missing(SimpleNamespace(source="x"), ["a setup"], "x-missing", "vram", "")


PAGES = [
    ("guide", {"knowledge": "many", "changes": "daily", "data": "hundreds"},
     ("RAG oder Fine-Tuning?", "Noch offene Fragen", "Die Messung ansehen", "Regeln")),
    ("vram", {}, ("VRAM-Rechner", "Kontext und Bibliotheken",
      "Dieser Schritt passt (RTX 4090)", "Größter Batch, der passt", "Alle Methoden")),
    ("vram", {"batch": "4", "show": "cost"}, ("Dieser Schritt passt nicht", "weniger)", "Tokens je Sekunde")),
    ("vram", {"show": "cards", "gpus": "8", "zero": "3", "offload": "all", "predict": "on"},
     ("Wie viel Speicher wird der Prozess brauchen?", "ZeRO-3, FSDP2: auch Gewichte")),
    ("vram", {"show": "cost", "gpus": "8", "zero": "2"}, ("Alle 8 GPUs zusammen", "Preis einer Stunde")),
    ("vram", {"show": "disk"}, ("Gespeichert je Aufgabe", "Auf der Platte")),
    ("vram", {"show": "step", "from": "config"}, ("Die config.json des Modells", "Katalog")),
    ("parameters", {}, ("Parameterrechner", "trainierte Parameter",
      "LoRA trainiert 20\u202f971\u202f520 von 8\u202f030\u202f261\u202f248", "Wo sie sitzen", "Form")),
    ("quantization", {"bits": "3"}, ("Bit je Gewicht", "text{Stufe}[q]", "QLoRA gegen LoRA", "Beide trainieren")),
    ("quantization", {"source": "file"}, ("Deine Matrix", "ganze Basis, nicht eine Matrix", "Ordner auf dem Rechner")),
    ("kernels", {}, ("Worauf ein Schritt wartet", "Starts", "FLOPs je Byte", "FLOPs je bewegtem Byte",
      "Produkte mit den Gewichten des Basismodells", "Auf einem Prozessor", "dieselben Batches")),
    ("validation", {"by": "role", "metric": "allocated"}, ("Veröffentlichte Werte", "Belegt", "Nicht abgedeckt",
      "vorhergesagt, GiB")),
    ("inside", {}, ("Innenansicht", "Aufgezeichnet", "Was die Spalten bedeuten", "Was die Matrizen lesen")),
]  # fmt: skip


@pytest.mark.parametrize(("view", "link", "german"), PAGES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_tool_speaks_german(visit: Any, view: str, link: dict[str, str], german: tuple[str, ...]) -> None:
    page = visit(draw, kwargs={"view": view}, lang="de", **link)
    everything = said(page)
    for told in german:
        assert told in everything, told
    assert left(page) == (set(), set())


def test_findings_and_proposals_speak_german(visit: Any) -> None:
    page = visit(results, lang="de")
    everything = said(page)
    for told in ("Die Zahlen", "**das 1,5-Fache**", "ausgelassen bei Rang 1, %", "Ein Wechsel", "Median von 7 Runden"):
        assert told in everything, told
    assert left(page) == (set(), set())
    page = visit(proposed, lang="de")
    assert "Modelle, die passen" in shown(page)
    assert left(page) == (set(), set())


def test_why_there_is_no_formula_is_said_in_german(visit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    error = BadInput("rank must be at most 256, not 300.")
    failed = SimpleNamespace(error=error, active=False)
    with monkeypatch.context() as patched:
        patched.setattr(state, "fitter", lambda: SimpleNamespace(look=lambda *asked: failed))
        said_there = said(visit(unknown, lang="de"))
    assert "Nicht mit einer Formel auszurechnen: rank darf höchstens 256 sein" in said_there


def test_a_choice_outlives_a_change_of_language(visit: Any) -> None:
    page = visit(draw, kwargs={"view": "vram"})
    page.select_slider(key="vram-batch").set_value(4).run()
    page.selectbox(key="vram-zero").set_value(2).run()
    page.query_params["lang"] = "de"
    page.run()
    assert page.title[0].value == "VRAM-Rechner"
    assert page.select_slider(key="vram-batch").value == 4
    assert page.selectbox(key="vram-zero").value == 2
    assert page.query_params["zero"] in ("2", ["2"])


@pytest.mark.parametrize("gib", [(1.0, 1.1, 1.2), (20.0, 21.0, 30.0), (60.0, 61.0, 62.0)])
def test_the_verdict_is_the_one_that_the_terminal_prints(gib: tuple[float, float, float]) -> None:
    from app.charts_memory import verdict

    card = gpu("RTX 4090")
    low, likely, high = (int(one * GIB) for one in gib)
    found = Totals(0, (0, 0, 0), (low, likely, high))
    assert verdict(found, card, card.name).replace("\u00a0", " ") == verdict_text(found, card)
