"""The claims page: every claim that the engine computes, with its verdict, and a topic from the link."""

from __future__ import annotations

from typing import Any

from core.claims import claims
from tests.app.test_views import words as escaped


def words(page: Any) -> str:
    return escaped(page).replace("\\", "")


def page() -> None:
    from app.views import claims

    claims.render()


def test_every_claim_is_there_with_its_verdict(visit: Any) -> None:
    every = claims()  # (read first: on a busy machine that takes longer than a drawing may)
    seen = visit(page)
    text = words(seen).replace("\u00a0", " ")
    for one in every:
        assert f"{one.number}. {one.text}".replace("\u00a0", " ") in text
        assert one.told.replace("\u00a0", " ") in text
    held = sum(c.verdict == "holds" for c in every)
    assert f"**{held}** hold." in text


def test_a_topic_from_the_link(visit: Any) -> None:
    seen = visit(page, topic="storage")
    shown = [s.value for s in seen.subheader]
    assert len(shown) == sum(c.topic == "storage" for c in claims()) < len(claims())
