"""What a kernel says, as plain data that can be kept and drawn: no HTML, nothing that a page would execute.

An output is a dict with a `kind`:

    {"kind": "text", "name": "stdout" | "stderr", "text"}          what was printed
    {"kind": "value", "text"}                                      the value of the last line
    {"kind": "table", "columns", "rows", "total"}                  a data frame; `rows` are its first ones, of `total`
    {"kind": "figure", "figure": {"data", "layout"}}               a plotly figure
    {"kind": "image", "png"}                                       a picture, in base64
    {"kind": "error", "name", "message", "line", "frames", "where"}   see `core.notebook.inside.error_of`
    {"kind": "verdict", "right", "text"}                           what a check says of an exercise
    {"kind": "note", "text"}                                       what was left out, and why
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

TABLE = "application/vnd.deltalab.table+json"
ERROR = "application/vnd.deltalab.error+json"
VERDICT = "application/vnd.deltalab.verdict+json"
FIGURE = "application/vnd.plotly.v1+json"

MOST_CHARACTERS = 60_000
"""Of text in one run; what a loop prints beyond is left out."""
MOST_OUTPUTS = 40
MOST_BYTES = 3_000_000
"""Of one figure or picture."""
ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


class Outputs:
    """Collects the outputs of one run, within limits. Filled by one thread; `snapshot` may be called by any."""

    def __init__(self) -> None:
        self._made: list[dict[str, Any]] = []
        self._characters = 0
        self._full = False

    def snapshot(self) -> list[dict[str, Any]]:
        """Everything so far."""
        return [dict(one) for one in list(self._made)]

    def add(self, output: Mapping[str, Any]) -> None:
        """Append an output; printed text joins what was printed before it to the same place."""
        output = dict(output)
        if output["kind"] in ("text", "value"):
            room = MOST_CHARACTERS - self._characters
            self._characters += len(output["text"])
            if room <= 0:
                self._overflow("It printed more than fits here; the rest is left out.")
                return
            output["text"] = output["text"][:room]
            last = self._made[-1] if self._made else None
            if last and last["kind"] == output["kind"] == "text" and last["name"] == output["name"]:
                # A new dict, so that a reader never sees a half-changed one.
                self._made[-1] = {**last, "text": last["text"] + output["text"]}
                return
        elif output["kind"] in ("figure", "image") and _size(output) > MOST_BYTES:
            output = {"kind": "note", "text": "A figure or picture is too large to be shown here."}
        if len(self._made) >= MOST_OUTPUTS and output["kind"] not in ("error", "verdict"):
            self._overflow("There are more outputs than fit here; the rest is left out.")
            return
        self._made.append(output)

    def clear(self) -> None:
        """Forget what was there (IPython's clear_output)."""
        self._made = []

    def _overflow(self, text: str) -> None:
        if not self._full:
            self._full = True
            self._made.append({"kind": "note", "text": text})

    def message(self, kind: str, content: Mapping[str, Any]) -> None:
        """Take a message of the kernel's IOPub channel (jupyter-client.readthedocs.io, "Messaging in Jupyter")."""
        if kind == "stream":
            text = content["text"][: 2 * MOST_CHARACTERS]
            self.add({"kind": "text", "name": content["name"], "text": ANSI.sub("", text)})
        elif kind in ("display_data", "execute_result"):
            shown = of_bundle(content["data"])
            if shown is not None:
                self.add(shown)
        elif kind == "error":
            # The kernel's own report of a mistake came before, with its lines; this one says the same in colours.
            if not any(one["kind"] == "error" for one in self._made):
                name, message = str(content["ename"]), ANSI.sub("", str(content["evalue"]))
                self.add({"kind": "error", "name": name, "message": message, "line": 0, "frames": [], "where": ""})
        elif kind == "clear_output":
            self.clear()


def of_bundle(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """The best of a MIME bundle that is shown here; None when there is nothing for it."""
    if TABLE in data:
        return {"kind": "table", **{key: data[TABLE][key] for key in ("columns", "rows", "total")}}
    if FIGURE in data:
        figure = data[FIGURE]
        return {"kind": "figure", "figure": {"data": figure.get("data", []), "layout": figure.get("layout", {})}}
    if ERROR in data:
        return {"kind": "error", **data[ERROR]}
    if VERDICT in data:
        return {"kind": "verdict", "right": bool(data[VERDICT]["right"]), "text": str(data[VERDICT]["text"])}
    if "image/png" in data:
        return {"kind": "image", "png": "".join(str(data["image/png"]).split())}
    text = data.get("text/markdown") or data.get("text/plain")
    return None if text is None else {"kind": "value", "text": ANSI.sub("", str(text)[: 2 * MOST_CHARACTERS])}


def settled(text: str) -> str:
    """Printed text as a terminal leaves it: a carriage return begins its line again (progress bars)."""
    return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n"))


def shortened(outputs: Sequence[Mapping[str, Any]], most_bytes: int) -> list[dict[str, Any]]:
    """The outputs that fit into `most_bytes` of JSON, for keeping: long texts cut, what is too large told by a note."""
    kept: list[dict[str, Any]] = []
    left = most_bytes
    for output in outputs:
        one = dict(output)
        if one["kind"] in ("text", "value"):
            one["text"] = settled(one["text"])
            if _size(one) > left:
                cut = int(len(one["text"]) * max(0, left - 200) / _size(one))
                one["text"] = one["text"][:cut] + "\n… (the rest was not kept)"
        elif one["kind"] == "table" and _size(one) > left:
            one["rows"] = one["rows"][:10]
        if _size(one) > left:
            one = {"kind": "note", "text": "A figure or table was too large to be kept. Run again to see it."}
            if _size(one) > left:
                break
        left -= _size(one)
        kept.append(one)
    return kept


def _size(output: Mapping[str, Any]) -> int:
    return len(json.dumps(output))


def printed(outputs: Sequence[Mapping[str, Any]]) -> str:
    """All text in the outputs: what was printed, values, cells of tables, verdicts. For checks of what a cell says."""
    parts: list[str] = []
    for one in outputs:
        if one["kind"] == "table":
            parts += ["\t".join(map(str, one["columns"])), *("\t".join(map(str, row)) for row in one["rows"])]
        elif one["kind"] == "error":
            parts.append(f"{one['name']}: {one['message']}")
        elif "text" in one:
            parts.append(one["text"])
    return "\n".join(parts)
