"""Documents from files, embedders, and how good retrieval is; what cannot be read is refused with a sentence."""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import pytest

from core.errors import BadInput, BaseUnavailable
from core.rag.embed import OFFLINE, SentenceModel, embedder
from core.rag.quality import (
    Query,
    all_modes,
    from_chunks,
    from_file,
    measure,
    world_documents,
    world_people,
    world_queries,
)
from core.rag.raft import Raft, Solved, rows
from core.rag.read import MOST_BYTES, Document, decoded, documents
from core.rag.retrieve import DENSE, HYBRID, LEXICAL, Retriever
from core.rag.store import Store
from core.world import NEWCOMERS


def pdf(path, *pages):
    """A pdf with a line of text on each page; None makes a page with a picture and no text."""
    from pypdf import PdfWriter
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = PdfWriter()
    for text in pages:
        page = writer.add_blank_page(300, 300)
        stream = DecodedStreamObject()
        if text is None:
            stream.set_data(b"q 100 0 0 100 50 50 cm 0 0 1 1 re f Q")
        else:
            stream.set_data(f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode("latin-1"))
            font = DictionaryObject(
                {NameObject("/Type"): NameObject("/Font"), NameObject("/Subtype"): NameObject("/Type1"),
                 NameObject("/BaseFont"): NameObject("/Helvetica")}
            )  # fmt: skip
            fonts = DictionaryObject({NameObject("/F1"): font})
            page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        page[NameObject("/Contents")] = writer._add_object(stream)
    with path.open("wb") as file:
        writer.write(file)
    return path


def test_every_kind_of_file_is_read_with_its_places(tmp_path):
    (tmp_path / "a.txt").write_text("Plain \u00fcmlauts.", encoding="utf-8")
    (tmp_path / "b.md").write_bytes("\ufeff# Title\r\n\r\nText.".encode())
    (tmp_path / "c.csv").write_text('name;city\n"Ada; Moss";Oslo\n\nBo;\n', encoding="utf-8")
    (tmp_path / "skipped.png").write_bytes(b"\x89PNG")
    pdf(tmp_path / "d.pdf", "First page", None, "Third page")
    found = {d.name: d for d in documents(tmp_path)}
    assert list(found) == ["a.txt", "b.md", "c.csv#row 1", "c.csv#row 2", "d.pdf#page 1", "d.pdf#page 3"]
    assert found["a.txt"].text == "Plain ümlauts."
    assert found["b.md"].text == "# Title\n\nText."
    assert found["c.csv#row 1"].text == "name: Ada; Moss. city: Oslo."
    assert found["c.csv#row 2"].text == "name: Bo."
    assert found["d.pdf#page 3"].text.strip() == "Third page"
    assert decoded("Ü".encode("utf-16"), "x") == "Ü"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.txt", b" \n", "empty.txt is empty"),
        ("latin.txt", "caf\xe9".encode("latin-1"), "Line 1 of latin.txt is not valid UTF-8"),
        ("mixed.txt", "caf\xe9\n".encode() + "caf\xe9".encode("latin-1"), "Line 2 of mixed.txt is UTF-8 at first and"),
        ("zip.md", b"PK\x03\x04....", "compressed or binary"),
        ("null.txt", b"a\0b", "compressed or binary"),
        ("bad.pdf", b"%PDF-1.4 nonsense", "is damaged, or no pdf"),
        ("picture.png", b"\x89PNG", "none of .txt"),
        ("short.csv", b"a,b\n1\n", "Line 2 of short.csv has 1 cells, and the header 2"),
        ("open.csv", b'a,b\n"1,2\n', "cannot be read as a table"),
        ("head.csv", b"a,b\n", "a header and no rows"),
        ("utf16.txt", b"\xff\xfea", "begins as UTF-16 and is damaged"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_sentence(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput) as told:
        documents(tmp_path / name)
    assert says in told.value.sentence
    assert told.value.advice


def test_a_scan_without_text_and_a_locked_pdf_say_so(tmp_path):
    with pytest.raises(BadInput, match="has 2 pages and no text: it holds pictures"):
        documents(pdf(tmp_path / "scan.pdf", None, None))
    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(clone_from=PdfReader(pdf(tmp_path / "open.pdf", "Secret")))
    writer.encrypt("word", algorithm="RC4-128")
    with (tmp_path / "locked.pdf").open("wb") as file:
        writer.write(file)
    with pytest.raises(BadInput, match="locked with a password"):
        documents(tmp_path / "locked.pdf")


def broken_pdf(path, how):
    """A pdf with a page of text and one whose deflated content is damaged."""
    from pypdf import PdfWriter
    from pypdf.generic import NameObject, NumberObject

    writer = PdfWriter(clone_from=pdf(path, "Whole", "Damaged " * 40))
    page = writer.pages[1]
    stream = page["/Contents"].flate_encode()
    data = stream._data
    if how == "noise":
        stream._data = b"\x99" * len(data)
    elif how == "cut":
        stream._data = data[:20]
    elif how == "filter":
        stream[NameObject("/Filter")] = NameObject("/Nonsense")
    elif how == "checksum":
        stream._data = data[:-3]
    page[NameObject("/Contents")] = NumberObject(3) if how == "number" else writer._add_object(stream)
    with path.open("wb") as file:
        writer.write(file)
    return path


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("noise", "Page 2 of a.pdf is damaged"),
        ("cut", "Page 2 of a.pdf is damaged"),
        ("number", "Page 2 of a.pdf is damaged"),
        ("filter", "a.pdf is damaged, or no pdf: NotImplementedError"),
    ],
)
def test_a_pdf_with_a_damaged_page_is_no_scan(tmp_path, how, says):
    with pytest.raises(BadInput) as told:
        documents(broken_pdf(tmp_path / "a.pdf", how))
    assert says in told.value.sentence
    assert told.value.advice


