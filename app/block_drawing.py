"""One transformer block as a drawing that lights up what a method trains: an SVG and its alt text.

Frozen parts are outlines. What trains has the method's colour: a matrix whose own weights train is filled, a bias is
a bar along its foot, a pair two bars beside it, a rescaling vector a ring behind it, a network or trained vectors a box
of
their own. Beside each stands how many numbers that is in one block.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from app.charts import method_style
from app.words import from_core, t
from core.anatomy import NAMES, OUTSIDE, Lit
from core.units import count_text

WIDE, LEFT, RIGHT = 460, 24, 436
STREAM = 'stroke="currentColor" stroke-opacity="0.45" stroke-width="1.5"'
ROW = 34


@dataclass(frozen=True)
class Box:
    """A part of the drawing. x, y, w, h: in the drawing's units."""

    place: str
    label: str
    x: float
    y: float
    w: float
    h: float = ROW


def layout(places: Sequence[str]) -> tuple[list[Box], dict[str, float]]:
    """The boxes of a model that has these places (core.anatomy.drawn), and the heights of what stands between them."""
    middle, whole = 80.0, 300.0
    third, half = (whole - 2 * 12) / 3, (whole - 12) / 2
    norm, adapter, up = (t(f"charts.block.{name}") for name in ("norm", "adapter", "up"))
    boxes = [
        Box("maker", t("charts.block.maker"), LEFT, 12, 236), Box("prompt", t("charts.block.prompt"), LEFT, 62, 116)
    ]  # fmt: skip
    boxes.append(Box("embedding", t("charts.block.embedding"), middle + 72, 62, RIGHT - middle - 72))
    at = {"block": 114.0}
    boxes.append(Box("norm_1", norm, middle, 128, whole, 22))
    if "qkv" in places:
        boxes.append(Box("qkv", t("charts.block.qkv"), middle, 166, whole))
    else:
        boxes += [
            Box(p, t(f"charts.block.{p}"), middle + i * (third + 12), 166, third) for i, p in enumerate(("q", "k", "v"))
        ]
    boxes.append(Box("prefix", t("charts.block.prefix"), middle + third + 12, 216, 2 * third + 12, 26))
    at["attention"] = 264.0
    boxes.append(Box("o", t("charts.block.output"), middle, 284, whole))
    boxes.append(Box("adapter_1", adapter, middle + 70, 334, whole - 140, 30))
    at["add_1"] = 382.0
    boxes.append(Box("norm_2", norm, middle, 402, whole, 22))
    if "gate" in places:
        boxes += [Box("gate", t("charts.block.gate"), middle, 440, half), Box("up", up, middle + half + 12, 440, half)]
    else:
        boxes.append(Box("up", up, middle, 440, whole))
    boxes.append(Box("down", t("charts.block.down"), middle, 490, whole))
    boxes.append(Box("adapter_2", adapter, middle + 70, 540, whole - 140, 30))
    at |= {"add_2": 588.0, "end": 606.0}
    boxes.append(Box("norm_end", t("charts.block.norm_end"), middle, 624, whole, 22))
    boxes.append(Box("head", t("charts.block.head"), middle, 662, whole))
    return boxes, at


ADDED = ("maker", "prompt", "prefix", "adapter_1", "adapter_2")


