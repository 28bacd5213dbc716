"""A run's curves as a TensorBoard event file, written without TensorBoard.

A file is a row of records, each framed as TFRecord:

    length (8 bytes, little-endian) · masked CRC-32C of it (4) · data · masked CRC-32C of the data (4)

(tensorflow/core/lib/io/record_writer.cc.) The data is an Event in Protocol Buffers' wire format: wall_time, step, and
either the file's version or a Summary of scalars (tensorflow/core/util/event.proto, framework/summary.proto). Six
fields in all, so they are written here by hand; TensorBoard itself reads them back in the tests.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

VERSION = "brain.Event:2"
# What TensorBoard's scalars are called; a slash makes a group.
STEP_TAGS = {
    "loss": "train/loss", "learning_rate": "train/learning_rate", "grad_norm": "train/gradient_norm",
    "memory_bytes": "train/memory_bytes", "tokens": "train/answer_tokens",
}  # fmt: skip


def file_name(created: float, run: str) -> str:
    """What TensorBoard looks for: `events.out.tfevents.<seconds>.<host>`; the run's id stands for the host."""
    return f"events.out.tfevents.{int(created):010d}.{run}"


def event_file(events: Iterable[Mapping[str, Any]], created: float) -> bytes:
    """The event file of a run: loss, learning rate, gradient norm, memory and answer tokens at every step; scores and
    held-out loss at every evaluation.

    Args:
        events: as the store gives them, in order.
        created: seconds since the epoch; a step's time is that of the `started` event plus the seconds trained.
    """
    out = [record(event(created, version=VERSION))]
    began, seconds = created, 0.0
    for one in events:
        if one["kind"] == "started":
            began = (one.get("time") or created) - seconds
        elif one["kind"] == "step":
            seconds = one["seconds"]
        scalars = dict(scalars_of(one))
        if scalars:
            out.append(record(event(began + seconds, step=one["step"], scalars=scalars)))
    return b"".join(out)


def scalars_of(event: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """(tag, value) of everything in an event that makes a curve."""
    if event["kind"] == "step":
        for name, tag in STEP_TAGS.items():
            # 0 bytes means that nobody knows.
            if event.get(name) is not None and not (name == "memory_bytes" and not event[name]):
                yield tag, event[name]
    elif event["kind"] == "evaluated":
        if event.get("loss") is not None:
            yield "held_out/loss", event["loss"]
        if event.get("exact_match") is not None:
            yield "held_out/exact_match", event["exact_match"]
        for skill, share in event.get("skills", {}).items():
            yield f"old_skills/{skill}", share


# --- Event and Summary in the wire format ---------------------------------------------------------------------------


def event(wall_time: float, *, step: int = 0, version: str | None = None, scalars: Mapping[str, float] = {}) -> bytes:
    """An Event message: double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5."""
    data = b"\x09" + struct.pack("<d", wall_time)
    if step:
        data += b"\x10" + varint(step)
    if version is not None:
        data += b"\x1a" + _sized(version.encode())
    if scalars:
        # Summary: repeated Value value = 1. Value: string tag = 1; float simple_value = 2.
        values = (b"\x0a" + _sized(tag.encode()) + b"\x15" + struct.pack("<f", v) for tag, v in scalars.items())
        data += b"\x2a" + _sized(b"".join(b"\x0a" + _sized(value) for value in values))
    return data


def varint(number: int) -> bytes:
    """A whole number from 0 on, seven bits a byte, the lowest first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _sized(data: bytes) -> bytes:
    return varint(len(data)) + data


# --- TFRecord -------------------------------------------------------------------------------------------------------


def record(data: bytes) -> bytes:
    """A TFRecord around `data`."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked(crc32c(length))) + data + struct.pack("<I", masked(crc32c(data)))


def masked(crc: int) -> int:
    """The checksum as TFRecord stores it: rotated right by 15 bits, plus a constant (a checksum of data that holds its
    own checksum would be weak)."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _table() -> tuple[int, ...]:
    rows = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)  # Castagnoli's polynomial, bits reversed
        rows.append(crc)
    return tuple(rows)


_TABLE = _table()


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli; RFC 3720, appendix B.4), which Python's zlib does not have."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
