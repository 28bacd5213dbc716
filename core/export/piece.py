"""A piece of an exported script or notebook."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A heading, what it does and why (prose), and its code."""

    title: str
    text: str
    code: str
