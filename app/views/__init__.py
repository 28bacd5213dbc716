"""The pages beside the lessons. VIEWS is the one list; the navigation, the address and the width are read from it.

What a page is called and what one does there is in app/locales, under page.ADDRESS.title and page.ADDRESS.summary (the
start's address is "course" there), and the menus' names under menu.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from app.views import (
    claims,
    drill,
    glossary,
    guide,
    home,
    inside,
    kernels,
    parameters,
    playground,
    progress,
    quantization,
    race,
    rag,
    review,
    runs,
    search,
    ship,
    teacher,
    validation,
    vram,
)
from app.words import t


@dataclass(frozen=True)
class View:
    """A page. url_path: its address ("" is the start). icon: a Material icon. wide: tools are, prose is not. section:
    the menu it is in, a key of menu in app/locales; "" is the bar itself."""

    url_path: str
    icon: str
    render: Callable[[], None]
    wide: bool = True
    section: str = ""

    @property
    def title(self) -> str:
        """What it is called, in the visitor's language."""
        return t(f"page.{self.url_path or 'course'}.title")

    @property
    def summary(self) -> str:
        """What one does there, in a sentence."""
        return t(f"page.{self.url_path or 'course'}.summary")


LESSONS, PLAN, TRAIN, LOOK, TAKE, PRACTICE, FIND = "lessons", "plan", "train", "look", "take", "practice", "find"

VIEWS = (
    View("", ":material/menu_book:", home.render, wide=False),
    View("vram", ":material/memory:", vram.render, section=PLAN),
    View("parameters", ":material/tag:", parameters.render, section=PLAN),
    View("guide", ":material/alt_route:", guide.render, section=PLAN),
    View("rag", ":material/manage_search:", rag.render, section=PLAN),
    View("validation", ":material/fact_check:", validation.render, section=PLAN),
    View("playground", ":material/science:", playground.render, section=TRAIN),
    View("race", ":material/flag:", race.render, section=TRAIN),
    View("runs", ":material/list_alt:", runs.render, section=TRAIN),
    View("inside", ":material/frame_inspect:", inside.render, section=LOOK),
    View("quantization", ":material/grid_on:", quantization.render, section=LOOK),
    View("kernels", ":material/speed:", kernels.render, section=LOOK),
    View("ship", ":material/local_shipping:", ship.render, wide=False, section=TAKE),
    View("drill", ":material/quiz:", drill.render, wide=False, section=PRACTICE),
    View("review", ":material/replay:", review.render, wide=False, section=PRACTICE),
    View("progress", ":material/monitoring:", progress.render, wide=False, section=PRACTICE),
    View("teacher", ":material/school:", teacher.render, section=PRACTICE),
    View("search", ":material/search:", search.render, wide=False, section=FIND),
    View("glossary", ":material/dictionary:", glossary.render, wide=False, section=FIND),
    View("claims", ":material/rule:", claims.render, wide=False, section=FIND),
)
