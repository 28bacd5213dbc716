"""TensorBoard event files: the checksum's published vectors, and TensorBoard's own reader as the judge."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from core.export.tensorboard import crc32c, event_file, file_name, masked, record, varint

EVENTS: list[dict[str, Any]] = [
    {"kind": "started", "time": 1000.0},
    {"kind": "step", "step": 1, "loss": 3.5, "learning_rate": 1e-4, "grad_norm": float("inf"), "tokens": 40,
     "seconds": 0.5, "memory_bytes": 5_000_000_000},
    {"kind": "evaluated", "step": 0, "exact_match": 0.0, "loss": 3.25, "skills": {"recall": 1.0, "addition": 0.75}},
    {"kind": "step", "step": 2, "loss": 1.25, "learning_rate": 3e-4, "grad_norm": 0.5, "tokens": 44, "seconds": 1.5,
     "memory_bytes": 0},
    {"kind": "sampled", "step": 2, "samples": []},
    {"kind": "step", "step": 300, "loss": 0.125, "learning_rate": 0.0, "grad_norm": 0.25, "tokens": 41, "seconds": 2.0,
     "memory_bytes": 0},
    {"kind": "evaluated", "step": 300, "exact_match": None, "loss": None, "skills": {}},
    {"kind": "finished", "step": 300},
]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),  # the check value of the catalogue of CRCs
        (bytes(32), 0x8A9136AA),  # RFC 3720, appendix B.4, and the two below
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_the_checksum_has_its_published_values(data: bytes, crc: int) -> None:
    assert crc32c(data) == crc


def test_numbers_of_any_size_are_written_as_protocol_buffers_write_them() -> None:
    from google.protobuf.internal.decoder import _DecodeVarint

    for number in (0, 1, 127, 128, 300, 2**31 - 1, 2**40):
        assert _DecodeVarint(varint(number), 0) == (number, len(varint(number)))


def test_a_record_is_framed_with_both_checksums() -> None:
    data = b"some bytes"
    framed = record(data)
    assert framed[:8] == struct.pack("<Q", len(data))
    assert struct.unpack("<I", framed[8:12]) == (masked(crc32c(framed[:8])),)
    assert framed[12:-4] == data
    assert struct.unpack("<I", framed[-4:]) == (masked(crc32c(data)),)


def test_the_same_run_gives_the_same_bytes() -> None:
    assert event_file(EVENTS, 990.0) == event_file(EVENTS, 990.0)
    assert file_name(990.5, "abc") == "events.out.tfevents.0000000990.abc"


def test_tensorboard_reads_every_curve(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (tmp_path / file_name(990.0, "abc")).write_bytes(event_file(EVENTS, 990.0))
    reader = accumulator.EventAccumulator(str(tmp_path), size_guidance={"scalars": 0})
    reader.Reload()
    assert reader.FirstEventTimestamp() == 990.0
    curves = {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}
    assert curves == {
        "train/loss": [(1, 3.5), (2, 1.25), (300, 0.125)],
        "train/learning_rate": [(1, pytest.approx(1e-4)), (2, pytest.approx(3e-4)), (300, 0.0)],
        "train/gradient_norm": [(1, float("inf")), (2, 0.5), (300, 0.25)],
        "train/answer_tokens": [(1, 40.0), (2, 44.0), (300, 41.0)],
        "train/memory_bytes": [(1, 5e9)],
        "held_out/loss": [(0, 3.25)],
        "held_out/exact_match": [(0, 0.0)],
        "old_skills/recall": [(0, 1.0)],
        "old_skills/addition": [(0, 0.75)],
    }
    assert [e.wall_time for e in reader.Scalars("train/loss")] == [1000.5, 1001.5, 1002.0]


def test_a_damaged_file_is_noticed_by_tensorboard(tmp_path: Path) -> None:
    """The reader does check: so the test above shows that the checksums are right."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    data = bytearray(event_file(EVENTS, 990.0))
    data[-10] ^= 1
    path = tmp_path / "events.out.tfevents.1"
    path.write_bytes(data)
    whole = tmp_path / "events.out.tfevents.2"
    whole.write_bytes(event_file(EVENTS, 990.0))
    count = [len(list(loader.LegacyEventFileLoader(str(p)).Load())) for p in (path, whole)]
    assert count == [4, 5]
