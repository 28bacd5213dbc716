"""`deltalab memory`: what a training step takes on a device, term by term, without running it."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from core.cli.arguments import (
    DONE,
    asks_for_help,
    command,
    config_of,
    json_argument,
    method_arguments,
    print_knobs,
    quiet_libraries,
)
from core.errors import BadInput, DeltalabError
from core.memory.sharded import ALONE, OFFLOADS, Sharding
from core.memory.stack import ADAPTERS, LOSSES, OPTIMIZERS, OWN, PRESETS, stack_named

if TYPE_CHECKING:
    from core.architecture import Architecture
    from core.config import RunConfig
    from core.memory.ledger import Ledger
    from core.memory.rules import Rule
    from core.memory.setup import Setup


TOKENS = 512  # of a row, where nobody says


def add(commands: Any) -> None:
    """The command's flags."""
    memory = command(commands, "memory", _memory, "predict what a training step takes on a card, term by term")
    memory.add_argument(
        "--model", "--base", default="embedded",
        help="a name of the catalogue, a folder, a hub id, a config.json, or its content",
    )  # fmt: skip
    memory.add_argument("--revision", help=argparse.SUPPRESS)
    method_arguments(memory)
    memory.add_argument("--batch", type=int, default=1, metavar="N", help="rows of one pass (default: 1)")
    memory.add_argument(
        "--seq", type=int, metavar="N", help=f"tokens of a row (default: {TOKENS}, or as many as the model reads)"
    )
    memory.add_argument(
        "--answers", type=int, metavar="N", help="tokens of a batch that have a loss (default: all that can)"
    )
    memory.add_argument(
        "--gpu", metavar="NAME", help="a card of the catalogue, or cpu; without it a card with bfloat16 is assumed"
    )
    memory.add_argument("--trace", action="store_true", help="run the whole step on tensors without data")
    _stack_arguments(memory)
    _sharding_arguments(memory)
    json_argument(memory)


def _stack_arguments(memory: argparse.ArgumentParser) -> None:
    """Another program than Deltalab, and its switches."""
    memory.add_argument(
        "--as", dest="stack", default="deltalab", metavar="PROGRAM",
        help=f"the program that trains: {', '.join(PRESETS)} (default: deltalab)",
    )  # fmt: skip
    memory.add_argument("--loss", metavar="KIND", help=f"how the loss is taken: {', '.join(LOSSES)}")
    memory.add_argument("--adapters", metavar="DTYPE", help=f"number format of what is added: {', '.join(ADAPTERS)}")
    memory.add_argument("--optimizer-by", metavar="WAY", help=f"how the optimizer runs: {', '.join(OPTIMIZERS)}")
    for flag, what in (
        ("compile", "torch.compile of each layer"),
        ("optimizer-in-backward", "update each parameter as soon as its gradient is there"),
        ("offload-activations", "keep what layers save for the backward pass in the CPU's memory"),
        ("kbit", "keep in 32 bits what is not quantized of a quantized base (prepare_model_for_kbit_training)"),
    ):
        memory.add_argument(f"--{flag}", action="store_true", default=None, help=what)


def _sharding_arguments(memory: argparse.ArgumentParser) -> None:
    """Several GPUs, and the CPU's memory."""
    memory.add_argument("--gpus", type=int, default=1, metavar="N", help="how many share the step, each its own batch")
    memory.add_argument("--zero", type=int, default=0, metavar="STAGE", help="ZeRO stage, 0 to 3 (3 is FSDP)")
    memory.add_argument("--tensor", type=int, default=1, metavar="N", help="degree of tensor parallelism")
    memory.add_argument(
        "--offload", default="none", metavar="WHAT", help=f"to the CPU's memory: {', '.join(OFFLOADS)} (default: none)"
    )


