"""The glossary: the file is sound, every name finds its term, and mistakes are told in sentences."""

from __future__ import annotations

import tomllib

import pytest

from core import glossary
from core.errors import BadInput


def test_the_glossary_is_sound_and_has_the_words_of_the_field():
    keys = {t.key for t in glossary.terms()}
    assert len(keys) >= 80
    wanted = "rank alpha target-modules nf4 double-quantization absmax block-size paged-optimizer gqa kv-cache mfu rrf"
    assert set(wanted.split()) <= keys


@pytest.mark.parametrize(
    ("name", "key"),
    [("NF4", "nf4"), ("NormalFloat", "nf4"), ("4-bit normalfloat", None), ("RAG", "rag"), ("r", "rank"),
     ("retrieval-augmented  generation", "rag"), ("IA³", "ia3"), ("rank-stabilized lora", "rslora")],
)  # fmt: skip
def test_a_term_is_found_by_any_of_its_names(name: str, key: str | None):
    found = glossary.find(name)
    assert (found.key if found else None) == key


def test_what_is_searched_for_by_name_comes_first():
    assert glossary.matching("quantization")[0].key == "quantization"
    assert glossary.matching("lora")[0].key == "lora"
    assert {t.key for t in glossary.matching("bits weight")} >= {"double-quantization"}
    assert glossary.matching("zzz") == ()


def test_every_mistake_of_the_file_is_told_at_once(tmp_path, monkeypatch):
    rows = [
        {"key": "rank", "name": "Rank", "text": "One. Two. Three. Four.", "see": ["nowhere"]},
        {"key": "rank", "name": "Other", "text": "no stop", "aka": ["rank"]},
        {"key": "Bad Key", "name": "", "text": "Fine.", "colour": "red", "reference": "none"},
        {"key": "copy", "name": "Rank", "text": "Fine."},
    ]
    told = "\n".join(glossary.problems(rows, ["lora"]))
    for part in (
        "'nowhere'", "at most 3", "stands there twice", "full stop",
        "'Bad Key'", "lacks its name", "'colour'", "'none'",
        "names both rank and copy",
    ):  # fmt: skip
        assert part in told
    file = tmp_path / "glossary.toml"
    file.write_text('[[term]]\nkey = "a"\nname = "A"\ntext = "No stop"\n')
    monkeypatch.setattr(glossary, "PATH", file)
    glossary.terms.cache_clear()
    try:
        with pytest.raises(BadInput, match="full stop"):
            glossary.terms()
    finally:
        glossary.terms.cache_clear()


def test_no_term_is_named_by_a_reference_that_nobody_uses():
    """Every reference that only the glossary brought is used by it."""
    rows = tomllib.loads(glossary.PATH.read_text(encoding="utf-8"))["term"]
    used = {row["reference"] for row in rows if "reference" in row}
    assert {"rslora", "dora", "vera", "rrf", "bm25", "roofline", "eckart", "palm", "triton"} <= used
