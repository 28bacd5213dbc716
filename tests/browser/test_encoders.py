"""An encoder and a file of labels, from the upload to the label of a text of one's own, in a real Chromium."""

from __future__ import annotations

import json
import random
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.browser.conftest import Server, Shoot, Visitors, idle
from tests.browser.test_journeys import (
    RUN_SECONDS,
    body,
    check,
    numbers,
    press,
    upload,
    wait_for_text,
)
from tests.checkpoints import write_encoder


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    rng = random.Random(4)
    path = tmp_path / "reviews.csv"
    words = {"good": ("a joy", "great", "lovely"), "bad": ("dull", "awful", "poor")}
    rows = [(f"The film number {rng.randint(1, 999)} was {rng.choice(words[k])}.", k) for k in ("good", "bad") * 100]
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows), encoding="utf-8")
    return path


def test_labels_from_the_report_to_a_text_of_ones_own(
    server: Server, visitors: Visitors, tmp_path: Path, reviews: Path, shoot: Shoot
) -> None:
    base = write_encoder("bert", tmp_path, initializer_range=0.2)
    gil = visitors.new(server)
    path = f"/playground?base=folder&folder={quote(str(base))}&task=own&method=full"
    page = gil.tab(f"{path}&knob-full-own-steps=60&knob-full-own-learning_rate=0.003")
    assert "bert, an encoder" in body(page)
    upload(page, reviews)
    wait_for_text(page, "How often each label stands")
    idle(page)
    check(page)
    press(page, "knob-run")
    wait_for_text(page, "What happened", RUN_SECONDS)
    idle(page)
    first, last = numbers(page, "held-out texts")
    assert last < first
    text = body(page)
    assert "nats a label" in text
    assert "Macro F1" in text
    assert "held-out items given the right label" in text
    assert "Try a text, before and after" in text
    shoot(gil, page.url.removeprefix(server.url), "playground-labels")
    box = page.get_by_placeholder("Give both a text")
    box.fill("The film number 5 was lovely.")
    box.press("Enter")
    wait_for_text(page, "%), ", 60)
    idle(page)
    said = [t for t in page.locator("code").all_inner_texts() if "%)" in t]
    assert len(said) == 2, json.dumps(said)
