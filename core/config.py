"""What a run is: base, data, method and training settings, with a doc line, a unit and a range for every knob.

The dataclasses below are the one description of a run's settings. The forms of the app, the flags of the command line,
the run's record and the validation are all read from them: adding a field here adds the knob everywhere.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from core.errors import BadInput

EMBEDDED = "embedded"


def knob(
    default: Any,
    doc: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    warn_low: float | None = None,
    warn_high: float | None = None,
    why: str = "",
    folded: bool = True,
    log: bool = False,
    form: bool = True,
) -> Any:
    """A dataclass field with what a form, a flag and a check need to know about it.

    Args:
        default: the value when nothing is said; None means "resolved from core/defaults.toml by method and task".
        doc: one line that says what the knob does: the help text wherever it appears.
        unit: shown behind the number.
        low, high: the allowed range, both ends included; outside it the value is refused.
        choices: the allowed words, for a text field.
        warn_low, warn_high: inside the allowed range, but a person is told that it is unusual.
        why: the reason for the default.
        folded: hidden under "More settings" in a form.
        log: the form's slider moves in powers (learning rates).
        form: whether a form offers it at all; False for what only makes sense in a terminal.
    """
    meta = {
        "doc": doc, "unit": unit, "low": low, "high": high, "choices": choices, "warn_low": warn_low,
        "warn_high": warn_high, "why": why, "folded": folded, "log": log, "form": form,
    }  # fmt: skip
    return field(default=default, metadata=meta)


@dataclass(frozen=True)
class TrainConfig:
    """Settings of the training loop, the same for every method."""

    learning_rate: float | None = knob(
        None, "How far each step moves the trained parameters.", low=0.0, high=1.0, warn_high=0.1, folded=False,
        log=True,
        why="On the embedded base the best of a sweep per method and task; on others what is published. Adapters want "
        "rates 5 to 30 times those of full fine-tuning.",
    )  # fmt: skip
    steps: int | None = knob(
        None, "Number of optimizer steps.", unit="steps", low=1, high=100_000, warn_high=2_000, folded=False,
        why="Enough for the task on the embedded base, found by the sweep; elsewhere a first try of minutes.",
    )  # fmt: skip
    batch_size: int = knob(
        32, "Examples in one forward and backward pass.", unit="examples", low=1, high=1024, warn_high=256,
        why="Keeps two CPU cores busy without making a step slow.",
    )  # fmt: skip
    accumulation: int = knob(
        1, "Passes whose gradients are added up before one optimizer step.", unit="passes", low=1, high=256,
        why="1: the batch fits; raise it to imitate a larger batch in the same memory.",
    )  # fmt: skip
    train_examples: int = knob(
        2000, "Examples generated for a built-in task (your own data is always used whole).", unit="examples",
        low=8, high=100_000, why="More than a default run ever sees twice, so that nothing can be learnt by heart.",
    )  # fmt: skip
    eval_items: int = knob(
        100, "Held-out items scored before, during and after training.", unit="items", low=4, high=2_000,
        why="100 items resolve differences of a few per cent and take about a second.",
    )  # fmt: skip
    skill_items: int = knob(
        40, "Items per old skill scored to see forgetting; 0 switches it off.", unit="items", low=0, high=1_000,
        why="Enough to see a skill fall; the embedded base has five skills.",
    )  # fmt: skip
    eval_every: int = knob(
        0, "Score the held-out items every so many steps; 0: four times in a run.", unit="steps", low=0, high=100_000,
        why="Four points draw the curve; each costs a second or two.",
    )  # fmt: skip
    checkpoint_every: int = knob(
        0, "Write a resumable checkpoint every so many steps; 0: about every ten seconds.", unit="steps", low=0,
        high=100_000, why="Ten seconds is the most that a killed run loses.",
    )  # fmt: skip
    warmup: float = knob(
        0.06, "Share of the steps over which the learning rate rises from 0.", low=0.0, high=1.0,
        why="Adam's first estimates are noisy; a short rise keeps them from doing harm.",
    )  # fmt: skip
    schedule: str = knob(
        "linear", "How the learning rate falls after the warm-up.", choices=("linear", "cosine", "constant"),
        why="Linear to zero ends on the best weights in short runs.",
    )  # fmt: skip
    optimizer: str = knob(
        "adamw", "Optimizer: AdamW with 32-bit states, with 8-bit states, or 8-bit states paged to CPU memory.",
        choices=("adamw", "adamw_8bit", "paged_adamw_8bit"), why="8-bit states pay when many parameters train.",
    )  # fmt: skip
    weight_decay: float = knob(
        0.0, "Pull of the trained weights towards zero, per unit of learning rate.", low=0.0, high=1.0,
        why="Short runs of few parameters do not overfit by large weights.",
    )  # fmt: skip
    clip: float = knob(
        1.0, "Largest gradient norm; longer gradients are scaled down; 0 switches it off.", low=0.0, high=1000.0,
        why="One odd batch must not undo a run.",
    )  # fmt: skip
    precision: str = knob(
        "auto", "Number format of the forward and backward pass; auto takes what this device does fastest and well.",
        choices=("auto", "float32", "bfloat16"), why="Measured once at start, per device.",
    )  # fmt: skip
    gradient_checkpointing: bool = knob(
        False, "Recompute activations in the backward pass instead of keeping them: less memory, more time.",
        why="Small models fit without it.",
    )  # fmt: skip
    length_buckets: bool = knob(
        True, "Put examples of similar length into the same batch, so that less padding is computed.",
        why="The same examples, fewer wasted tokens.",
    )  # fmt: skip
    fast_step: bool = knob(
        True, "Take the faster forms of a step where there are some (a written-out decoder on a CPU, a captured step "
        "and fused kernels on a GPU); off: a step goes through transformers' own model, operation by operation.",
        why="They compute the same up to the rounding of sums; off is for comparing.",
    )  # fmt: skip
    compile: bool = knob(
        False, "Have PyTorch's compiler rewrite the model's layers: the first steps wait for it, the others are "
        "faster. Takes the place of the faster forms of fast_step.",
        why="Compiling takes longer than a default run; python -m tests.bench_forms measures from how many steps on "
        "it pays.",
    )  # fmt: skip
    max_length: int = knob(
        256, "Longest example in tokens; longer ones are left out and counted in the report.", unit="tokens", low=8,
        high=32_768, why="The embedded base was trained up to this length.",
    )  # fmt: skip
    replay: float = knob(
        0.0, "Share of the training examples taken from the base's old skills, against forgetting.", low=0.0, high=0.9,
        warn_high=0.5, why="0 shows what a method does by itself.",
    )  # fmt: skip
    held_out: float = knob(
        0.1, "Share of your own data kept back for scoring.", low=0.0, high=0.5,
        why="What was trained on cannot say how well it was learnt.",
    )  # fmt: skip
    parallel: str = knob(
        "ddp",
        "In several processes: ddp keeps the whole model in each; fsdp cuts weights, gradients and optimizer states "
        "into parts and fetches a layer's weights when it computes.",
        choices=("ddp", "fsdp"), form=False, why="ddp sends less; fsdp is for what does not fit one device.",
    )  # fmt: skip


@dataclass(frozen=True)
class RunConfig:
    """A whole run. Exactly one of `task` (a built-in task of the small world) and `data` (a file) is set.

    `settings` is an instance of the method's own Config.
    """

    base: str = EMBEDDED
    revision: str | None = None
    task: str | None = "json"
    data: str | None = None
    method: str = "lora"
    settings: Any = None
    train: TrainConfig = field(default_factory=TrainConfig)
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` reads it back to an equal config."""
        out = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        out["settings"] = dataclasses.asdict(self.settings) if self.settings is not None else {}
        out["train"] = dataclasses.asdict(self.train)
        return out

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> RunConfig:
        """Build a config from JSON.

        Raises:
            BadInput: an unknown method, an unknown field or a value of the wrong type; all of them in one sentence.
        """
        from core.methods import METHODS

        method = record.get("method", "lora")
        if method not in METHODS:
            raise BadInput(f"There is no method {method!r}.", f"The methods are {', '.join(METHODS)}.")
        wrong: list[str] = []
        top = {f.name for f in dataclasses.fields(cls)}
        wrong += [f"unknown setting {k!r}" for k in record if k not in top]
        settings = _build(METHODS[method].Config, record.get("settings") or {}, wrong)
        train = _build(TrainConfig, record.get("train") or {}, wrong)
        rest = {k: v for k, v in record.items() if k in top - {"settings", "train"}}
        if "seed" in rest and (isinstance(rest["seed"], bool) or not isinstance(rest["seed"], int)):
            wrong.append("the seed must be a whole number")
        for name in ("base", "method"):
            if name in rest and not isinstance(rest[name], str):
                wrong.append(f"{name} must be a text")
        for name in ("revision", "task", "data"):
            if rest.get(name) is not None and not isinstance(rest[name], str):
                wrong.append(f"{name} must be a text")
        if wrong:
            raise BadInput(_sentence(wrong))
        return cls(**rest, settings=settings, train=train)


