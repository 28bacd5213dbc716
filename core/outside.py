"""Texts that come from outside, read within bounds: JSON and YAML that somebody pastes, or a link carries.

    record = parse(text)          # an object, from JSON or YAML
    record = parse_json(text, …)  # an object, from JSON alone
    quoted(value)                 # a value as a sentence may show it

A text of 300 characters can stand for gigabytes: YAML's aliases repeat what they point at, so a list of lists of them
grows by a factor with every level; there are none here. What is left can be no larger than the text, and not deeper
than MOST_DEPTH. `check_sizes` sees that nobody is asked to build what a configuration could not mean.

Imports nothing heavy.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

from core.errors import BadInput

MOST_CHARACTERS = 200_000  # of JSON; a config.json with a thousand labels has 60,000
MOST_YAML = 40_000  # of YAML, whose reader takes ten times as long
MOST_DEPTH = 24  # objects and lists inside each other; configurations of multimodal models have 4
MOST_LISTED = 40  # characters of a name that was not used
MOST_QUOTED = 60  # characters of a value in a sentence

_short = reprlib.Repr()
_short.maxlevel, _short.maxdict, _short.maxlist = 2, 3, 4
_short.maxstring = _short.maxlong = _short.maxother = MOST_QUOTED


def quoted(value: Any) -> str:
    """A value in at most MOST_QUOTED characters, however large it is."""
    try:
        text = _short.repr(value)
    except ValueError:  # a number of more digits than Python writes
        text = "a very large number"
    return text if len(text) <= MOST_QUOTED else f"{text[: MOST_QUOTED - 1]}…"


def listed(name: str, value: Any) -> str:
    """A field that was not taken over, for a list of them."""
    plain = isinstance(value, (bool, int, float, str)) and value != ""
    return name[:MOST_LISTED] + (f" = {quoted(value)}" if plain else "")


def parse(text: str) -> dict[str, Any]:
    """An object from JSON or YAML.

    Raises:
        BadInput: it is neither, no object, longer or deeper than any settings, or uses YAML's aliases.
    """
    if not text.strip():
        raise BadInput("The text is empty.", "Paste the content of the file.")
    _check_length(text, MOST_CHARACTERS)
    if "\x00" in text or text.startswith("PK"):
        raise BadInput(
            "This is a binary file, such as training_args.bin, which is a pickle and could run code; it is not opened.",
            "Paste the arguments as JSON or YAML.",
        )
    text = text.removeprefix("\ufeff")
    try:
        record = _json(text)
    except ValueError as why:
        if text.lstrip().startswith("{"):
            raise BadInput(
                f"This is not whole JSON: {why}.", "Paste the file from its first to its last line."
            ) from why
        record = _yaml(text)
    if not isinstance(record, dict):
        raise BadInput("This text holds no named settings.", 'It should read like {"r": 16, "lora_alpha": 32}.')
    return {str(k): v for k, v in record.items()}


def parse_json(text: str, name: str) -> dict[str, Any]:
    """The object in the content of a config.json.

    Args:
        name: what the text is called in a sentence.

    Raises:
        BadInput: it is cut off, no JSON, no object, or longer or deeper than any configuration.
    """
    if len(text) > MOST_CHARACTERS:
        raise BadInput(f"{name} is longer than any config.json.", "Paste the content of config.json alone.")
    text = text.removeprefix("\ufeff")
    try:
        values = _json(text)
    except json.JSONDecodeError as why:
        cut = not text.rstrip().endswith("}")
        raise BadInput(
            f"{name} ends in the middle: it is cut off."
            if cut
            else f"{name} is not JSON: line {why.lineno}, column {why.colno}: {why.msg.lower()}.",
            "Paste the whole content of config.json, from the first brace to the last.",
        ) from why
    except ValueError as why:  # a number of thousands of digits
        raise BadInput(f"{name} is not JSON: {why}.", "Paste the content of config.json alone.") from why
    if not isinstance(values, dict) or not values:
        raise BadInput(f"{name} says nothing: it is no JSON object with fields.", "Paste the content of config.json.")
    return values


def _json(text: str) -> Any:
    """What JSON says, if it is not too deep to be read.

    Raises:
        BadInput: it is. ValueError: it is no JSON.
    """
    _check_depth(text)
    return json.loads(text)


def _check_length(text: str, most: int) -> None:
    if len(text) > most:
        raise BadInput(f"The text has more than {most:,} characters.", "Paste the settings alone.")


def _check_depth(text: str) -> None:
    """Count the brackets that are open at once, outside quoted strings: before any reader calls itself that often."""
    open_, string, escaped = 0, False, False
    for letter in text:
        if string:
            escaped, string = letter == "\\" and not escaped, letter != '"' or escaped
        elif letter == '"':
            string, escaped = True, False
        elif letter in "[{":
            open_ += 1
            if open_ > MOST_DEPTH:
                raise _too_deep()
        elif letter in "]}":
            open_ -= 1


def _too_deep() -> BadInput:
    return BadInput(
        f"The text has more than {MOST_DEPTH} lists or objects inside each other.", "Paste the content of the file."
    )


def _yaml(text: str) -> Any:
    import yaml

    _check_length(text, MOST_YAML)

    class Loader(yaml.SafeLoader):
        """SafeLoader without aliases, and no deeper than MOST_DEPTH."""

        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                event = self.peek_event()
                raise yaml.composer.ComposerError(None, None, "aliases (*name) are not read", event.start_mark)
            self.depth += 1
            if self.depth > MOST_DEPTH:
                raise _too_deep()
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

    try:
        return yaml.load(text, Loader=Loader)
    except (yaml.YAMLError, ValueError) as error:  # (ValueError: a date or a number that cannot be)
        said = getattr(error, "problem", None) or next(iter(str(error).strip().splitlines()), "")
        raise BadInput(f"This is neither JSON nor YAML: {said[:200]}.", "Paste the content of the file.") from error


# --- the sizes that a configuration may have --------------------------------------------------------------------------

# Above these a configuration is a mistake, or a trap: each block is built, if without weights. (The largest known have
# 126 layers, 512 experts, a width of 53,248 in their feed-forward blocks and 262,208 words.)
MOST_LAYERS, MOST_EXPERTS, MOST_WIDTH, MOST_WORDS, MOST_ANYTHING = 400, 1024, 200_000, 4_000_000, 1 << 40


def _most(name: str) -> int | None:
    """The bound of a whole number, by its name in config.json; None for what sizes nothing by itself."""
    if name.endswith(("vocab_size", "_token_id", "_token_index")) or name == "n_vocab":
        return MOST_WORDS
    if "experts" in name and name.startswith(("num_", "n_", "moe_num", "experts_per")):
        return MOST_EXPERTS
    if name.endswith(("_layers", "_layer")) or name in ("depth", "num_blocks"):
        return MOST_LAYERS
    sizes = name.endswith(("_size", "_dim", "_rank", "_heads", "_width")) and not any(
        part in name for part in ("window", "chunk", "block", "batch")
    )
    named = ("n_embd", "n_embed", "n_inner", "n_head", "d_model", "d_ff", "d_kv", "dim", "num_labels")
    return MOST_WIDTH if sizes or name in named else None


def check_sizes(values: Mapping[str, Any], name: str) -> None:
    """See that a configuration's sizes can be, before anything is built of it.

    Args:
        values: the content of a config.json. name: what it is called in a sentence.

    Raises:
        BadInput: a size is no whole number, or far above any model's, with its field.
    """
    for path, value in named(values):
        field = path.rpartition(".")[2]
        most = _most(field)
        if most is None:
            if isinstance(value, int) and abs(value) > MOST_ANYTHING:
                raise BadInput(f"{path} of {name} is {quoted(value)}: nothing in a model is as large.", MEND)
            continue
        flag = isinstance(value, bool) and not field.startswith(("num_", "n_")) and not field.endswith("_size")
        whole = isinstance(value, int) and not isinstance(value, bool) and -1 <= value <= most
        if not (flag or whole or value == "auto"):  # (Mamba's rank, which follows from the width)
            raise BadInput(f"{path} of {name} is {quoted(value)}; it should be a whole number up to {most:,}.", MEND)


MEND = "Correct it in config.json, or take the file anew from where the model is published."


def named(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every number, switch and text in an object and in the objects in it, with its path."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from named(value, f"{path}{name}.")
        elif isinstance(value, (int, float, str)):
            yield f"{path}{name}", value
