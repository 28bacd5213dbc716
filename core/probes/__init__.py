"""Measurements on what runs have made: a probe reads finished runs (or a base) and returns plain data.

A probe is one file: a frozen `Config` whose fields are `knob`s, and `measure`. It runs in a process of its own
(`core.runs.prober`), is given what it measures as `Subject`, and tells how far it is. PROBES is the one list; importing
it loads none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from core.errors import NotFound

Tell = Callable[[float | None, str], None]
"""Called with the share that is done (None: unknown) and a few words on what is being done now."""


@dataclass(frozen=True)
class Source:
    """A finished run, as a probe sees it.

    id: the run's. title: its name. config: as the run was resolved (`RunConfig.to_dict`); of a run on somebody's own
    file, `data` is the copy in the run's folder. adapter: the folder with what it learnt. dtype: the precision it was
    trained and scored in.
    """

    id: str
    title: str
    config: dict[str, Any]
    adapter: Path
    dtype: str | None


@dataclass(frozen=True)
class Subject:
    """What a probe measures. runs: in the order they were named; empty for probes of a base. folder: may be written to,
    and stays as long as the result does."""

    runs: tuple[Source, ...]
    folder: Path


class Probe(Protocol):
    """One file of this package.

    TITLE: for people. RUNS: (least, most) runs that it takes. Config: frozen dataclass of knobs.
    """

    TITLE: str
    RUNS: tuple[int, int]
    Config: type[Any]

    def measure(self, subject: Subject, config: Any, tell: Tell) -> dict[str, Any]:
        """Measure, and return what JSON can hold.

        Raises:
            DeltalabError: it cannot be measured, and why.
        """


PROBES: dict[str, str] = {
    "spectrum": "core.probes.spectrum",
    "truncation": "core.probes.truncation",
    "tokens": "core.probes.tokens",
    "overlap": "core.probes.overlap",
    "quantization": "core.probes.quantization",
    "quantized_layers": "core.probes.quantized_layers",
    "latency": "core.probes.latency",
    "merge": "core.probes.merge",
    "convert": "core.probes.convert",
    "swap": "core.probes.swap",
    "rag": "core.rag.experiment",
    "kernels": "core.probes.kernels",
}
"""name -> module"""


def probe(name: str) -> Probe:
    """The probe of that name, imported.

    Raises:
        NotFound: there is none.
    """
    if name not in PROBES:
        raise NotFound(f"There is no measurement called {name!r}.", f"There are: {', '.join(PROBES)}.")
    return cast(Probe, import_module(PROBES[name]))