def block(
    places: Sequence[str], shown: Sequence[Lit], method: str, *, blocks: int, tied: bool, four_bit: bool
) -> tuple[str, str]:
    """The drawing's inner SVG parts as a document, and its alt text.

    Args:
        places: those that the model has. shown: what trains. blocks: of the model. tied: the output layer is the
            embedding. four_bit: frozen matrices are kept in 4 bits.
    """
    from app.cells.svg import document

    colour = method_style(method).colour
    boxes, at = layout(places)
    on: dict[str, list[Lit]] = {}
    for one in shown:
        on.setdefault(one.place, []).append(one)
    out = [
        f'<rect x="{LEFT}" y="{at["block"]}" width="{RIGHT - LEFT}" height="{at["end"] - at["block"]}" rx="10" '
        'fill="currentColor" fill-opacity="0.04" stroke="currentColor" stroke-opacity="0.35" stroke-dasharray="4 4"/>',
        f'<text x="{RIGHT - 8}" y="{at["end"] - 8}" font-size="13" text-anchor="end">{_blocks(shown, blocks)}</text>',
        _line(230, 62 + ROW, 230, 128),
        _line(82, 62 + ROW, 82, 108) + _line(82, 108, 230, 108) if "prompt" in on else "",
        _line(230, at["end"], 230, 624), _line(230, 646, 230, 662),
    ]  # fmt: skip
    out += _stream(at, on)
    for box in boxes:
        lights = on.get(box.place, [])
        if box.place == "maker" and lights:
            out.append(_line(82, box.y + ROW, 82, 62))
        if box.place in ADDED and not lights:
            continue
        if box.place not in ADDED and box.place not in places:
            continue
        out.append(
            _box(
                box,
                lights,
                colour,
                four_bit=four_bit and box.h == ROW and box.place not in ("embedding", "head", *ADDED),
            )
        )
    if tied:
        out.append(f'<text x="230" y="712" font-size="12" text-anchor="middle">{t("charts.block.tied")}</text>')
    named = "; ".join(
        t("charts.block.numbers_each" if o.blocks > 1 else "charts.block.numbers", place=from_core(NAMES[o.place]),
          numbers=f"{o.each:,}", **({"blocks": o.blocks} if o.blocks > 1 else {}))
        for o in shown
    )  # fmt: skip
    alt = f"{t('charts.block.what')} {t('charts.block.lit', parts=named) if shown else t('charts.block.nothing_lit')}"
    return document("\n".join(out), WIDE, 720), alt


def _blocks(shown: Sequence[Lit], blocks: int) -> str:
    """What stands in the frame's corner: how many blocks there are, and in how many of them something trains."""
    inside = [one.blocks for one in shown if one.place not in OUTSIDE]
    some = max(inside, default=blocks)
    if some < blocks:
        return t("charts.block.some_blocks", some=some, blocks=blocks)
    return t("charts.block.all_blocks", blocks=blocks)


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" {STREAM}/>'


def _passing(start: float, end: float, broken: bool, top: float, bottom: float) -> list[str]:
    """A line down the middle, broken where a box stands in its way."""
    return [_line(230, start, 230, top), _line(230, bottom, 230, end)] if broken else [_line(230, start, 230, end)]


def _stream(at: dict[str, float], on: dict[str, list[Lit]]) -> list[str]:
    """The lines on which a token's numbers travel: through the parts, and past them."""
    out = []
    for start, end in ((120.0, at["add_1"]), (at["add_1"] + 10, at["add_2"])):
        out.append(
            f'<path d="M230 {start} H52 V{end} H221" fill="none" stroke="currentColor" stroke-opacity="0.45" '
            'stroke-width="1.5"/>'
        )
        out.append(
            f'<circle cx="230" cy="{end}" r="9" fill="none" {STREAM}/>'
            f'<path d="M225 {end} H235 M230 {end - 5} V{end + 5}" stroke="currentColor" stroke-opacity="0.8"/>'
        )
    out += [
        _line(230, 150, 230, 166), *_passing(200, at["attention"] - 12, "prefix" in on, 216, 242),
        f'<text x="230" y="{at["attention"] + 2}" text-anchor="middle" font-size="13" '
        f'font-style="italic">{t("charts.block.attention")}</text>',
        _line(230, at["attention"] + 8, 230, 284), *_passing(318, at["add_1"] - 9, "adapter_1" in on, 334, 364),
        _line(230, at["add_1"] + 9, 230, 402), _line(230, 424, 230, 440), _line(230, 474, 230, 490),
        *_passing(524, at["add_2"] - 9, "adapter_2" in on, 540, 570), _line(230, at["add_2"] + 9, 230, at["end"]),
    ]  # fmt: skip
    return out