def _sentence(parts: list[str]) -> str:
    return f"These settings cannot be used: {'; '.join(part.rstrip('.') for part in parts)}."


@cache
def _allowed_types(cls: type, name: str) -> tuple[type, ...]:
    """The plain types a field accepts, with None spelled NoneType: `float | None` -> (float, NoneType)."""
    hint = typing.get_type_hints(cls)[name]
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return tuple(typing.get_origin(a) or a for a in typing.get_args(hint))
    return (typing.get_origin(hint) or hint,)


def _coerce(cls: type, name: str, value: Any) -> Any:
    """`value` as the field's type. Text (from a flag or a link) is parsed; numbers keep their meaning.

    Raises:
        ValueError: the value cannot be read as that type.
    """
    allowed = _allowed_types(cls, name)
    if value is None or (isinstance(value, str) and value.lower() in ("none", "null", "") and type(None) in allowed):
        if type(None) in allowed:
            return None
        raise ValueError("needs a value")
    if bool in allowed:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in ("true", "yes", "1", "on", "false", "no", "0", "off"):
            return value.lower() in ("true", "yes", "1", "on")
        raise ValueError("must be true or false")
    if int in allowed:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, str):
            try:
                return int(value)
            except ValueError:
                pass
        raise ValueError("must be a whole number")
    if float in allowed and not isinstance(value, bool):
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ValueError("must be a number") from None
        if not math.isfinite(number):
            raise ValueError("must be a finite number")
        return number
    if tuple in allowed:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        if isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
            return tuple(value)
        raise ValueError("must be a list of names, separated by commas")
    if str in allowed and isinstance(value, str):
        return value
    raise ValueError("has the wrong type")


