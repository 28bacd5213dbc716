"""Documents from files: txt, md, pdf and csv, each with its source and the place inside it.

A text file is one document, a pdf one for each page, a csv one for each row ("column: value. column: value."). What
cannot be read is refused with a sentence that says why; nothing is guessed in silence. Text is UTF-8 (or UTF-16 with
its mark); a file of which no more than a part is UTF-8 is refused with the line where it changes.
"""

from __future__ import annotations

import csv
import io
import logging
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import BadInput
from core.units import MIB, bytes_text

if TYPE_CHECKING:
    from pypdf import PageObject

MOST_BYTES = 50 * MIB
MOST_ROWS = 200_000
ENDINGS = (".txt", ".md", ".pdf", ".csv", ".tsv")
_HEAD = 4096


@dataclass(frozen=True)
class Document:
    """A text and where it comes from.

    source: the file's name, as it is cited. place: inside it ("page 3", "row 17"); "" for the whole. kind: the file's
    ending without its dot.
    """

    source: str
    text: str
    place: str = ""
    kind: str = "txt"

    @property
    def name(self) -> str:
        """What tells it from all others of an index."""
        return f"{self.source}#{self.place}" if self.place else self.source


def documents(path: str | Path, name: str | None = None) -> list[Document]:
    """The documents of a file, or of all readable files in a folder.

    Args:
        path: a .txt, .md, .pdf, .csv or .tsv file, or a folder.
        name: how the file is cited; its own name if None. (Of a folder: the paths inside it.)

    Raises:
        BadInput: missing, too large, of another kind, without text, or damaged.
    """
    path = Path(path)
    files = None
    with _readable(path, path.name):
        if path.is_dir():
            files = sorted(f for f in path.rglob("*") if f.suffix.lower() in ENDINGS and f.is_file())
    if files is not None:
        if not files:
            raise BadInput(f"{path.name} holds no file that can be read.", f"It may hold {', '.join(ENDINGS)} files.")
        return [d for f in files for d in _of_file(f, str(f.relative_to(path)))]
    return list(_of_file(path, name or path.name))


def _of_file(path: Path, name: str) -> Iterator[Document]:
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise BadInput(f"{name} is none of {', '.join(ENDINGS)}.", "Export it as text or pdf.")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise BadInput(f"The file name {name!r} is not valid UTF-8.", "Rename the file.") from None
    with _readable(path, name):
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise BadInput(
                f"{name} has {bytes_text(size)}; at most {bytes_text(MOST_BYTES)} are read.",
                "Split it into several files.",
            )
        data = path.read_bytes()
    if ending == ".pdf":
        return _pdf(data, name)
    text = decoded(data, name)
    if not text.strip():
        raise BadInput(f"{name} is empty.", "Choose a file with text in it.")
    if ending in (".csv", ".tsv"):
        return _csv(text, name, tabs=ending == ".tsv")
    return iter([Document(name, text, kind=ending[1:])])


@contextmanager
def _readable(path: Path, name: str) -> Iterator[None]:
    """What the disk says, said to people."""
    try:
        yield
    except FileNotFoundError:
        raise BadInput(f"There is no file {path}.", "Check the path.") from None
    except OSError as why:
        raise BadInput(f"{name} cannot be read: {why.strerror or why}.", "Check the path and its permissions.") from why


