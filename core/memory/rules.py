"""The textbook's formula for each term of a step's memory, beside what the trace found, and why the two differ.

A term shown is always the traced one. The formula explains where it comes from, in the reader's own numbers; where it
is off, the difference and its cause are part of the explanation.

    weights      parameters × bytes of their format        gradients        trained × 4
    optimizer    trained × 2 × 4 (AdamW's two means)       logits and loss  answer tokens × vocabulary × 3 × 4
    activations  34 × length × batch × width × layers, in 16 bits, attention kept fused
                 (Korthikanti et al. 2022, arXiv:2205.05198, equation 2 without its last term, which is the attention
                 matrix; for a block of plain MLP of width 4)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.memory.estimate import Sizes
from core.memory.sharded import COPIES
from core.methods import METHODS
from core.methods.qlora import quantized
from core.units import DTYPE_BYTES

if TYPE_CHECKING:
    from core.architecture import Architecture
    from core.memory.ledger import Ledger
    from core.memory.setup import Setup

BLOCK, NESTED = 64, 256  # weights per scale, and scales per scale of scales (QLoRA, section 3)
CLOSE = 0.005  # relative difference that is rounding to blocks of 512 bytes, and small buffers
KORTHIKANTI = 34


@dataclass(frozen=True)
class Rule:
    """A term explained. formula: with the reader's numbers. bytes: what it comes to; None: there is no short formula.

    traced: the term itself. why: the cause of a difference; "" where there is none to speak of.
    """

    term: str
    formula: str
    bytes: int | None
    traced: int
    why: str

    @property
    def difference(self) -> int | None:
        """Traced less formula, in bytes."""
        return None if self.bytes is None else self.traced - self.bytes


def rules(table: Architecture, setup: Setup, ledger: Ledger, shares: Mapping[str, float] | None = None) -> list[Rule]:
    """One row per term of the ledger, in its order.

    Args:
        shares: term -> what share of it one of several GPUs has (`core.memory.sharded.Sharding.factors`).
    """
    makers: dict[str, Callable[[], tuple[str, float | None, str]]] = {
        "frozen weights": lambda: _frozen(table, setup),
        "quantization constants": lambda: _constants(table, setup),
        "trained weights": lambda: _trained(table, setup),
        "optimizer state": lambda: _optimizer(table, setup),
        "gradients": lambda: _gradients(table, setup, ledger),
        "batch": lambda: _batch(setup),
        COPIES: lambda: _copies(table, setup),
        "activations": lambda: _activations(table, setup),
        "logits and loss": lambda: _logits(table, setup),
        "recomputed activations": lambda: (
            "what the block at work keeps, computed a second time", None, "Only one block at a time has them.",
        ),
        "temporaries": lambda: (
            "what operations need while they run", None, "They come and go; these were alive at the peak.",
        ),
    }  # fmt: skip
    out = []
    for term in ledger.terms:
        maker = makers.get(term.name)
        formula, number, why = maker() if maker is not None else (term.formula, None, "")
        share = (shares or {}).get(term.name, 1.0)
        if number is not None and share != 1:
            formula = f"({formula}) / {1 / share:,.0f} GPUs" if share else f"{formula}, in the CPU's memory"
        value = None if number is None else round(number * share)
        close = value is not None and abs(term.bytes - value) <= CLOSE * max(term.bytes, value)
        out.append(Rule(term.name, formula, value, term.bytes, "" if close else why))
    return out


def weight_format(setup: Setup) -> str:
    """The format of weights that do not train and are not quantized."""
    return "float32" if METHODS[setup.method].BASE == "trained" or not setup.device.is_cuda else setup.precision


def trainable(table: Architecture, setup: Setup) -> int:
    """Numbers that train."""
    return METHODS[setup.method].count(table, setup.settings)


def _frozen(table: Architecture, setup: Setup) -> tuple[str, float, str]:
    each = DTYPE_BYTES[weight_format(setup)]
    if METHODS[setup.method].BASE == "trained":
        each = trained_bytes(setup)
    method = METHODS[setup.method]
    if method.BASE == "quantized":
        few = sum(m.weight for m in quantized(table))
        rest = table.total - few
        small = 1 if setup.settings.quant_type == "int8" else 0.5
        return (
            f"{few:,} × {small:g} bytes + {rest:,} × {each:g} bytes",
            few * small + rest * each,
            "Buffers such as rotary frequencies are counted with the weights.",
        )
    inside = trainable(table, setup) if method.BASE == "trained" else 0
    number = table.total - inside
    return (
        f"{number:,} × {each:g} bytes ({weight_format(setup)})",
        number * each,
        "Buffers are counted with the weights.",
    )


def _constants(table: Architecture, setup: Setup) -> tuple[str, float, str]:
    few = sum(m.weight for m in quantized(table))
    if setup.settings.quant_type == "int8":
        rows = sum(m.out_features for m in quantized(table))
        return f"{rows:,} rows × 4 bytes", rows * 4, ""
    if setup.settings.double_quantization:
        each = 1 / BLOCK + 4 / (BLOCK * NESTED)
        text = f"{few:,} × (1/{BLOCK} + 4/({BLOCK} × {NESTED})) bytes"
    else:
        each = 4 / BLOCK
        text = f"{few:,} × 4/{BLOCK} bytes"
    return text, few * each, "Each matrix also keeps its two tables of levels, 64 and 1,024 bytes."


def trained_bytes(setup: Setup) -> float:
    """Of one number that trains."""
    if METHODS[setup.method].BASE == "trained":
        return 4 if setup.stack.autocast or setup.precision == "float32" else 2
    return DTYPE_BYTES[setup.stack.adapters]


def _trained(table: Architecture, setup: Setup) -> tuple[str, float, str]:
    number, each = trainable(table, setup), trained_bytes(setup)
    return (
        f"{number:,} trained × {each:g} bytes", number * each,
        "What computes a prompt, or random matrices that never train, is held in the same place.",
    )  # fmt: skip


def _optimizer(table: Architecture, setup: Setup) -> tuple[str, float, str]:
    number, each = trainable(table, setup), trained_bytes(setup)
    if setup.optimizer == "adamw":
        text = f"{number:,} trained × 2 means × {each:g} bytes"
        return text, number * 2 * each, "Each tensor has a step count beside them."
    return (
        f"{number:,} trained × 2 means × 1 byte", number * 2,
        "Tensors of fewer than 4,096 numbers keep 32 bits, and blocks of 256 share a scale of 4 bytes."
        + (" Paged states can move to the CPU's memory; they are not counted." if "paged" in setup.optimizer else ""),
    )  # fmt: skip


def _gradients(table: Architecture, setup: Setup, ledger: Ledger) -> tuple[str, float, str]:
    number, each = trainable(table, setup), trained_bytes(setup)
    return (
        f"{number:,} trained × {each:g} bytes", number * each,
        f"At the peak ({ledger.peak_at}) only some of them exist; all do when the backward pass is over.",
    )  # fmt: skip


def _batch(setup: Setup) -> tuple[str, float, str]:
    return (
        f"2 × batch {setup.batch} × length {setup.length:,} × 8 bytes",
        16 * setup.batch * setup.length,
        ("On a CPU the batches of all passes wait in memory."),
    )


def width(table: Architecture) -> int:
    """Of the hidden states: that of the first embedding."""
    return next((m.out_features for m in table.modules if m.kind == "embedding"), 0)


def vocabulary(table: Architecture) -> int:
    """Rows of the output layer, or of the first embedding where there is none."""
    head = next((m for m in table.modules if m.name == table.head), None)
    first = next((m for m in table.modules if m.kind == "embedding"), None)
    return head.out_features if head is not None else first.in_features if first is not None else 0


def depth(table: Architecture) -> int:
    """Number of blocks: one more than the largest number in a module's path."""
    numbers = [int(part) for m in table.modules for part in m.name.split(".") if part.isdigit()]
    return max(numbers, default=-1) + 1


