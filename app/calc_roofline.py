"""Numbers for the lesson on kernels: intensities, ridges, launches, savings, decoding. All times are predictions."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import BadInput
from core.units import bytes_text

if TYPE_CHECKING:
    from core.roofline import Limit, Op, Total


def limit(card: str) -> Limit:
    """The two ceilings of a card of the catalogue."""
    from core.catalog import gpu
    from core.roofline import limit_of

    found = limit_of(gpu(card))
    if found is None:
        raise BadInput(f"The rate or the bandwidth of {card} is not known.")
    return found


@lru_cache(maxsize=64)
def ops(model: str, method: str, batch: int, length: int, fused: bool = False, graph: bool = False) -> tuple[Op, ...]:
    """The operations of a step."""
    from core.catalog import architecture_of
    from core.roofline import operations

    return operations(
        architecture_of(model), batch=batch, length=length, method=method, rank=16, fused=fused, graph=graph
    )


def whole(card: str, model: str, method: str, batch: int, length: int, *, fused: bool = False, graph: bool = False,
          ) -> Total:  # fmt: skip
    """A step's totals on a card."""
    from core.roofline import total

    return total(ops(model, method, batch, length, fused, graph), limit(card))


def product_intensity(rows: int, inner: int, columns: int) -> float:
    """Operations a byte of a matrix product in 16 bits: 2·m·k·n over 2 bytes for each number of the three matrices."""
    return 2.0 * rows * inner * columns / (2 * (rows * inner + inner * columns + rows * columns))


def sum_intensity() -> float:
    """Of adding two tensors in 16 bits: one operation for two numbers read and one written."""
    return 1 / 6


def ridge(card: str) -> float:
    """Operations a byte from which on a card waits for its arithmetic."""
    return limit(card).ridge


def card_figure(card: str, what: str) -> float:
    """rate: in 10¹² operations a second; bandwidth: in 10⁹ bytes a second."""
    found = limit(card)
    if what not in ("rate", "bandwidth"):
        raise BadInput(f"A card has a rate and a bandwidth, not {what!r}.")
    return found.flops_per_second / 1e12 if what == "rate" else found.bytes_per_second / 1e9


def step_launches(model: str, method: str, fused: str = "no", graph: str = "no") -> float:
    """Launches of a step, which do not depend on its tokens."""
    return float(sum(op.launches for op in ops(model, method, 1, 1024, fused == "yes", graph == "yes")))


def launch_us() -> float:
    """Microseconds that the host is taken to need to ask for one operation."""
    from core.roofline import HOST_SECONDS_PER_LAUNCH

    return 1e6 * HOST_SECONDS_PER_LAUNCH


def step_ms(card: str, model: str, method: str, batch: int, length: int, part: str = "wait", fused: str = "no",
            graph: str = "no") -> float:  # fmt: skip
    """Predicted milliseconds: part 'card', 'host', or 'wait', the longer of the two."""
    found = whole(card, model, method, batch, length, fused=fused == "yes", graph=graph == "yes")
    parts = {"card": found.device_seconds, "host": found.host_seconds, "wait": found.seconds}
    if part not in parts:
        raise BadInput(f"The parts of a step's time are {', '.join(parts)}, not {part!r}.")
    return 1000 * parts[part]


def op_share(card: str, model: str, method: str, batch: int, length: int, name: str) -> float:
    """Share of the card's least time that goes to the operations whose name has this in it, in per cent."""
    rows = ops(model, method, batch, length)
    bounds = limit(card)
    mine = [op for op in rows if name in op.name]
    if not mine:
        raise BadInput(f"No operation is called {name!r}; there are {', '.join(op.name for op in rows)}.")
    return 100 * sum(op.seconds(bounds) for op in mine) / sum(op.seconds(bounds) for op in rows)


def op_intensity(model: str, method: str, batch: int, length: int, name: str) -> float:
    """Operations a byte of the first operation whose name has this in it."""
    found = next((op for op in ops(model, method, batch, length) if name in op.name), None)
    if found is None:
        raise BadInput(f"No operation is called {name!r}.")
    return found.intensity


def fusion_saves(model: str, method: str, batch: int, length: int, name: str = "") -> float:
    """Bytes of a step that fusing spares, at one operation or ('') at all."""
    plain, one = ops(model, method, batch, length), ops(model, method, batch, length, fused=True)
    return sum(a.bytes - b.bytes for a, b in zip(plain, one, strict=True) if b.kernel and name in b.name)


def fusion_gain(card: str, model: str, method: str, batch: int, length: int) -> float:
    """How many times shorter the card's least time is with every fused kernel of the project; predicted."""
    return (
        whole(card, model, method, batch, length).device_seconds
        / whole(card, model, method, batch, length, fused=True).device_seconds
    )