def _build(cls: type, record: Mapping[str, Any], wrong: list[str]) -> Any:
    """An instance of the dataclass `cls` from plain values; what is wrong is appended to `wrong`."""
    if not isinstance(record, Mapping):
        wrong.append(f"{cls.__name__} must be an object with named settings")
        return cls()
    names = {f.name for f in dataclasses.fields(cls)}
    values = {}
    for key, value in record.items():
        if key not in names:
            wrong.append(f"unknown setting {key!r} (known: {', '.join(sorted(names))})")
            continue
        try:
            values[key] = _coerce(cls, key, value)
        except ValueError as why:
            wrong.append(f"{key} {why}, not {value!r}")
    return cls(**values)


def _range_problems(part: Any) -> list[str]:
    out = []
    for f in dataclasses.fields(part):
        value, meta = getattr(part, f.name), f.metadata
        if value is None or not meta:
            continue
        unit = f" {meta['unit']}" if meta.get("unit") else ""
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if meta["low"] is not None and value < meta["low"]:
                out.append(f"{f.name} must be at least {meta['low']:g}{unit}, not {value:g}.")
            if meta["high"] is not None and value > meta["high"]:
                out.append(f"{f.name} must be at most {meta['high']:g}{unit}, not {value:g}.")
        if meta["choices"] and isinstance(value, str) and value not in meta["choices"]:
            out.append(f"{f.name} must be one of {', '.join(meta['choices'])}, not {value!r}.")
    return out


def settings_of(cls: type, record: Mapping[str, Any]) -> Any:
    """An instance of a dataclass of knobs from JSON, a link or flags, each value in its range.

    Raises:
        BadInput: an unknown field, a value of the wrong type or out of its range; all of them in one sentence.
    """
    wrong: list[str] = []
    made = _build(cls, record, wrong)
    wrong = wrong or _range_problems(made)
    if wrong:
        raise BadInput(_sentence(wrong))
    return made


def problems(config: RunConfig) -> list[str]:
    """Everything that is wrong with a config, as sentences, all at once; empty when it can be run."""
    from core.few_bits import problems as few_bits_problems
    from core.methods import METHODS
    from core.world import TASKS

    out: list[str] = []
    if config.method not in METHODS:
        return [f"There is no method {config.method!r}; the methods are {', '.join(METHODS)}."]
    if (config.task is None) == (config.data is None):
        out.append("Name either a built-in task or a data file, not both and not neither.")
    if config.task is not None and config.task not in TASKS:
        out.append(f"There is no task {config.task!r}; the tasks are {', '.join(TASKS)}.")
    if not config.base.strip():
        out.append("Name a base: embedded, a folder, or a hub id such as owner/name.")
    if not isinstance(config.seed, int) or not 0 <= config.seed < 2**31:
        out.append("The seed must be a whole number from 0 to 2147483647.")
    if config.train.replay > 0 and config.base != EMBEDDED:
        out.append("Replay draws on the old skills of the embedded base; set it to 0 for another base.")
    if config.train.learning_rate == 0:
        out.append("A learning rate of 0 trains nothing; give a positive one.")
    out += _range_problems(config.train)
    if config.train.parallel == "fsdp":
        out += _sharding_problems(config)
    if config.train.gradient_checkpointing and not METHODS[config.method].CHECKPOINTS:
        out.append(
            f"{METHODS[config.method].TITLE} does not work with gradient_checkpointing, which throws away the cache "
            "that its keys and values stand in; switch it off."
        )
    if config.settings is not None:
        out += _range_problems(config.settings)
        extra = getattr(METHODS[config.method], "problems", None)
        if extra is not None:
            out += extra(config.settings)
    return out + few_bits_problems(config)