def _memory(asked: argparse.Namespace) -> int:
    if asks_for_help(asked):
        return print_knobs(asked.method)
    from core.catalog import gpu, known, pasted
    from core.config import EMBEDDED
    from core.counting import experts_note
    from core.memory.card import FITS, TIGHT, check_runs, other_kernels, totals, verdict_text
    from core.memory.compare import Family, ahead_of, check, half_note
    from core.memory.estimate import find
    from core.memory.rules import rules
    from core.memory.setup import Device, Setup
    from core.methods import METHODS

    sharding = Sharding(asked.gpus, asked.zero, asked.tensor, asked.offload).checked()
    stack = stack_named(asked.stack).with_switches(
        loss=asked.loss, adapters=asked.adapters, optimizer=asked.optimizer_by, compile=asked.compile,
        in_backward=asked.optimizer_in_backward,
        offload_activations=asked.offload_activations, kbit=asked.kbit,
    )  # fmt: skip
    quiet_libraries()
    card = gpu(asked.gpu) if asked.gpu is not None and asked.gpu.lower() != "cpu" else None
    on_cpu = asked.gpu is not None and card is None
    device = Device() if on_cpu else Device.of(card.capability if card is not None and card.capability else "8.0")
    if not device.is_cuda and (sharding != ALONE or stack != OWN):
        raise BadInput("Sharding, offloading and other programs are known for GPUs only.", "Name a card with --gpu.")
    config, source = _plain(asked), asked.model if asked.model != EMBEDDED else EMBEDDED
    setup = Setup.of(config, asked.batch, TOKENS if asked.seq is None else asked.seq, device, asked.answers, stack)
    table, context = _table(source, setup), _context(source)
    if asked.seq is None and context is not None:
        room = context - ahead_of(setup)
        setup = Setup.of(config, asked.batch, min(TOKENS, max(2, room)), device, asked.answers, stack)
    check(table, context, setup, table.name, sharding)
    if card is not None:
        check_runs(card, setup)
    total, trainable = table.total, METHODS[setup.method].count(table, setup.settings)
    ledger, reserved, made, versions, traced = _answered(source, setup, sharding, whole=asked.trace)
    told = rules(table, setup, ledger, sharding.factors())
    found = totals(ledger.allocated_bytes, device, reserved)
    fits = found.verdict(card.usable_bytes) if card is not None else None
    if asked.json:
        print(
            json.dumps(
                {
                    "total": total, "trainable": trainable, "allocated_bytes": found.allocated,
                    "reserved_bytes": found.reserved[1], "process_bytes": found.process[1],
                    "reserved_range": [found.reserved[0], found.reserved[2]],
                    "process_range": [found.process[0], found.process[2]], "peak_at": ledger.peak_at,
                    "terms": ledger.to_dict()["terms"], "rules": [explained(rule) for rule in told],
                    **({"timeline": traced.timeline(), "tensors": traced.tensors()} if asked.trace and traced else {}),
                    "fits": fits, "usable_bytes": card and card.usable_bytes,
                    "usable_estimated": card and card.estimated, "note": other_kernels(card) if card else "",
                    "versions": versions, "gpus": sharding.gpus, "as": stack.name,
                },
                ensure_ascii=False,
            )
        )  # fmt: skip
        return DONE
    _print(ledger, told, found, setup)
    named = None if pasted(source) else known(source)
    half = half_note(lambda s: find(named.name, s) if named is not None else None, setup)
    for note in (sharding.note(), experts_note(table, setup.method), half):
        if note:
            print(note)
    if card is not None:
        print(verdict_text(found, card))
        if card.estimated:
            print(f"(What can be used of {card.name} is {card.usable_source}.)")
        if other_kernels(card):
            print(other_kernels(card))
        family = Family.of(lambda s: find(made.model, s), setup) if made is not None and sharding.alone else None
        if family is not None:
            print(_largest(*(family.largest(setup, card, verdict)[0] for verdict in (FITS, TIGHT))))
    return DONE


def _largest(fits: int | None, tight: int | None) -> str:
    """The largest batch that fits, and that is tight at least, as a sentence."""
    if fits is None or tight is None:
        return "Batches of more rows are not traced ahead."
    if not tight:
        return "Not even one row fits."
    first = f"The largest batch that fits at this length is {fits:,}" if fits else "No batch fits for certain"
    return f"{first}; it is tight up to {tight:,}." if tight > fits else f"{first}."


def _plain(asked: argparse.Namespace) -> RunConfig:
    """The run's settings; which base they are for is of no interest to them."""
    return config_of(argparse.Namespace(**{**vars(asked), "model": "embedded"}))


