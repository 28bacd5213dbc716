"""A figure's numbers on the page: heads in words, sizes with units, no cell cut off."""

import pandas as pd
import pytest

from app import tables


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("adapter_bytes", "Adapter"),
        ("token_ms", "Token, ms"),
        ("exact_match_percent", "Right, %"),
        ("step_seconds_low", "Step low, s"),
        ("nf4", "NF4"),
        ("Already in words", "Already in words"),
    ],
)
def test_heads_are_words(name: str, said: str) -> None:
    assert tables.head(name) == said


def test_bytes_are_sizes_and_heads_stay_apart() -> None:
    table = pd.DataFrame({"adapter_bytes": [1024, None], "bytes": [1, 2]})
    assert tables.readable(table).to_dict("list") == {"Adapter": ["1.0 KiB", "–"], "Size": ["1 B", "2 B"]}
    twice = pd.DataFrame({"saved_bytes": [1], "bytes_saved": [2]})
    assert list(tables.readable(twice).columns) == ["saved_bytes", "bytes_saved"]
    assert list(table.columns) == ["adapter_bytes", "bytes"], "the CSV keeps its names"


def test_a_cell_longer_than_its_column_gets_room() -> None:
    table = pd.DataFrame({"Right": ["100 %", "100 %", "51 % (20–68)"], "Time": ["25 s", "26 s", "27 s"]})
    assert list(tables.widths(table)) == ["Right"]
