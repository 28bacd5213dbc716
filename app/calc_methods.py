"""Numbers about what methods train, keep and lose: counts from the methods' own closed forms, the recorded race, the
picture of lesson 3, and what others published."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.numbers import grouped, percent
from core.errors import BadInput
from core.units import bytes_text, count_text, seconds_text


def _settings(method: str, rank: int, targets: str) -> Any:
    from core.methods import METHODS

    if method not in METHODS:
        raise BadInput(f"There is no method {method!r}.", f"There are {', '.join(METHODS)}.")
    own = METHODS[method].Config()
    asked = {k: v for k, v in (("rank", rank), ("target_modules", targets)) if v}
    for name in asked:
        if not hasattr(own, name):
            raise BadInput(f"{method} has no {name}.")
    return dataclasses.replace(own, **asked)


def trained(model: str, method: str, rank: int = 0, targets: str = "") -> float:
    """Numbers that a method trains on a model (0 and "": the method's own defaults)."""
    from core.anatomy import table_of
    from core.methods import METHODS

    settings = _settings(method, rank, targets)
    return float(METHODS[method].count(table_of(model), settings))


def trained_share(model: str, method: str, rank: int = 0, targets: str = "") -> float:
    """The same as a share of the model's parameters, in per cent."""
    from core.anatomy import table_of

    return 100 * trained(model, method, rank, targets) / table_of(model).total


def trains(model: str, method: str) -> str:
    """What a method trains on a model, for a cell of a table: a count, or that the model has no place for it."""
    from core.anatomy import table_of
    from core.counting import count

    found = count(table_of(model), method)
    return "no place for it" if found.trainable is None else count_text(found.trainable)


def saved_bytes(model: str, method: str, rank: int = 0, targets: str = "") -> float:
    """Bytes that a method saves for one task."""
    from core.anatomy import table_of
    from core.memory.storage import storage

    return float(storage(table_of(model), method, _settings(method, rank, targets)).adapter)


def method_title(method: str) -> str:
    """A method's name."""
    from core.methods import METHODS

    _settings(method, 0, "")
    return METHODS[method].TITLE


def methods_count() -> float:
    """How many methods there are."""
    from core.methods import METHODS

    return float(len(METHODS))


def gpt(what: str) -> float:
    """Of GPT-3 with 175 billion parameters: its layers, or its width."""
    from core.claims.parameters import GPT3

    if what not in ("layers", "width"):
        raise BadInput(f"What is known of GPT-3 here are its layers and its width, not its {what}.")
    return float(GPT3[what == "width"])


def gpt_trained(share: float = 1.0) -> float:
    """Numbers of LoRA's pairs at rank 4 beside the queries and values of GPT-3's layers, or a share of them."""
    from core.methods.lora import pair_parameters

    wide = int(gpt("width"))
    return share * gpt("layers") * 2 * pair_parameters(wide, wide, 4)


def pairs(model: str) -> float:
    """Matrices beside which LoRA puts a pair by default."""
    from core.anatomy import table_of
    from core.methods import METHODS

    return float(len(METHODS["lora"].sites(table_of(model), METHODS["lora"].Config())))


def model_name(model: str) -> str:
    """A model of the catalogue by its name."""
    from core.catalog import model as find

    return find(model).name


def layers(model: str) -> float:
    """Blocks of a model."""
    from core.anatomy import depth, table_of

    return float(depth(table_of(model)))


def width(model: str) -> float:
    """Size of a token's hidden state."""
    from core.anatomy import table_of

    return float(table_of(model).width)


def raced(method: str, what: str) -> str:
    """A measure of the recorded race, the median over its seeds, with its unit."""
    from core.race import aggregate, measure, recorded

    bands = aggregate(recorded()["rows"])
    if method not in bands or what not in bands[method]:
        raise BadInput(f"The recorded race has no {what!r} of {method!r}.")
    return measure(what).text(bands[method][what].median)


def raced_count() -> float:
    """How many methods were in the recorded race."""
    from core.race import aggregate, recorded

    return float(len(aggregate(recorded()["rows"])))


def raced_steps() -> float:
    """How many steps each of them had."""
    from core.race import recorded

    return float(recorded()["steps"])


def raced_seconds() -> float:
    """How long the recorded race took in all, with all its seeds."""
    from core.race import recorded

    return float(recorded()["seconds"])


def against(folder: Path, run: str, other: str, what: str) -> float:
    """A figure of one recorded run in per cent of another's."""
    from app.calc import recorded

    below = recorded(folder, other, what)
    if below == 0:
        raise BadInput(f"The figure {what!r} of {other} is 0, so nothing is a share of it.")
    return 100 * recorded(folder, run, what) / below


def times(folder: Path, run: str, other: str, what: str) -> float:
    """How many times another recorded run's figure one has."""
    return against(folder, run, other, what) / 100


def lost(folder: Path, run: str) -> float:
    """Points of the old skills that a recorded run lost."""
    from app.calc import recorded

    return recorded(folder, run, "skills_before") - recorded(folder, run, "skills_after")


def points(value: float) -> str:
    """26.5 -> '27 points'."""
    return f"{value:.0f} point{'' if round(value) == 1 else 's'}"


def even_rank(d: int, k: int) -> float:
    """The rank at which a pair has as many numbers as the d × k matrix: d·k / (d + k)."""
    return d * k / (d + k)


def edit_title(edit: str) -> str:
    """An edit of the picture by its name."""
    from core import picture

    picture.edit(edit)
    return picture.EDITS[edit].title


def edit_rank(edit: str) -> float:
    """In how many directions an edit of the picture goes."""
    from core import picture

    return float(picture.rank_of(edit))


def edit_kept(edit: str, rank: int) -> float:
    """Per cent of an edit's energy in its first directions."""
    from core import picture

    return 100 * picture.kept(edit, rank)


def edit_numbers(rank: int) -> float:
    """Numbers of a pair of that rank for the picture."""
    from core import picture

    return float(picture.pair_numbers(rank))


def photo_numbers() -> float:
    """Numbers in the picture."""
    from core import picture

    return float(picture.ROWS * picture.COLUMNS)


def published(method: str, experiment: str, what: str) -> str:
    """A figure of the PEFT project's comparison: accuracy, memory or trainable."""
    from core.literature import method_comparison

    row = next((r for r in method_comparison() if (r.method, r.experiment) == (method, experiment)), None)
    if row is None:
        raise BadInput(f"The comparison has no {method} ({experiment}).")
    told = {
        "accuracy": percent(100 * row.test_accuracy),
        "memory": f"{row.memory_gib:.1f} GiB",
        "trainable": count_text(row.trainable),
    }
    if what not in told:
        raise BadInput(f"A published run has {', '.join(told)}, not {what!r}.")
    return told[what]


FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[[Any], str]]] = {
    "trained": (trained, grouped),
    "trained_short": (trained, count_text),
    "trained_share": (trained_share, percent),
    "trains": (trains, str),
    "saved_bytes": (saved_bytes, bytes_text),
    "method_title": (method_title, str),
    "methods_count": (methods_count, grouped),
    "model_name": (model_name, str),
    "gpt": (gpt, grouped),
    "gpt_trained": (gpt_trained, grouped),
    "pairs": (pairs, grouped),
    "layers": (layers, grouped),
    "width": (width, grouped),
    "raced": (raced, str),
    "raced_count": (raced_count, grouped),
    "raced_steps": (raced_steps, grouped),
    "raced_seconds": (raced_seconds, seconds_text),
    "against": (against, percent),
    "times": (times, lambda v: f"{v:.2g}"),
    "lost": (lost, points),
    "even_rank": (even_rank, grouped),
    "edit_title": (edit_title, str),
    "edit_rank": (edit_rank, grouped),
    "edit_kept": (edit_kept, percent),
    "edit_numbers": (edit_numbers, grouped),
    "photo_numbers": (photo_numbers, grouped),
    "published": (published, str),
}