def decoded(data: bytes, name: str) -> str:
    """The text of a file.

    Raises:
        BadInput: it is binary, or in another encoding, or in several; with the line where UTF-8 ends.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return _plain_breaks(data.decode("utf-16"))
        except UnicodeDecodeError:
            raise BadInput(f"{name} begins as UTF-16 and is damaged behind that.", "Save it as UTF-8.") from None
    if data.startswith((b"PK\x03\x04", b"\x1f\x8b", b"%PDF", b"\x28\xb5\x2f\xfd")) or b"\0" in data[:_HEAD]:
        raise BadInput(f"{name} is a compressed or binary file, not text.", "Unpack it, or export it as text.")
    try:
        return _plain_breaks(data.decode("utf-8-sig"))
    except UnicodeDecodeError as why:
        line = data.count(b"\n", 0, why.start) + 1
        mixed = any(byte >= 0x80 for byte in data[: why.start])
        what = "is UTF-8 at first and another encoding from there on" if mixed else "is not valid UTF-8"
        raise BadInput(
            f"Line {line} of {name} {what} (byte 0x{data[why.start]:02x}).", "Save the whole file as UTF-8."
        ) from why


def _plain_breaks(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _pdf(data: bytes, name: str) -> Iterator[Document]:
    """A document for each page with text; blank pages and pictures have none."""
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, FileNotDecryptedError, PyPdfError

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # what a reader should know is in the sentences below
    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise FileNotDecryptedError
        pages = [_whole(page.extract_text()) for page in reader.pages]
        contents = {n: _content(page) for n, page in enumerate(reader.pages, 1) if not pages[n - 1].strip()}
    except FileNotDecryptedError:
        raise BadInput(f"{name} is locked with a password.", "Save a copy without one.") from None
    except (PyPdfError, DependencyError, *_PDF_FAILS) as why:
        raise BadInput(f"{name} is damaged, or no pdf: {type(why).__name__}.", "Print it to a new pdf.") from why
    if not pages:
        raise BadInput(f"{name} is a pdf without a page.", "Save or print the document to a pdf again.")
    if lost := [n for n, content in contents.items() if content is None]:
        raise BadInput(f"Page {lost[0]} of {name} is damaged: its content cannot be unpacked.", "Save the pdf again.")
    if len(contents) == len(pages):
        if not any(contents.values()):
            raise BadInput(f"{name} holds nothing but blank pages ({len(pages)}).", "Choose a file with text in it.")
        raise BadInput(
            f"{name} has {len(pages)} page{'' if len(pages) == 1 else 's'} and no text: it holds pictures of pages, as "
            "a scanner makes them.",
            "Put it through text recognition (OCR) first.",
        )
    return iter([Document(name, t, f"page {n}", "pdf") for n, t in enumerate(pages, 1) if t.strip()])


# What pypdf raises at damaged files beside its own errors; which of them is for chance to say.
_PDF_FAILS = (
    ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError, RuntimeError, OSError,
    zlib.error, struct.error,
)  # fmt: skip


def _whole(text: str) -> str:
    """A text without the halves of characters that fonts' tables may yield, which are no text."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _content(page: PageObject) -> bool | None:
    """Whether anything is drawn on a page; None if that cannot be told, since pypdf makes damaged content empty."""
    from pypdf.generic import ArrayObject, StreamObject

    if "/Contents" not in page:
        return False
    given = page["/Contents"].get_object()
    parts = [part.get_object() for part in given] if isinstance(given, ArrayObject) else [given]
    drawn = False
    for part in parts:
        if not isinstance(part, StreamObject):
            return None
        if part.get("/Filter") in ("/FlateDecode", ["/FlateDecode"]) and not _unpacks(part._data):
            return None
        drawn = drawn or bool(part.get_data().strip())
    return drawn


def _unpacks(data: bytes) -> bool:
    """Whether a deflated stream is whole. Its checksum may be missing, as in many files that every reader opens."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)  # without the two bytes of the header
    try:
        unpacked = stream.decompress(data[2:], MOST_BYTES)
    except zlib.error:
        return False
    return stream.eof or len(unpacked) == MOST_BYTES


def _csv(text: str, name: str, *, tabs: bool) -> Iterator[Document]:
    """A document for each row, its fields named."""
    head = text.split("\n", 1)[0]
    delimiter = "\t" if tabs else max(",;\t|", key=head.count)
    csv.field_size_limit(max(csv.field_size_limit(), MIB))
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    found: list[Document] = []
    try:
        header = [cell.strip() for cell in next(reader)]
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise BadInput(
                    f"Line {reader.line_num} of {name} has {len(cells)} cells, and the header {len(header)}.",
                    'Put texts with commas into "…".',
                )
            told = ". ".join(
                f"{key}: {cell.strip()}" if key else cell.strip()
                for key, cell in zip(header, cells, strict=True)
                if cell.strip()
            )
            found.append(Document(name, f"{told}.", f"row {len(found) + 1}", "csv"))
            if len(found) > MOST_ROWS:
                raise BadInput(f"{name} has more than {MOST_ROWS:,} rows.", "Split it into several files.")
    except csv.Error as why:
        raise BadInput(
            f"Line {reader.line_num} of {name} cannot be read as a table ({why}).",
            'Put texts with commas, quotes or line breaks into "…", and double the quotes inside.',
        ) from why
    if not found:
        raise BadInput(f"{name} has a header and no rows.", "The first line names the columns; the rows follow.")
    return iter(found)
