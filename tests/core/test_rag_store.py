"""The index: everything in and out in one piece, filters, both searches, and a kill in the middle of an insert."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from core.cli import main
from core.cli.arguments import BAD_INPUT
from core.errors import BadInput, NotFound, Refused
from core.rag.chunks import Cutting, cut
from core.rag.read import Document
from core.rag.retrieve import DENSE, HYBRID, LEXICAL, Retriever, fuse
from core.rag.store import FILE, Change, Store, Where

ROOT = Path(__file__).parents[2]
TEXTS = {
    "cats.md": "Cats sleep for most of the day. They hunt mice at dusk.",
    "bread.txt": "Bread needs flour, water and salt. The oven must be hot.",
    "tax.txt": "The invoice is due on the third of May. Late payments cost a fee.",
}


def documents():
    return [Document(name, text, kind=name.split(".")[1]) for name, text in TEXTS.items()]


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "index", create=True, embed="spelling") as made:
        made.put(documents())
        yield made


def counts(store):
    """(chunks, words, vectors), each counted in its own table."""
    tables = ("chunks", "words", "vectors")
    return tuple(store._all(f"SELECT count(*) FROM {table}")[0][0] for table in tables)


def test_what_is_put_in_comes_out_with_its_source(store):
    assert counts(store) == (3, 3, 3)
    assert store.sources() == {"bread.txt": 1, "cats.md": 1, "tax.txt": 1}
    (hit,) = Retriever(store).find("When is the invoice due?", 1).hits
    assert (hit.chunk.source, hit.chunk.citation, hit.chunk.text) == ("tax.txt", "tax.txt", TEXTS["tax.txt"])


def test_putting_in_the_same_again_changes_nothing(store):
    assert store.put(documents()) == Change(unchanged=3)
    assert counts(store) == (3, 3, 3)


def test_a_changed_document_is_served_at_once_and_its_old_text_is_gone(store):
    assert store.put([Document("tax.txt", "The invoice is due in June.", kind="txt")]) == Change(added=1, removed=1)
    assert counts(store) == (3, 3, 3)
    assert "June" in Retriever(store).find("When is the invoice due?", 1).hits[0].chunk.text
    assert store.matching("third May", 5) == []
    assert store.check() == []


def test_delete_removes_words_and_vectors_too(store):
    store.delete("cats.md")
    assert counts(store) == (2, 2, 2)
    assert store.matching("mice", 5) == []
    assert all(
        chunk.source != "cats.md" for chunk in store.chunks([i for i, _ in store.nearest(np.ones(256, "f4"), 9)])
    )
    with pytest.raises(NotFound, match=r"nothing of 'cats\.md'"):
        store.delete("cats.md")


@pytest.mark.parametrize("mode", [DENSE, LEXICAL, HYBRID])
def test_a_filter_holds_in_every_mode(store, mode):
    find = Retriever(store, mode).find
    question = "bread cats invoice"
    assert {h.chunk.source for h in find(question, 5, Where(kinds=("txt",))).hits} == {"bread.txt", "tax.txt"}
    assert {h.chunk.source for h in find(question, 5, Where(sources=("cats.md",))).hits} == {"cats.md"}
    assert find(question, 5, Where(sources=("cats.md",), kinds=("txt",))).hits == ()


def test_nearest_is_what_numpy_finds(tmp_path):
    """The extension's exact search against a plain product of matrices."""
    rows = [
        f"{a} {b} {c}" for a in ("red", "blue", "old") for b in ("cat", "dog", "hen", "cow") for c in ("ran", "sat")
    ]
    with Store(":memory:", create=True, embed="spelling") as store:
        store.put(Document(str(n), text) for n, text in enumerate(rows))
        vectors = store.embedder.documents([c.text for c in store.chunks()])
        for query in store.embedder.queries(["old dog sat", "blue hens", "a cow was running"]):
            expected = vectors @ query
            found = store.nearest(query, 5)
            assert [score for _, score in found] == pytest.approx(sorted(expected, reverse=True)[:5], abs=1e-5)
            assert [expected[i - 1] for i, _ in found] == pytest.approx([score for _, score in found], abs=1e-5)