def _box(box: Box, lights: Sequence[Lit], colour: str, *, four_bit: bool) -> str:
    """One part: frozen, or with what trains of it or beside it."""
    x, y, w, h = box.x, box.y, box.w, box.h
    kinds = {one.kind for one in lights}
    filled = bool(kinds & {"whole", "network", "vectors"})
    beside = 26 if kinds & {"pair", "half", "lengths", "scales", "scale"} else 0
    inner = w - beside
    stroke = colour if filled else "currentColor"
    width, opacity = (2.5, 1) if filled else (1.2, 0.55)
    fill = f'fill="{colour}" fill-opacity="0.3"' if filled else 'fill="currentColor" fill-opacity="0.05"'
    parts = [
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{inner:.1f}" height="{h}" rx="5" {fill} stroke="{stroke}" '
        f'stroke-width="{width}" stroke-opacity="{opacity}"' + (' stroke-dasharray="2 3"' if four_bit else "") + "/>"
    ]
    if "bias" in kinds:
        parts.append(f'<rect x="{x + 2:.1f}" y="{y + h - 7:.1f}" width="{inner - 4:.1f}" height="5" fill="{colour}"/>')
    right = x + inner
    if kinds & {"pair", "half", "lengths"}:
        parts.append(f'<rect x="{right + 5:.1f}" y="{y + 1:.1f}" width="6" height="{h - 2}" fill="{colour}"/>')
        hollow = "half" in kinds
        parts.append(
            f'<rect x="{right + 14:.1f}" y="{y + h - 8:.1f}" width="12" height="6" '
            + (f'fill="none" stroke="{colour}"/>' if hollow else f'fill="{colour}"/>')
        )
        if "lengths" in kinds:
            parts.append(f'<rect x="{right + 15:.1f}" y="{y + 2:.1f}" width="3" height="{h - 13}" fill="{colour}"/>')
    if "scales" in kinds:
        parts += [
            f'<rect x="{right + dx:.1f}" y="{y + 4:.1f}" width="3.5" height="{h - 8}" fill="{colour}"/>'
            for dx in (7, 19)
        ]
    if "scale" in kinds:
        parts.append(
            f'<circle cx="{right + 15:.1f}" cy="{y + h / 2:.1f}" r="8" fill="none" stroke="{colour}" '
            'stroke-width="2.5"/>'
            f'<circle cx="{right + 15:.1f}" cy="{y + h / 2:.1f}" r="2.5" fill="{colour}"/>'
        )
    label = html.escape(box.label) + (f" · {t('charts.block.four_bit')}" if four_bit and inner > 110 else "")
    told = " + ".join(count_text(one.each) for one in lights)
    centre = x + inner / 2
    if not told:
        parts.append(
            f'<text x="{centre:.1f}" y="{y + h / 2 + 5:.1f}" text-anchor="middle" font-size="13">{label}</text>'
        )
    elif h < ROW or inner > 150:
        lift = 2 if "bias" in kinds else 0
        parts.append(
            f'<text x="{centre:.1f}" y="{y + h / 2 + 5 - lift:.1f}" text-anchor="middle" font-size="13">{label} '
            f'<tspan font-weight="700">{told}</tspan></text>'
        )
    else:
        lift = 6 if "bias" in kinds else 0
        parts.append(
            f'<text x="{centre:.1f}" y="{y + 14 - lift / 3:.1f}" text-anchor="middle" font-size="12">{label}</text>'
            f'<text x="{centre:.1f}" y="{y + 29 - lift:.1f}" text-anchor="middle" font-size="13" '
            f'font-weight="700">{told}</text>'
        )
    return "".join(parts)