def scores_bytes(model: str, tokens: int, bits: int = 16) -> float:
    """What the scores over the vocabulary take for so many tokens."""
    return float(tokens) * _vocabulary(model) * bits / 8


def loss_chunks(model: str, tokens: int) -> float:
    """In how many parts the fused loss takes them."""
    from core.roofline import loss_chunks as chunks

    return float(chunks(tokens, _vocabulary(model)))


def _vocabulary(model: str) -> int:
    from core.catalog import architecture_of

    table = architecture_of(model)
    return next(m for m in table.modules if m.name == table.head).out_features


def decode(card: str, tokens: int, what: str, width: int = 4096) -> float:
    """A product with a square matrix in NF4: gain (times), decodings, apart_bytes or inside_bytes."""
    from core.decode_cost import decoding

    found = decoding(tokens, width, width, limit(card))
    if what not in ("gain", "decodings", "apart_bytes", "inside_bytes"):
        raise BadInput(f"There is no {what!r} of a decoding.")
    return float(getattr(found, what))


BENCH = Path(__file__).parents[1] / "tests" / "records" / "bench_cpu.json"
"""Written by `make bench`."""


@lru_cache(maxsize=2)
def _record(file: Path, what: str) -> dict[str, Any]:
    """A record of this machine's or another's; what: that it is of, for the error where there is none."""
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except OSError:
        raise BadInput(f"There is no record of {what} here.") from None
    return found


def _row(method: str, comparison: str) -> dict[str, Any]:
    """A row says itself where it was measured, or the record says it of all."""
    record = _record(BENCH, "`make bench`")
    for row in record["rows"]:
        if (row["method"], row["comparison"]) == (method, comparison):
            return {**record, **row}
    raise BadInput(f"The benchmark has no row for {method}, {comparison}.")


def bench(method: str, comparison: str) -> float:
    """How many times as many examples a second the engine trains as Trainer and PEFT, on the machine of the record:
    by default, or on identical batches."""
    return float(_row(method, comparison)["ratio_median"])


def bench_device(method: str = "lora", comparison: str = "identical") -> str:
    """The machine on which that row was measured."""
    return str(_row(method, comparison)["device"])


FORMS = BENCH.with_name("forms_cpu.json")
"""Written by `python -m tests.bench_forms --record`."""


def _form(form: str, precision: str) -> dict[str, Any]:
    for row in _record(FORMS, "the forms of a step")["rows"]:
        if (row["precision"], row["form"]) == (precision, form):
            return dict(row)
    raise BadInput(f"The record has no form {form!r} in {precision}.")


def form(form: str, what: str = "gain", precision: str = "bfloat16") -> float:
    """Of a LoRA step of the embedded base in a form ('written out', 'compiled'): gain, how many times as fast as the
    plain one in the same precision; compiling_seconds."""
    row = _form(form, precision)
    if what == "gain":
        return float(_form("plain", precision)["ratio"] / row["ratio"])
    if what not in row:
        raise BadInput(f"The record says no {what!r} of the form {form!r}.")
    return float(row[what])


def compiling_pays(precision: str = "bfloat16") -> str:
    """Against the engine's own form: 'pays only from 1,658 steps on', or that it never does."""
    after = _form("compiled", precision)["pays_after"]
    return "never pays: that is as fast" if after is None else f"pays only from {after:,} steps on"


def plain(value: float) -> str:
    """Three digits: 0.1667 -> '0.167', 295.2 -> '295', 2286 -> '2,286'."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def percent(value: float) -> str:
    """A share in per cent."""
    return f"{value:.0f} %" if value >= 10 or value == 0 else f"{value:.1f} %"


FUNCTIONS: dict[str, tuple[Any, Any]] = {
    "product_intensity": (product_intensity, plain),
    "sum_intensity": (sum_intensity, plain),
    "ridge": (ridge, plain),
    "card_figure": (card_figure, plain),
    "step_launches": (step_launches, plain),
    "launch_us": (launch_us, lambda v: f"{plain(v)} µs"),
    "step_ms": (step_ms, lambda v: f"{plain(v)} ms"),
    "op_share": (op_share, percent),
    "op_intensity": (op_intensity, plain),
    "fusion_saves": (fusion_saves, bytes_text),
    "fusion_gain": (fusion_gain, plain),
    "scores_bytes": (scores_bytes, bytes_text),
    "loss_chunks": (loss_chunks, plain),
    "decode": (decode, plain),
    "bench": (bench, plain),
    "form": (form, plain),
    "compiling_pays": (compiling_pays, str),
    "bench_device": (bench_device, str),
}