def _sharding_problems(config: RunConfig) -> list[str]:
    """What cannot be cut into parts."""
    from core.few_bits import in_few_bits
    from core.methods import METHODS

    out = []
    if METHODS[config.method].BASE == "quantized":
        # https://github.com/bitsandbytes-foundation/bitsandbytes/issues/1945, .../huggingface/accelerate/issues/3983
        out.append(
            f"{METHODS[config.method].TITLE} does not work with parallel=fsdp, which takes 4-bit weights apart without "
            "the block scales that they are read with; set parallel to ddp, or the method to lora."
        )
    elif in_few_bits({"method": config.method, "base": config.base, "revision": config.revision}):
        out.append(
            "parallel=fsdp takes the weights of this base apart without the scales that they are read with: they are "
            "stored in few bits. Set parallel to ddp."
        )
    if config.train.optimizer != "adamw":
        out.append(
            f"The optimizer {config.train.optimizer} keeps its states for whole tensors, which parallel=fsdp cuts into "
            "parts; set optimizer to adamw, whose states are divided among the processes."
        )
    return out


def warnings(config: RunConfig) -> list[str]:
    """What is allowed but unusual, as sentences; a form shows them beside the knob."""
    out = []
    for part in (config.settings, config.train):
        for f in dataclasses.fields(part) if part is not None else ():
            value, meta = getattr(part, f.name), f.metadata
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not meta:
                continue
            if meta["warn_high"] is not None and value > meta["warn_high"]:
                out.append(f"{f.name} above {meta['warn_high']:g} is unusual.")
            if meta["warn_low"] is not None and value < meta["warn_low"]:
                out.append(f"{f.name} below {meta['warn_low']:g} is unusual.")
    return out


@lru_cache
def default_table() -> dict[str, Any]:
    """core/defaults.toml: `[method.task]` with learning_rate and steps as the sweep found them on the embedded base
    (`any` for other data, and for tasks that the sweep has not tried with the method), where it also has `rates`, the
    learning rates for fewer steps; `[method.other]` for other bases, as published, and `[method.encoder]` for encoders
    where their published rate is another."""
    return tomllib.loads((Path(__file__).parent / "defaults.toml").read_text(encoding="utf-8"))


def swept_on(method: str) -> tuple[str, ...]:
    """The tasks on which the embedded base's sweep has tried the method, in the order of TASKS."""
    from core.world import TASKS

    rows = default_table().get(method, {})
    return tuple(task for task in TASKS if task in rows)


def default_row(config: RunConfig) -> Mapping[str, Any]:
    """The row of `default_table` that answers what `config` leaves open."""
    rows = default_table().get(config.method, {})
    found: Mapping[str, Any]
    if config.base != EMBEDDED:
        from core.base import CLASSIFICATION, kind_of_base

        encoder = "encoder" in rows and kind_of_base(config.base, config.revision) == CLASSIFICATION
        found = rows["encoder"] if encoder else rows.get("other", {})
    else:
        found = rows.get(config.task or "any") or rows.get("any", {})
    return found


def resolved(config: RunConfig) -> RunConfig:
    """The config with every None that the sweep table answers filled in, and the method's own defaults in place.

    Raises:
        BadInput: the config has problems; all of them are listed.
    """
    from core.methods import METHODS

    if config.settings is None and config.method in METHODS:
        config = dataclasses.replace(config, settings=METHODS[config.method].Config())
    wrong = problems(config)
    if wrong:
        raise BadInput(" ".join(wrong))
    row = default_row(config)
    filled = {
        f.name: row[f.name]
        for f in dataclasses.fields(config.train)
        if getattr(config.train, f.name) is None and f.name in row
    }
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **filled))


def with_settings(config: RunConfig, pairs: Mapping[str, Any]) -> RunConfig:
    """`config` with named knobs set: each name is looked up in the method's Config, then in TrainConfig.

    This is what `--set rank=4` and a link's query parameters mean; values may be text.

    Raises:
        BadInput: an unknown name or a value of the wrong type; all of them in one sentence.
    """
    from core.methods import METHODS

    record = config.to_dict()
    if config.settings is None:
        record["settings"] = {}
    own = {f.name for f in dataclasses.fields(METHODS[config.method].Config)}
    loop = {f.name for f in dataclasses.fields(TrainConfig)}
    unknown = []
    for key, value in pairs.items():
        if key in own:
            record["settings"][key] = value
        elif key in loop:
            record["train"][key] = value
        else:
            unknown.append(key)
    if unknown:
        known = ", ".join(sorted(own | loop))
        raise BadInput(
            f"There is no setting called {', '.join(map(repr, unknown))} here.", f"The settings are {known}."
        )
    return RunConfig.from_dict(record)