def _copies(table: Architecture, setup: Setup) -> tuple[str, float, str]:
    # (What computes in 16 bits is the matrices: embeddings are looked up, and norms stay in 32.)
    whole = METHODS[setup.method].BASE == "trained"
    number = sum(m.weight for m in table.linears()) if whole else trainable(table, setup)
    return (
        f"{number:,} × 2 bytes", number * 2,
        "Autocast makes them when a matrix is used, and keeps those of what trains until the forward pass is over "
        "(where nothing is recomputed, the backward pass needs them still); those of what does not train go at once. "
        "At the peak only some of them exist.",
    )  # fmt: skip


def _activations(table: Architecture, setup: Setup) -> tuple[str, float, str]:
    layers, wide = depth(table), width(table)
    each = DTYPE_BYTES[setup.precision]
    if setup.checkpointing:
        number = setup.batch * setup.length * wide * layers * each
        return (
            f"batch {setup.batch} × length {setup.length:,} × {wide:,} wide × {layers} layers × {each:g} bytes",
            number,
            "One tensor per block is kept. What stands outside the blocks (embedding, last norm) is kept as well, some "
            "of it in 32 bits.",
        )
    number = KORTHIKANTI / 2 * each * setup.batch * setup.length * wide * layers
    return (
        f"{KORTHIKANTI / 2 * each:g} × batch {setup.batch} × length {setup.length:,} × {wide:,} wide × {layers} layers",
        number,
        "The formula is for a plain MLP four times as wide, dropout, and training in full. Gated MLPs keep three wide "
        "tensors, norms and adapters keep copies in 32 bits, and frozen weights need no inputs kept for their own "
        "gradients.",
    )


def _logits(table: Architecture, setup: Setup) -> tuple[str, float, str]:
    words = vocabulary(table)
    own = setup.stack.loss == "answers"
    tokens = Sizes.of(setup).answer_tokens if own else setup.batch * setup.length
    return (
        f"{tokens:,} {'answer tokens' if own else 'tokens'} × {words:,} words × 3 × 4 bytes", tokens * words * 12,
        "Three copies in 32 bits (logits, their log-softmax, the gradient) are alive at once in the loss; at other "
        "moments there are fewer, and a 16-bit copy for the output layer.",
    )  # fmt: skip


__all__ = ["Rule", "depth", "rules", "vocabulary", "weight_format", "width"]
