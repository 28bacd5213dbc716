"""What a run's measured step was expected to take, for the run's own record: a ledger beside the measured one.

Where an estimate ships for the model, the method and its settings, that answers at once. Everything else is traced: the
same passes, as training cut them, run on tensors without data. That takes a moment (a third of a second for the
embedded base, seconds for billions of parameters), so a run asks when it is over. Nothing of what was measured enters.

A run is never broken by it: where no figure can be given, a sentence says why, and pages show that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from core.config import RunConfig
from core.errors import BadInput, DeltalabError
from core.memory.estimate import Sizes, find
from core.memory.ledger import Ledger
from core.memory.setup import Device, Pass, Setup
from core.memory.sharded import COPIES

# What a run measures as one term, and a trace tells apart.
ONE_TERM = "activations and temporaries"
PARTS = ("batch", COPIES, "activations", "recomputed activations", "logits and loss", "temporaries")
REASON = "reason"  # key of the sentence that stands in a ledger's place


@dataclass(frozen=True)
class Measured:
    """How the measured step was carried out.

    passes: in their order; none: they were not of a language model. precision: what they computed in. attention: the
    name of the model's attention, as transformers has it. device: as `Device` reads it. processes: that shared it.
    """

    passes: tuple[Pass, ...]
    precision: str
    attention: str
    device: str = "cpu"
    processes: int = 1

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` is its inverse."""
        return {**vars(self), "passes": [list(p) for p in self.passes]}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Measured:
        """Read what `to_dict` wrote."""
        return cls(**{**record, "passes": tuple(Pass(*p) for p in record["passes"])})


def predicted(config: RunConfig, step: Measured) -> dict[str, Any]:
    """The ledger of a step of a run, as `Ledger.to_dict`; or a sentence under `reason`."""
    try:
        return _ledger(config, step).to_dict()
    except DeltalabError as error:
        return {REASON: error.sentence}
    except Exception as error:  # whatever it is: a prediction is a remark beside the run, and its record says so
        first = (str(error).strip().splitlines() or ["no message"])[0][:160].rstrip(".")
        return {REASON: f"The trace of this step broke off with {type(error).__name__}: {first}."}


def _ledger(config: RunConfig, step: Measured) -> Ledger:
    """The ledger itself.

    Raises:
        DeltalabError: there is none, and why.
    """
    if step.processes > 1:
        raise BadInput(f"{step.processes} processes shared this run's steps; a run in one process is predicted.")
    if not step.passes:
        raise BadInput("This run trained a classifier, and only the steps of language models are predicted.")
    from core.base import load_config
    from core.memory.trace import attention_of, trace
    from kernels.base import switched_off

    largest = max(step.passes, key=lambda p: p.rows * p.tokens)
    device = Device.of(step.device)
    setup = replace(Setup.of(config, largest.rows, largest.tokens, device, largest.answers), precision=step.precision)
    described = load_config(config.base, config.revision)
    if attention_of(described, setup) != step.attention:  # (another row of the data is long)
        setup = replace(setup, attention=step.attention)
    if not config.train.fast_step:  # then layers that are written by hand are carried out step by step, and keep more
        with switched_off():
            return trace(described, setup, step.passes).ledger()
    made = _shipped(config, setup) if len(set(step.passes)) == 1 else None
    return made.ledger(Sizes.of(setup)) if made is not None else trace(described, setup, step.passes).ledger()


def _shipped(config: RunConfig, setup: Setup) -> Any:
    """The estimate that comes with the program for such a step, or None."""
    from core.catalog import known
    from core.config import EMBEDDED

    row = None if config.base == EMBEDDED else known(config.base)
    name = EMBEDDED if config.base == EMBEDDED else row.name if row is not None else None
    return find(name, setup) if name is not None else None


def residuals(told: Mapping[str, Any], measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Two ledgers of a run (`predicted` and the measured one), term by term.

    Returns:
        rows with name, predicted, measured and difference (measured − predicted), all in bytes; the last row is the
        whole. Empty when one of the two is.
    """
    if not told.get("terms") or not measured.get("terms"):
        return []
    ours: dict[str, int] = {}
    for term in told["terms"]:
        name = ONE_TERM if term["name"] in PARTS else term["name"]
        ours[name] = ours.get(name, 0) + term["bytes"]
    theirs = {term["name"]: term["bytes"] for term in measured["terms"]}
    rows = [(name, ours.get(name, 0), theirs.get(name, 0)) for name in dict.fromkeys((*theirs, *ours))]
    rows.append(("allocated", told["allocated_bytes"], measured["allocated_bytes"]))
    return [
        {"name": name, "predicted": mine, "measured": real, "difference": real - mine}
        for name, mine, real in rows
        if mine or real
    ]


def why_not(told: Mapping[str, Any], measured: Mapping[str, Any]) -> str:
    """Why a finished run has no residuals, as a sentence; '' if it has."""
    if residuals(told, measured):
        return ""
    if not measured.get("terms"):
        return TOO_SHORT
    return str(told.get(REASON) or OLDER)


TOO_SHORT = (
    "The run was too short: memory is measured from the second step on (in several processes from the third), when the "
    "optimizer's state exists."
)
OLDER = "The run was made by a version of Deltalab that had no prediction for such settings: run it again."

__all__ = ["ONE_TERM", "Measured", "predicted", "residuals", "why_not"]