def test_words_stand_for_their_stems_and_quotes_are_no_syntax(store):
    assert store.chunks([store.matching("sleeping", 1)[0][0]])[0].source == "cats.md"
    for odd in ('"', 'NEAR("a" AND', "* OR NOT", "text:salt", "'; DROP TABLE chunks; --"):
        Retriever(store).find(odd, 2)
    assert counts(store) == (3, 3, 3)


@pytest.mark.parametrize("word", ["Straße", "STRASSE", "Äpfel", "ÉCOLE", "Ἀθῆναι"])
def test_a_word_is_found_however_its_letters_are_written(word):
    """In particular ß, of which Unicode's folding makes ss, and the index does not."""
    with Store(":memory:", create=True, embed="spelling") as store:
        store.put([Document("a", f"Hier steht {word} im Text."), Document("b", "Hier steht nichts davon.")])
        for asked in (word, word.lower()):
            assert store.chunks([store.matching(asked, 1)[0][0]])[0].source == "a"


def test_common_words_are_left_out_of_a_large_index(store, monkeypatch):
    monkeypatch.setattr("core.rag.store.COMMON_LEAST", 3)
    monkeypatch.setattr("core.rag.store.COMMON_SHARE", 0.5)
    assert store._telling(["the", "invoice"]) == ["invoice"]
    assert store._telling(["the"]) == ["the"], "the rarest is better than nothing"
    assert store._telling(["unheard"]) == []


def test_an_index_remembers_how_it_was_made(store, tmp_path):
    store.close()
    with Store(tmp_path / "index") as again:
        assert (again.embedder.name, len(again)) == ("spelling", 3)
    with pytest.raises(BadInput, match="made with the embedder spelling, and its vectors cannot be compared"):
        Store(tmp_path / "index", embed="words")
    with pytest.raises(BadInput, match="cuts into 120 words"):
        Store(tmp_path / "index", cutting=Cutting(50, 10))


def test_no_index_no_questions(tmp_path):
    with pytest.raises(NotFound, match="There is no index"):
        Store(tmp_path)
    assert not (tmp_path / FILE).exists(), "looking makes none"
    (tmp_path / FILE).write_bytes(b"something else, longer than a page header of SQLite would be" * 20)
    with pytest.raises(BadInput, match="is no index"):
        Store(tmp_path, create=True)
    with Store(":memory:", create=True, embed="spelling") as empty:
        with pytest.raises(Refused, match="The index is empty"):
            Retriever(empty).find("Anything?")
        with pytest.raises(BadInput, match="no question"):
            Retriever(empty).find("  ")
        with pytest.raises(BadInput, match="no way to retrieve"):
            Retriever(empty, "psychic")


# --- what is damaged, or no place for an index ------------------------------------------------------------------------