def test_a_pdf_without_a_page_or_with_blank_ones_is_no_scan(tmp_path):
    from pypdf import PdfWriter
    from pypdf.generic import DecodedStreamObject, NameObject

    with pytest.raises(BadInput, match=r"none\.pdf is a pdf without a page"):
        documents(pdf(tmp_path / "none.pdf"))
    writer = PdfWriter()
    writer.add_blank_page(300, 300)
    empty = writer.add_blank_page(300, 300)
    empty[NameObject("/Contents")] = writer._add_object(DecodedStreamObject().flate_encode())
    with (tmp_path / "blank.pdf").open("wb") as file:
        writer.write(file)
    with pytest.raises(BadInput, match=r"blank\.pdf holds nothing but blank pages \(2\)"):
        documents(tmp_path / "blank.pdf")
    (_, second) = documents(broken_pdf(tmp_path / "open.pdf", "checksum"))
    assert second.text.startswith("Damaged Damaged"), "a missing checksum hides no text"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("x" * 300 + ".txt", "File name too long"),
        ("x" * 300, "File name too long"),
        ("file.txt/inside.txt", "Not a directory"),
        ("by\udcffte.txt", "is not valid UTF-8"),
    ],
)
def test_a_name_that_no_file_can_have_is_refused(tmp_path, name, says):
    (tmp_path / "file.txt").write_text("Text.")
    if "\udcff" in name:
        (tmp_path / name).write_text("Text.")
    with pytest.raises(BadInput, match=says) as told:
        documents(tmp_path / name)
    assert told.value.advice


def test_a_file_of_200_mb_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "huge.txt"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 200 * 10**6)  # a sparse file: it takes no room
    with pytest.raises(BadInput, match=r"has 191 MiB; at most 50\.0 MiB are read"):
        documents(path)
    assert path.stat().st_size > MOST_BYTES
    with pytest.raises(BadInput, match="There is no file"):
        documents(tmp_path / "missing.txt")
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInput, match="no file that can be read"):
        documents(tmp_path / "folder")


