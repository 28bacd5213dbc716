"""The pages beside the lessons. VIEWS is the one list; the navigation, the address and the width are read from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from app.views import home, inside, playground, quantization, race, runs, ship


@dataclass(frozen=True)
class View:
    """A page. url_path: its address ("" is the start). icon: a Material icon. wide: tools are, prose is not."""

    title: str
    url_path: str
    icon: str
    render: Callable[[], None]
    wide: bool = True


VIEWS = (
    View("Course", "", ":material/menu_book:", home.render, wide=False),
    View("Playground", "playground", ":material/science:", playground.render),
    View("Race", "race", ":material/flag:", race.render),
    View("Quantization", "quantization", ":material/grid_on:", quantization.render),
    View("Runs", "runs", ":material/list_alt:", runs.render),
    View("Inside", "inside", ":material/frame_inspect:", inside.render),
    View("Ship", "ship", ":material/local_shipping:", ship.render, wide=False),
)