def damaged(folder, how):
    """Make an index of three documents and damage its file; returns what the file holds then."""
    with Store(folder, create=True, embed="spelling") as made:
        made.put(documents())
        if how == "meta":
            made._db.execute("UPDATE meta SET value = '{' WHERE key = 'cutting'")
        elif how == "lacking":
            made._db.execute("DELETE FROM meta WHERE key = 'embedder'")
        elif how == "null":
            made._db.execute("PRAGMA writable_schema = ON")
            made._db.execute("UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', '')")
            made.close()
            made = Store(folder)
            made._db.execute("UPDATE chunks SET text = NULL WHERE id = 2")
            made._db.execute("UPDATE documents SET source = NULL WHERE id = 2")
        elif how == "schema":
            made._db.execute("PRAGMA writable_schema = ON")
            made._db.execute("UPDATE sqlite_master SET sql = replace(sql, 'source', 'sourze') WHERE name = 'documents'")
        made.close()
    path = folder / FILE
    content = path.read_bytes()
    if how == "cut":
        content = content[: len(content) // 2]
    elif how == "bytes":  # of a document's name and of its text, in every table that holds them
        content = content.replace(b"bread.txt", b"br\xff\xfe\xfdtxt.").replace(b"Bread needs", b"\xff\xfe\xfdad needs")
    elif how == "pages":
        content = content[:100] + b"\x5a" * (len(content) - 100)
    elif how == "head":
        content = b"\x5a" * 100 + content[100:]
    path.write_bytes(content)
    return content


ACTIONS = {
    "find": lambda store: Retriever(store, LEXICAL).find("bread", 3),
    "sources": Store.sources,
    "chunks": Store.chunks,
    "put": lambda store: store.put([Document("bread.txt", "New.", kind="txt")]),
}


@pytest.mark.parametrize(
    ("how", "fails"),
    [
        ("cut", ACTIONS), ("pages", ACTIONS), ("head", ACTIONS), ("meta", ACTIONS), ("lacking", ACTIONS),
        ("bytes", ("find", "sources", "chunks")), ("schema", ACTIONS), ("null", ("find", "sources", "chunks")),
    ],
)  # fmt: skip
def test_a_damaged_index_says_so_and_is_left_as_it_is(tmp_path, how, fails):
    content = damaged(tmp_path, how)
    for action in fails:
        for create in (False, True):
            with pytest.raises(BadInput, match="damaged") as told, Store(tmp_path, create=create) as store:
                ACTIONS[action](store)
            assert "It was left as it is" in told.value.advice
    assert (tmp_path / FILE).read_bytes() == content


def test_check_tells_of_damage_that_keeps_it_from_looking(store):
    store._db.execute("DROP TABLE vectors")
    assert any("This index is damaged" in sentence for sentence in store.check())


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("file", "is a file, and an index is a folder"),
        ("file/inside", "cannot hold an index: Not a directory"),
        ("x" * 300, "cannot hold an index: File name too long"),
        ("/proc/none", "cannot hold an index: No such file"),
        ("nul\0l", "cannot hold an index: embedded null byte"),
        ("by\udcffte", "not valid UTF-8"),
    ],
)
def test_a_place_that_cannot_hold_an_index_is_refused(tmp_path, place, says):
    (tmp_path / "file").write_text("Keep me.")
    with pytest.raises(BadInput, match=says) as told:
        Store(tmp_path / place, create=True, embed="spelling")
    assert told.value.advice
    assert [f.name for f in tmp_path.iterdir()] == ["file"], "nothing is made on the way"
    assert (tmp_path / "file").read_text() == "Keep me."


@pytest.mark.parametrize("name", ["x" * 300, "missing/rows.jsonl", "file/rows.jsonl", ""])
def test_a_place_for_rows_that_cannot_be_is_refused(tmp_path, name, capsys):
    (tmp_path / "file").write_text("Keep me.")
    asked = ["rag", "raft", str(tmp_path), "--questions", str(tmp_path / "file"), "--out", str(tmp_path / name)]
    assert main(asked) == BAD_INPUT
    told = capsys.readouterr().err
    assert "cannot be written" in told or "is a folder" in told


@pytest.mark.parametrize("count", [0, -1, 4097, 10**22])
def test_the_number_of_passages_has_bounds(store, count):
    for mode in (DENSE, LEXICAL, HYBRID):
        with pytest.raises(BadInput, match="must be 1 to 4,096"):
            Retriever(store, mode).find("bread", count)
    assert len(Retriever(store).find("bread", 4096).hits) == 3


@pytest.mark.parametrize("embed", ["spelling", "words"])
def test_a_question_that_is_no_text_is_refused(embed):
    """A byte that is not UTF-8 comes from a terminal as half a character; so does JSON's \\ud800."""
    with Store(":memory:", create=True, embed=embed) as store:
        store.put(documents())
        for mode in (DENSE, LEXICAL, HYBRID):
            with pytest.raises(BadInput, match="Character 6 of the question is not valid UTF-8"):
                Retriever(store, mode).find("bread\udcff?")
        for act in (store.delete, lambda name: store.put([Document(name, "Text.")])):
            with pytest.raises(BadInput, match="holds what is not valid UTF-8"):
                act("na\udcffme")
        assert counts(store) == (3, 3, 3)


KILLED = """
import sys
from core.rag.read import Document
from core.rag.store import Store
import core.rag.store as module
module.AT_ONCE = 40
store = Store(sys.argv[1], embed="spelling", create=True)
def told():
    for n in range(4000):
        if n % 40 == 0:
            print(n, flush=True)
        yield Document(f"file{n}", f"Number {n} says one thing. " * 30 + f"It ends with {n}.")
store.put(told())
"""


def big(count):
    return [Document(f"file{n}", f"Number {n} says one thing. " * 30 + f"It ends with {n}.") for n in range(count)]


