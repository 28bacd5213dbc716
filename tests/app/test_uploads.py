"""Files that visitors bring: each under its owner, and removed when nobody has looked at them for a day."""

import os
import shutil
import time
from pathlib import Path

import pytest

from app import uploads

OLD = uploads.KEPT_SECONDS + 60


def age(path: Path, seconds: float) -> None:
    """As if the upload had been kept so long ago."""
    then = time.time() - seconds
    os.utime(path.parent, (then, then))


def test_an_upload_is_private_and_the_same_content_is_the_same_file(store):
    path = uploads.keep("alice", "../my data.jsonl", b"one")
    assert path.read_bytes() == b"one"
    assert path.name == "my_data.jsonl"
    assert path.is_relative_to(store.home / "uploads")
    assert "alice" not in str(path.relative_to(store.home))
    assert all(p.stat().st_mode & 0o077 == 0 for p in (path, path.parent, path.parent.parent))
    assert uploads.keep("alice", "../my data.jsonl", b"one") == path
    assert uploads.keep("alice", "../my data.jsonl", b"two") != path
    assert uploads.keep("bob", "../my data.jsonl", b"one") != path
    assert sorted(p.name for p in path.parent.iterdir()) == ["my_data.jsonl"]


def test_everybodys_old_uploads_are_removed_with_the_next_one(store):
    old = [uploads.keep("alice", "a.jsonl", b"a"), uploads.keep("bob", "b.jsonl", b"b")]
    young = uploads.keep("bob", "c.jsonl", b"c")
    for path in old:
        age(path, OLD)
    age(young, uploads.KEPT_SECONDS - 60)
    new = uploads.keep("carol", "d.jsonl", b"d")
    assert [p.exists() for p in (*old, young, new)] == [False, False, True, True]
    assert not uploads.folder("alice").exists()  # not even an empty folder


def test_an_upload_that_is_still_looked_at_stays(store):
    path = uploads.keep("alice", "a.jsonl", b"a")
    age(path, OLD)
    assert uploads.keep("alice", "a.jsonl", b"a") == path  # its page is drawn again
    uploads.sweep()
    assert path.read_bytes() == b"a"


def test_a_sweep_without_uploads_is_no_error(store):
    uploads.sweep()


@pytest.mark.parametrize("step", ["stat", "iterdir", "rmtree", "rmdir"])
def test_another_sweep_at_the_same_time_is_no_error(store, monkeypatch, step):
    """Whatever this one is about to touch, the other has just removed."""
    path = uploads.keep("alice", "a.jsonl", b"a")
    age(path, OLD)
    holder = shutil if step == "rmtree" else Path
    real = getattr(holder, step)
    remove = shutil.rmtree

    def late(place, *rest, **options):
        if Path(place).is_relative_to(uploads.folder("alice")):
            remove(uploads.folder("alice"), ignore_errors=True)
        return real(place, *rest, **options)

    monkeypatch.setattr(holder, step, late)
    uploads.sweep()
    monkeypatch.undo()
    assert not path.exists()


def test_a_folder_that_is_swept_away_while_it_is_made_is_made_again(store, monkeypatch):
    real, calls = os.utime, []

    def late(place, *rest, **options):
        calls.append(place)
        if len(calls) == 1:
            shutil.rmtree(uploads.folder("alice"))
        return real(place, *rest, **options)

    monkeypatch.setattr(os, "utime", late)
    assert uploads.keep("alice", "a.jsonl", b"a").read_bytes() == b"a"
    assert len(calls) == 2
