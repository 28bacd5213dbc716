"""Small drawings as SVG. Lines and letters in `currentColor` get the theme's text colour."""

from __future__ import annotations

import html
import re

import streamlit as st

from app.words import number

TEXT = re.compile(r">([^<>]+)<")


def draw(svg: str, alt: str, *, most_wide: int) -> None:
    """Show an SVG document, at most `most_wide` pixels wide. Streamlit shows it as an image, so it is coloured here."""
    st.image(coloured(spoken(svg), text_colour()), alt=alt, width=most_wide)


def spoken(svg: str) -> str:
    """`svg` with its numbers as the visitor's language writes them."""
    return TEXT.sub(lambda m: f">{number(m[1])}<", svg)


def text_colour() -> str:
    """The text colour of the theme that the visitor sees now."""
    dark = st.context.theme.type == "dark"
    return str(st.get_option(f"theme.{'dark' if dark else 'light'}.textColor") or ("#ffffff" if dark else "#000000"))


def coloured(svg: str, colour: str) -> str:
    """`svg` with what `currentColor` means in it, and the font of the page."""
    svg = re.sub(r"<\?xml.*?\?>\s*", "", svg, flags=re.DOTALL)
    font = "'Source Sans', 'Source Sans 3', sans-serif"
    return svg.replace("<svg ", f'<svg color="{html.escape(colour, quote=True)}" font-family="{font}" ', 1)


def document(inner: str, width: float, height: float) -> str:
    """An SVG document of the given size in its own units."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" font-size="14" fill="currentColor">{inner}</svg>'
    )