@pytest.mark.parametrize("moment", [3, 4, 5])
def test_a_kill_during_an_insert_loses_nothing_and_doubles_nothing(tmp_path, moment):
    """SIGKILL at an arbitrary moment: what was committed is whole, and indexing again adds exactly what is missing."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    begun = 0
    for line in process.stdout:
        begun = int(line)
        if begun >= 40 * moment:
            break
    time.sleep(0.003 * moment)  # somewhere inside a batch
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with Store(tmp_path) as store:
        assert store.check() == []
        kept = store.sources()
        assert len(kept) >= begun - 40, "what was committed before the kill is there"
        assert set(kept.values()) <= {2}, "no document is half there"
        assert len(kept) < 4000
        per = len(cut(big(1)[0].text))
        change = store.put(big(500))
        already = sum(int(name.removeprefix("file")) < 500 for name in kept)
        assert change == Change(added=per * (500 - already), unchanged=already)
        assert store.put(big(500)) == Change(unchanged=500)
        assert store.check() == []
        wanted = {f"file{n}" for n in range(500)} | set(kept)
        assert store.sources() == dict.fromkeys(sorted(wanted), per)


def test_a_failure_inside_a_batch_leaves_the_index_as_it_was(store, monkeypatch):
    real = store.embedder.documents
    monkeypatch.setattr(store.embedder, "documents", lambda texts: real(texts)[:1])  # one vector too few
    with pytest.raises(IndexError):
        store.put([Document("a", "One."), Document("b", "Two.")])
    assert counts(store) == (3, 3, 3)
    assert store.check() == []


def test_check_finds_a_lost_vector_and_a_lost_word(store):
    store._db.execute("DELETE FROM vectors WHERE id = 1")
    assert any("1 chunks have no vectors" in s for s in store.check())
    store._db.execute("INSERT INTO words (words, rowid, text) VALUES ('delete', 2, 'Bread')")
    assert any("words do not fit" in s for s in store.check())


def test_two_stores_on_one_index_see_each_other(store, tmp_path):
    with Store(tmp_path / "index") as other:
        other.put([Document("new.txt", "A lighthouse shines.")])
        assert Retriever(store).find("lighthouse", 1).hits[0].chunk.source == "new.txt"


def test_reciprocal_rank_fusion_is_the_papers_sum():
    assert fuse([[1, 2, 3], [3, 1]]) == [
        (1, pytest.approx(1 / 61 + 1 / 62)), (3, pytest.approx(1 / 63 + 1 / 61)), (2, pytest.approx(1 / 62)),
    ]  # fmt: skip
    assert fuse([[], []]) == []


# --- cutting ----------------------------------------------------------------------------------------------------------


def test_chunks_are_whole_sentences_with_an_overlap():
    text = "One two three. Four five six. Seven eight nine. Ten eleven twelve."
    pieces = [p.text for p in cut(text, Cutting(words=6, overlap=3))]
    assert pieces == [
        "One two three. Four five six.", "Four five six. Seven eight nine.", "Seven eight nine. Ten eleven twelve.",
    ]  # fmt: skip
    assert [p.start for p in cut(text, Cutting(words=6, overlap=0))] == [0, text.index("Seven")]
    assert cut("", Cutting()) == cut("  \n\n ", Cutting()) == []


def test_every_word_of_a_text_stands_in_a_chunk():
    """Whatever the lengths: nothing is lost, no chunk is too long, none only repeats."""
    text = "Alpha beta. " * 7 + "one " * 40 + ".\n\nA heading\nGamma delta epsilon? Zeta! " * 3
    for words, overlap in ((5, 0), (7, 3), (20, 10), (200, 20)):
        pieces = [p.text.split() for p in cut(text, Cutting(words, overlap))]
        assert all(len(p) <= words for p in pieces)
        rest = text.split()
        for piece in pieces:
            shared = next(n for n in range(len(piece) + 1) if rest[: len(piece) - n] == piece[n:])
            assert shared <= overlap
            assert len(piece) > shared
            rest = rest[len(piece) - shared :]
        assert rest == []


def test_an_overlap_as_long_as_a_chunk_is_refused():
    with pytest.raises(BadInput, match="leaves nothing new"):
        cut("Some text.", Cutting(words=10, overlap=10))