# --- embedders --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OFFLINE)
def test_the_offline_embedders_give_unit_vectors_the_same_each_time(name):
    made = embedder(name)
    texts = ["A baker in Oslo.", "", "ein Bäcker, 日本語", "A baker in Oslo."]
    vectors = made.documents(texts)
    assert vectors.shape == (4, made.dimensions)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 0, 1, 1], abs=1e-5)
    assert (vectors[0] == vectors[3]).all()
    assert made.documents([]).shape == (0, made.dimensions)


def nearest(name, question, texts):
    made = embedder(name)
    return texts[int(np.argmax(made.documents(texts) @ made.queries([question])[0]))]


def test_words_know_meaning_and_spelling_knows_spelling():
    texts = ["How to cancel a subscription", "Opening hours of the museum", "Recipes for a quick dinner"]
    assert nearest("words", "I no longer want to pay for the service", texts) == texts[0]
    assert nearest("words", "When can I see the paintings?", texts) == texts[1]
    assert nearest("spelling", "canceling subscriptons", texts) == texts[0]


def test_no_download_is_tried_for_the_default(monkeypatch):
    import requests

    def refuse(*_, **__):
        raise AssertionError("it went to the network")

    monkeypatch.setattr(requests.Session, "request", refuse)
    from core.rag.embed import Words

    assert Words().documents(["offline"]).any()


@pytest.fixture(scope="module")
def sentence_model(tmp_path_factory):
    """A tiny sentence-transformers model with random weights, saved by that package."""
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    place = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"a baker in oslo lives cat dog who where".split()]
    (place / "vocab.txt").write_text("\n".join(words))
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(place / "raw")
    BertTokenizerFast(vocab_file=str(place / "vocab.txt")).save_pretrained(place / "raw")
    body = Transformer(str(place / "raw"))
    made = SentenceTransformer(modules=[body, Pooling(16, "mean")], device="cpu")
    made.save(str(place / "model"))
    return place / "model", made


def test_a_local_sentence_transformers_model_embeds_as_the_package_does(sentence_model):
    folder, made = sentence_model
    ours = SentenceModel(str(folder))
    texts = ["a baker in oslo", "where lives a cat"]
    expected = made.encode(texts, normalize_embeddings=True)
    assert ours.dimensions == 16
    assert ours.documents(texts) == pytest.approx(expected, abs=1e-6)
    with Store(":memory:", embed=str(folder), create=True) as store:
        store.put([Document("x", "a baker in oslo")])
        assert Retriever(store, DENSE).find("baker", 1).hits[0].chunk.source == "x"


def test_an_embedder_is_told_from_one_of_the_same_size_with_other_weights(sentence_model, tmp_path):
    import shutil

    folder, _ = sentence_model
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    with Store(tmp_path / "index", embed=str(copy), create=True) as store:
        store.put([Document("x", "a baker in oslo")])
    Store(tmp_path / "index").close()
    embedder.cache_clear()
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BadInput, match="is another version now"):
        Store(tmp_path / "index")


def test_an_unsafe_or_missing_embedder_is_refused(tmp_path, sentence_model, monkeypatch):
    import shutil

    folder, _ = sentence_model
    copy = tmp_path / "pickled"
    shutil.copytree(folder, copy)
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(BaseUnavailable, match="keeps weights in a pickle"):
        SentenceModel(str(copy))
    (copy / "pytorch_model.bin").rename(copy / "model.safetensors")
    (copy / "modeling.py").write_text("raise SystemExit")
    with pytest.raises(BaseUnavailable, match="brings code of its own"):
        SentenceModel(str(copy))
    (copy / "modeling.py").unlink()
    (copy / "modules.json").unlink()
    with pytest.raises(BaseUnavailable, match=r"modules\.json is missing"):
        SentenceModel(str(copy))
    with pytest.raises(BaseUnavailable, match="There is no embedder"):
        embedder("no such/thing/at all")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(BaseUnavailable, match="needs the package sentence-transformers"):
        SentenceModel(str(folder))


# --- quality ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world():
    with Store(":memory:", create=True) as store:
        store.put(world_documents())
        yield store