def _table(source: str, setup: Setup) -> Architecture:
    from core.architecture import architecture_of_config
    from core.catalog import architecture_of, configuration, known, pasted
    from core.few_bits import check_traced

    row = None if pasted(source) else known(source)
    if row is not None:
        return architecture_of(row.name)
    config = configuration(source)
    check_traced(config, setup.method, setup.settings)
    return architecture_of_config(config)


def _context(source: str) -> int | None:
    """Tokens that the model reads; None where nothing says."""
    from core.catalog import configuration, known, pasted

    row = None if pasted(source) else known(source)
    if row is not None:
        return row.context_tokens
    found: int | None = getattr(configuration(source).get_text_config(), "max_position_embeddings", None)
    return found


def _answered(
    source: str, setup: Setup, sharding: Sharding, *, whole: bool
) -> tuple[Ledger, int | None, Any, dict[str, str], Any]:
    """The ledger of one GPU; what the allocator would reserve (None: not simulated); the surrogate that answered, if
    one did; the versions of what was traced; and the trace, if there is one and of one GPU alone.

    Raises:
        DeltalabError: the model is unknown, or its step cannot be traced.
    """
    from core.catalog import configuration, known, pasted
    from core.memory.estimate import Sizes, find

    row = None if pasted(source) else known(source)
    made = find(row.name, setup) if row is not None and not whole else None
    if made is not None:
        sizes = Sizes.of(setup)
        ledger = made.ledger(sizes) if sharding.alone else made.shared(sizes, sharding, _table(source, setup))
        return ledger, None, made, dict(made.versions), None
    import warnings

    from core.memory.allocator import replay
    from core.memory.fit import versions
    from core.memory.trace import trace
    from core.memory.tracer import broke_off

    warnings.simplefilter("ignore", FutureWarning)
    config = configuration(source)
    try:
        found = trace(config, setup)
    except DeltalabError:
        raise
    except Exception as why:  # (each architecture has its own ways to need a number that is not there)
        raise broke_off(why) from why
    if not sharding.alone:
        return found.shared(sharding, _table(source, setup), setup.batch, setup.length), None, None, versions(), None
    reserved = replay(found).most_reserved if setup.device.is_cuda else None
    return found.ledger(), reserved, None, versions(), found


def explained(rule: Rule) -> dict[str, Any]:
    """The textbook's formula of a term, as JSON."""
    return {
        "term": rule.term, "formula": rule.formula, "bytes": rule.bytes, "difference_bytes": rule.difference,
        "why": rule.why,
    }  # fmt: skip


def _below(label: str, text: str) -> None:
    """What explains a term, under it, in lines that a terminal can show."""
    import shutil
    import textwrap

    width = max(60, min(120, shutil.get_terminal_size((100, 24)).columns))
    print(textwrap.fill(text, width, initial_indent=f"      {label:<8} ", subsequent_indent=" " * 15))


def _print(ledger: Ledger, told: list[Rule], found: Any, setup: Setup) -> None:
    from core.units import bytes_text

    where = "a CPU" if not setup.device.is_cuda else f"a card of compute capability {setup.device}"
    print(f"One step of {setup.method}, batch {setup.batch:,}, {setup.length:,} tokens, on {where}:")
    for term, rule in zip(ledger.terms, told, strict=True):
        print(f"  {term.name:<24} {bytes_text(term.bytes):>10}")
        _below("traced", term.formula)
        if rule.bytes is not None:  # (a trace knows its tensors; the formula says where they come from)
            off = f"; {rule.why[:1].lower()}{rule.why[1:]}" if rule.why else ""
            _below("formula", f"{rule.formula} = {bytes_text(rule.bytes)}{off}")
    print(f"  {'allocated':<24} {bytes_text(found.allocated):>10}  at its most: {ledger.peak_at}")
    for name, (low, likely, high) in (("reserved", found.reserved), ("process", found.process)):
        band = f"estimated, {bytes_text(low)} to {bytes_text(high)}" if low != high else "simulated"
        print(f"  {name:<24} {bytes_text(likely):>10}  {band}")
    if found.reserved[0] < found.allocated:
        print("(Both ranges include how far published figures lie from predicted ones: they can begin below it.)")
