"""The pages beside the lessons. VIEWS is the one list; the navigation, the address and the width are read from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from app.views import (
    claims,
    guide,
    home,
    inside,
    parameters,
    playground,
    quantization,
    race,
    rag,
    runs,
    ship,
    validation,
    vram,
)


@dataclass(frozen=True)
class View:
    """A page. url_path: its address ("" is the start). icon: a Material icon. wide: tools are, prose is not. section:
    the menu it is in; "" is the bar itself. summary: what one does there, in a sentence."""

    title: str
    url_path: str
    icon: str
    render: Callable[[], None]
    wide: bool = True
    section: str = ""
    summary: str = ""


PLAN, TRAIN, LOOK, TAKE = "Plan", "Train", "Look inside", "Take away"

VIEWS = (
    View("Course", "", ":material/menu_book:", home.render, wide=False),
    View(
        "VRAM calculator", "vram", ":material/memory:", vram.render, section=PLAN,
        summary="Will it fit, and why? Every byte of a training step, on every card.",
    ),
    View(
        "Parameter calculator", "parameters", ":material/tag:", parameters.render, section=PLAN,
        summary="What each method trains in a model, matrix by matrix, and how the rank decides it.",
    ),
    View(
        "Guide", "guide", ":material/alt_route:", guide.render, section=PLAN,
        summary="Prompting, retrieval or fine-tuning? Twelve questions, and the reasons for the answer.",
    ),
    View(
        "Retrieval", "rag", ":material/manage_search:", rag.render, section=PLAN,
        summary="Change a fact and ask again; retrieval against fine-tuning, measured need by need.",
    ),
    View(
        "Validation", "validation", ":material/fact_check:", validation.render, section=PLAN,
        summary="How wrong the calculator is: published figures, and your own runs, term by term.",
    ),
    View(
        "Claims", "claims", ":material/rule:", claims.render, wide=False, section=PLAN,
        summary="What courses say about fine-tuning, computed, with a verdict and the reference.",
    ),
    View(
        "Playground", "playground", ":material/science:", playground.render, section=TRAIN,
        summary="Fine-tune with any method, on a task or on your own file.",
    ),
    View(
        "Race", "race", ":material/flag:", race.render, section=TRAIN,
        summary="Many methods on the same data: what each gives, and what it takes.",
    ),
    View(
        "Runs", "runs", ":material/list_alt:", runs.render, section=TRAIN,
        summary="Everything you have trained: compare, resume, talk to it, download it.",
    ),
    View(
        "Inside", "inside", ":material/frame_inspect:", inside.render, section=LOOK,
        summary="What a run changed: its directions, its size by layer, and each token's probability.",
    ),
    View(
        "Quantization", "quantization", ":material/grid_on:", quantization.render, section=LOOK,
        summary="Weights in four bits: where the levels come from, what is lost, and which layers suffer.",
    ),
    View(
        "Ship", "ship", ":material/local_shipping:", ship.render, wide=False, section=TAKE,
        summary="Merge, convert, time and check an adapter, for the programs that will serve it.",
    ),
)  # fmt: skip