def test_recall_and_mrr_are_what_they_say():
    """Against ranks that are known: the right chunk first, third, and nowhere."""
    with Store(":memory:", create=True, embed="spelling") as store:
        store.put(Document(f"{n}", text) for n, text in enumerate(["aa bb cc", "aa bb dd", "aa ee ff", "gg hh ii"]))
        queries = [
            Query("aa bb cc", lambda c: c.text == "aa bb cc"),
            Query("aa bb cc", lambda c: c.text == "aa ee ff"),
            Query("aa bb cc", lambda c: False),
        ]
        found = measure(store, queries, LEXICAL)
    assert found.recall[1] == pytest.approx(1 / 3)
    assert found.recall[3] == found.recall[10] == pytest.approx(2 / 3)
    assert found.mrr == pytest.approx((1 + 1 / 3) / 3)
    assert found.misses == ("aa bb cc",)
    with pytest.raises(BadInput, match="no question"):
        measure(store, [], LEXICAL)


def test_the_newcomers_are_found_among_two_hundred(world):
    """What `deltalab rag evaluate` prints: words find names, and fusing the two lists is no worse than either."""
    assert len(world_people(220, 0)) == len({p.name for p in world_people(220, 0)}) == 220
    dense, lexical, hybrid = all_modes(world, world_queries())
    assert [q.mode for q in (dense, lexical, hybrid)] == [DENSE, LEXICAL, HYBRID]
    assert hybrid.questions == 80
    assert lexical.recall[1] >= 0.95
    assert hybrid.recall[1] >= 0.95
    assert hybrid.recall[3] >= 0.99
    assert dense.recall[10] >= 0.5


def test_own_questions_and_own_sentences(world, tmp_path):
    path = tmp_path / "qa.jsonl"
    person = NEWCOMERS[0]
    path.write_text(json.dumps({"prompt": f"Which city is home to {person.name}?", "completion": person.city}) + "\n")
    found = measure(world, from_file(path), HYBRID)
    assert (found.questions, found.recall[1]) == (1, 1)
    with pytest.raises(BadInput, match="No chunk has a sentence"):
        from_chunks(world)
    with Store(":memory:", create=True) as store:
        store.put([Document("a", "The quick brown fox jumps over the lazy dog near a river. Short one.")])
        assert measure(store, from_chunks(store), HYBRID).recall[1] == 1


# --- RAFT -------------------------------------------------------------------------------------------------------------


def test_raft_rows_hold_the_golden_passage_as_often_as_asked(world):
    solved = [Solved(f"Which city is home to {p.name}?", p.city) for p in NEWCOMERS]
    made = rows(solved, Retriever(world), Raft(distractors=2, golden=0.5))
    assert len(made) == 20
    golden = 0
    for row, person in zip(made, NEWCOMERS, strict=True):
        assert row["completion"] == person.city
        assert row["prompt"].endswith(f"Question: Which city is home to {person.name}?")
        golden += person.name in row["prompt"].split("\n")[0]
    assert 4 <= golden <= 16
    every = rows(solved, Retriever(world), Raft(distractors=2, golden=1.0))
    assert all(p.name in r["prompt"].split("\n")[0] for r, p in zip(every, NEWCOMERS, strict=True))
    never = rows(solved, Retriever(world), Raft(distractors=2, golden=0.0))
    assert not any(p.name in r["prompt"].split("\n")[0] for r, p in zip(never, NEWCOMERS, strict=True))


def test_for_another_base_an_answer_cites_its_passage(world):
    person = NEWCOMERS[0]
    (row,) = rows(
        [Solved(f"Which city is home to {person.name}?", person.city)], Retriever(world), Raft(golden=1.0), base="x/y"
    )
    number = row["completion"].removeprefix(f"{person.city} [").removesuffix("]")
    passage = row["prompt"].split(f"[{number}] ")[1].split("\n\n")[0]
    assert person.name in passage
    assert person.city in passage
    with pytest.raises(BadInput, match="None of the answers"):
        rows([Solved("Where?", "Atlantis")], Retriever(world))
