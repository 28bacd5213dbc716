"""What is wrong with a lesson that can be read: numbers typed in, dead links, acronyms out of the blue, parts missing.

    for mistake in lint(lesson):
        print(mistake)          # 03_lora_rank/lesson.md:41: …

Pure: reads the lesson and its folder, draws and computes nothing. The format's own mistakes are `index.read`'s, and
numbers that the engine refuses are `index.check`'s.

**Typed-in numbers.** A number in prose is an offence when it looks measured or looked up: it has a unit (%, GB,
seconds, "times" …), a decimal point, or two digits and more. Not looked at are calcs, terms, code spans, math, links,
numbers that are part of a name (NF4, GPT-2, Llama 2, RTX 4090, Python 3.11), references ("section 4.2", "lesson 3"),
years, number formats ("32-bit"), and, without a unit, counting up to ten and powers of two (sizes of blocks, matrices
and texts). Nor are premises: what a question or an exercise sets, where it sets it and in the answers to it, and what
is handed to a calc in the same paragraph. What is a number by definition is written {n}`72|points to an inch`: the text
behind the bar says why nobody has to measure it, and is not shown.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from app import calc, index
from app.index import Cell, Lesson, Mistake
from app.schema import Lined
from core import syntax

NEEDED = (
    ("a prediction ({predict})", ("predict",), 1),
    ("something that runs ({experiment}, {compare} or {probe})", ("experiment", "compare", "probe"), 1),
    ("three questions ({quiz})", ("quiz",), 3),
    ("an exercise ({exercise})", ("exercise",), 1),
)
"""What every lesson has: words for it, the kinds that count, and how many of them."""

PROSE = ("text", "question", "why", "otherwise", "finding", "hints", "items", "choices", "mistakes", "cost", "title")
"""Fields of a directive that hold text for people."""


@dataclass(frozen=True)
class Text:
    """A stretch of prose. line: of its beginning. exact: whether a line break in it is one in the file. body: False for
    titles and the front matter, which are read before the text begins and cannot spell anything out. given: the text
    whose numbers are premises here."""

    text: str
    line: int
    exact: bool = True
    body: bool = True
    given: str = ""

    def at(self, place: int) -> int:
        """The line of a place in it."""
        return self.line + self.text.count("\n", 0, place) if self.exact else self.line


def lint(lesson: Lesson) -> list[Mistake]:
    """Everything that is wrong, in the order of the file."""
    path = lesson.folder / "lesson.md"
    texts = list(prose(lesson))
    found: list[tuple[int, str]] = []
    for text in texts:
        found += [(text.at(place), sentence) for place, sentence in typed_numbers(text.text, text.given)]
        found += [(text.at(place), sentence) for place, sentence in dead_links(text.text, lesson)]
        found += [(text.at(place), sentence) for place, sentence in dead_numbers(text.text)]
    found += list(unspoken(texts))
    found += list(_references(lesson, texts))
    found += list(_spoilers(lesson))
    found += list(_missing(lesson))
    found += list(_pictures(lesson))
    found += list(_stale(lesson))
    return sorted((Mistake(path, line, sentence) for line, sentence in found), key=lambda m: m.line)


def prose(lesson: Lesson) -> Iterator[Text]:
    """All text that a reader reads, in order; code is left out."""
    for line in (lesson.summary, *lesson.objectives, *lesson.summary_points):
        yield Text(line, _front_line(lesson, line), exact=False, body=False)
    for cell in lesson.cells:
        if cell.kind == "prose":
            if not cell.body.get("code"):
                yield Text(cell.body["text"], cell.line)
        elif cell.kind != "image":
            given = str(cell.body.get(SETS.get(cell.kind, "")) or "")
            if cell.kind == "predict":  # what stood before the run is no premise
                given = PERCENT.sub(" ", given)
            yield from _fields(cell.body, cell.line, given)


def _front_line(lesson: Lesson, text: str) -> int:
    """The line of the front matter in which a text of it begins; 1 where it cannot be told."""
    rows = (lesson.folder / "lesson.md").read_text(encoding="utf-8").splitlines()
    begins = " ".join(text.split()[:BEGINNING])
    return next((n for n, row in enumerate(rows, 1) if begins in " ".join(row.replace('\\"', '"').split())), 1)


BEGINNING = 4
"""So many words tell one line of the front matter from the others."""
SETS = {"quiz": "question", "exercise": "text", "predict": "question"}
"""The field in which a kind of cell sets the case that it asks about."""
PERCENT = re.compile(r"\d[\d.,]*\s?(?:%|per cent)")


def _fields(body: Mapping[str, Any], line: int, given: str) -> Iterator[Text]:
    for key, value in body.items():
        if key not in PROSE:
            continue
        at = body.lines.get(key, line) if isinstance(body, Lined) else line
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, Lined):
                wrong_choice = "text" in part and "right" not in part
                # A wrong choice may be any number: nobody claims it.
                shown = {k: v for k, v in part.items() if not (wrong_choice and k == "text")}
                lines = Lined(shown)
                lines.lines = part.lines
                yield from _fields(lines, part.lines[None], given)
            elif isinstance(part, str):
                yield Text(part, at, exact=False, body=key != "title", given=given)


# --- numbers ----------------------------------------------------------------------------------------------------------

MATH = re.compile(r"\$\$.*?\$\$|(?<![\\$])\$(?!\s)[^$\n]+?(?<!\s)\$", re.DOTALL)
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
ADDRESS = re.compile(r"https?://\S+")
# A number as people type it: not inside a word or a name with a hyphen, with its unit if it has one.
NUMBER = re.compile(
    r"(?<![\w.,/-])(?P<number>\d+(?:[.,\u202f\u2009]\d+)*(?:e[-+]?\d+)?)"
    r"(?P<unit>\s?(?:%|‰|×|°C|x\b|(?:per cent|times|points|fold|tokens|[kMGT]i?B|bytes|ms|µs|s|seconds|minutes|min"
    r"|hours|h|days|dollars|euros|GPUs|[kMBT])\b))?(?![\w/]|-\w)"
)
FORMAT = re.compile(r"\d+(?:\.\d+)?[\s-]bits?\b")
CITED = re.compile(
    r"\b(?:lesson|section|sections|chapter|table|figure|equation|appendix|algorithm|claim|page|layer|layers|line|row|"
    r"step|version|place|part|Python|seed)\s+\d+(?:\.\d+)*(?:\s*(?:,|to|and|–)\s*\d+(?:\.\d+)*)*",
    re.IGNORECASE,
)
LISTED = re.compile(r"^\s{0,6}\d+[.)]\s", re.MULTILINE)
YEAR = re.compile(r"(?:19|20)\d\d")
MOST_COUNTED = 10


def covered(text: str) -> str:
    """`text` with everything that is no prose blanked out: calcs, terms, code, math, links' addresses."""

    def blank(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", match[0])

    text = index.INLINE.sub(blank, text)
    text = MATH.sub(blank, text)
    text = LINK.sub(lambda m: " " + m[1] + re.sub(r"[^\n]", " ", m[0][len(m[1]) + 1 :]), text)
    return ADDRESS.sub(blank, text)


def typed_numbers(text: str, given: str = "") -> Iterator[tuple[int, str]]:
    """Numbers in `text` that nobody computed: (place, sentence).

    Args:
        given: text whose numbers are premises.
    """
    premises = {_value(m["number"]) for m in NUMBER.finditer(given)}
    shown = covered(LINK.sub(lambda m: " " * len(m[0]), index.INLINE.sub(lambda m: " " * len(m[0]), text)))
    for pattern in (FORMAT, CITED, LISTED, _names()):
        shown = pattern.sub(lambda m: " " * len(m[0]), shown)
    for match in NUMBER.finditer(shown):
        number, unit = match["number"], (match["unit"] or "").strip()
        if (not unit or unit == "tokens") and _counting(number):
            continue
        if _value(number) in premises | _handed_over(text, match.start()):
            continue
        said = f"{number} {unit}".strip()
        yield (
            match.start(),
            f"The number {said} is typed in. Let the engine print it ({{calc}}), or, if it is one by definition, say "
            f"why: {{n}}`{said}|reason`.",
        )


def _value(number: str) -> str:
    """A number as it is compared: '16,000' and '16000' are one, '0.50' and '0.5' another."""
    if re.fullmatch(r"\d{1,3}(?:[,\u202f\u2009]\d{3})+(?:\.\d+)?", number):
        number = re.sub(r"[,\u202f\u2009]", "", number)
    try:
        return f"{float(number):.12g}"
    except ValueError:
        return number


def _handed_over(text: str, place: int) -> set[str]:
    """The numbers that are arguments of calcs in the paragraph around a place."""
    first = text.rfind("\n\n", 0, place) + 1
    last = text.find("\n\n", place)
    calcs = index.INLINE.finditer(text[first : len(text) if last < 0 else last])
    return {_value(n) for m in calcs if m["calc"] for n in re.findall(r"=\s*['\"]?(\d[\d.]*(?:e-?\d+)?)", m["calc"])}


def _counting(number: str) -> bool:
    """Whether a bare number only counts, dates, or is a size in powers of two."""
    if YEAR.fullmatch(number):
        return True
    number = _value(number)
    if not number.isdigit():
        return False
    value = int(number)
    return value <= MOST_COUNTED or value & (value - 1) == 0


@lru_cache(maxsize=1)
def _names() -> re.Pattern[str]:
    """Names of models and cards with a number in them, as they are written in prose."""
    from core.catalog import gpus, models

    families = {re.split(r"[-_ ]", row.name)[0].lower() for row in models()}
    cards = {row.name.lower() for row in gpus()}
    cards |= {name.removeprefix(maker).strip() for name in cards for maker in ("nvidia ", "amd ", "intel ")}
    words = sorted({*cards, *families, "rtx", "gtx", "gpt", "llama", "geforce", "cuda"}, key=len, reverse=True)
    named = "|".join(re.escape(w) for w in words if w)
    return re.compile(rf"\b(?:{named})(?:[\s-]\d+(?:\.\d+)?)?(?:[\s-]\d+(?:\.\d+)?[BMbm]\b)?", re.IGNORECASE)


# --- links ------------------------------------------------------------------------------------------------------------


HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)


def heading_anchor(heading: str) -> str:
    """The anchor that a heading gets."""
    kept = "".join(c if c.isalnum() else "-" for c in heading.strip().lower())
    return re.sub(r"-+", "-", kept).strip("-")


def anchors(lesson: Lesson) -> set[str]:
    """Everything in a lesson that a link can lead to."""
    found = {cell.id for cell in lesson.cells if cell.id}
    for cell in lesson.cells:
        if cell.kind == "prose" and not cell.body.get("code"):
            found |= {
                heading_anchor(m[1]) for m in re.finditer(r"^#{1,6}\s+(.+?)\s*#*$", cell.body["text"], re.MULTILINE)
            }
    return found


@lru_cache(maxsize=1)
def view_addresses() -> frozenset[str]:
    """The addresses of the pages beside the lessons, read from app/views without importing it (and streamlit)."""
    path = Path(__file__).parent / "views" / "__init__.py"
    calls = (n for n in ast.walk(syntax.tree(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call))
    views = (n for n in calls if isinstance(n.func, ast.Name) and n.func.id == "View")
    return frozenset(str(n.args[0].value) for n in views if isinstance(n.args[0], ast.Constant))


def _lesson_at(address: str) -> Path | None:
    """The file of the lesson with that address, whether it can be read or not."""
    for path in sorted(index.ROOT.glob("*/lesson.md")):
        name = index.FOLDER.fullmatch(path.parent.name)
        if name is not None and name[2].replace("_", "-") == address:
            return path
    return None


def dead_links(text: str, lesson: Lesson) -> Iterator[tuple[int, str]]:
    """Links that lead nowhere: (place, sentence)."""
    shown = index.INLINE.sub(lambda m: " " * len(m[0]), text)
    for match in LINK.finditer(shown):
        if shown[match.start() - 1 : match.start()] == "!":
            continue  # a picture
        target = match[2]
        if target.startswith(("http://", "https://")):
            if not any(_same_page(target, url) for url in _cited(lesson)):
                yield match.start(), f"{target} is not among the lesson's references."
            continue
        page, _, anchor = target.partition("#")
        address = page.partition("?")[0].strip("/")
        if not page:
            if anchor not in anchors(lesson):
                yield match.start(), f"There is nothing called #{anchor} in this lesson."
        elif not page.startswith("/"):
            yield match.start(), f"The link {target} begins with neither / nor # nor https."
        elif address in view_addresses():
            continue
        else:
            path = lesson.folder / "lesson.md" if address == lesson.url_path else _lesson_at(address)
            if path is None:
                yield match.start(), f"There is no page {page!r}."
            elif anchor:
                other, _ = index.read(path, recorded=False)
                if other is not None and anchor not in anchors(other):
                    yield match.start(), f"There is nothing called #{anchor} in the lesson /{address}."


NUMBERED = re.compile(r"\b(lesson|claim)\s+(\d+)\b", re.IGNORECASE)


def dead_numbers(text: str) -> Iterator[tuple[int, str]]:
    """Lessons and claims that are named by a number which none of them has: (place, sentence)."""
    for match in NUMBERED.finditer(covered(text)):
        what, known = match[1].lower(), _numbers(match[1].lower())
        if int(match[2]) not in known:
            yield match.start(), f"There is no {what} {match[2]}; they go from {min(known)} to {max(known)}."


@lru_cache(maxsize=2)
def _numbers(what: str) -> frozenset[int]:
    """The numbers of all lessons, here and in the folder that is served, or of all claims."""
    if what == "claim":
        from core.catalog import FOLDER

        rows = tomllib.loads((FOLDER / "claims.toml").read_text(encoding="utf-8"))["claim"]
        return frozenset(int(row["number"]) for row in rows)
    own = Path(__file__).parent.parent / "lessons"
    names = [
        index.FOLDER.fullmatch(path.parent.name) for root in (own, index.ROOT) for path in root.glob("*/lesson.md")
    ]
    return frozenset(int(name[1]) for name in names if name is not None)


def _cited(lesson: Lesson) -> list[str]:
    papers = (cell.body.get("paper") for cell in lesson.cells if cell.kind == "source")
    return [str(r["url"]) for r in lesson.references] + [str(p["url"]) for p in papers if p]


def _same_page(one: str, other: str) -> bool:
    """Whether two addresses are of one page: without fragments, versions, and arXiv's several forms of a paper."""

    def plain(address: str) -> str:
        address = re.sub(r"^https?://(www\.)?", "", address.partition("#")[0]).rstrip("/")
        return re.sub(r"^(arxiv\.org)/(?:abs|pdf|html)/([\d.]+\d)(?:v\d+)?(?:\.pdf)?$", r"\1/abs/\2", address)

    return plain(one) == plain(other)


def _references(lesson: Lesson, texts: Iterable[Text]) -> Iterator[tuple[int, str]]:
    """References that nothing links to and that do not say what they are for."""
    linked = [m[2] for text in texts for m in LINK.finditer(text.text)]
    linked += [c.body["paper"]["url"] for c in lesson.cells if c.kind == "source" and c.body.get("paper")]
    for reference in lesson.references:
        if not reference.get("note") and not any(_same_page(reference["url"], url) for url in linked):
            yield (
                _front_line(lesson, reference["title"]),
                f"The reference {reference['title']!r} is used nowhere; link to it, or say in a note what it is for.",
            )


# --- acronyms ---------------------------------------------------------------------------------------------------------

ACRONYM = re.compile(r"(?<![\w.-])[A-Za-z]*[A-Z][A-Za-z]*\d*[A-Z0-9][A-Za-z0-9]*(?![\w]|-\d)")
KNOWN = frozenset(
    """CPU GPU GPUs CPUs RAM VRAM JSON JSONL CSV HTML URL PDF API ID OK US UK EU TB GB MB KB KiB MiB GiB TiB PC
    PyTorch CUDA NVIDIA AMD RTX GTX OpenAI GitHub LLaMA BERT GPT OPT PaLM README II III IV PhD SQL YAML ASCII
    UTF""".split()
)
"""Short forms that every reader of these lessons knows, units, and names that stand for nothing longer."""


def unspoken(texts: Iterable[Text]) -> Iterator[tuple[int, str]]:
    """Acronyms that are neither spelled out nor a term of the glossary where they are first used: (line, sentence).

    Titles, headings and the front matter do not count as a use.
    """
    known: set[str] = set()
    for text in texts:
        if not text.body:
            continue
        shown = re.sub(r"^#{1,6}\s.*$", lambda m: " " * len(m[0]), text.text, flags=re.MULTILINE)
        terms = [(m.start(), m["term"]) for m in index.INLINE.finditer(shown) if m["term"] is not None]
        blank = covered(shown)
        uses = [(m.start(), m[0], False) for m in ACRONYM.finditer(blank) if _is_acronym(m[0])]
        uses += [(place, a[0], True) for place, term in terms for a in ACRONYM.finditer(term)]
        for place, name, explained in sorted(uses):
            name = name[:-1] if name.endswith("s") and name[:-1].isupper() else name
            if name in known or name in KNOWN:
                continue
            known.add(name)
            if not explained and not _spelled_out(blank, place, name):
                yield (
                    text.at(place),
                    f"{name} is used here for the first time: spell it out, as in 'low-rank adaptation (LoRA)', or "
                    "make it a {term}.",
                )


def _is_acronym(word: str) -> bool:
    """Whether a word is mostly capitals: LoRA, RAG, NF4, VeRA; not BitFit or AdamW; no name such as A100 or W0."""
    capitals, letters = sum(c.isupper() for c in word), sum(c.isalpha() for c in word)
    return capitals >= 2 and 2 * capitals >= letters


def _spelled_out(text: str, place: int, name: str) -> bool:
    """'low-rank adaptation (LoRA)' or 'LoRA (low-rank adaptation)'."""
    before, after = text[:place], text[place + len(name) :]
    return bool(
        re.search(r"[\w’'-]+[\s-]+[\w’'-]+\s*\(\s*$", before)
        or re.match(r"s?\*{0,2}\s*\(\s*[A-Za-z]+[\s-]+[A-Za-z]", after)
    )


# --- answers told too early -------------------------------------------------------------------------------------------

UNIT_OF = re.compile(r"_(?:bytes|mib|seconds|ms)$")


def _spoilers(lesson: Lesson) -> Iterator[tuple[int, str]]:
    """Figures that a prediction asks for, told further down where whoever reads on sees them: (line, sentence).

    They may stand in the prediction itself, in the `finding` of what it is about (covered until then), and in what
    names the prediction in its `after`. Explanations of quizzes and predictions are not looked at: they come after an
    answer.
    """
    for guess in (cell for cell in lesson.cells if cell.kind == "predict"):
        body = guess.body
        of, what = "/".join(filter(None, (body["experiment"], body.get("run")))), UNIT_OF.sub("", body["what"])
        for cell in lesson.cells:
            if cell.line <= guess.line or guess.id in (cell.body.get("after") or ()):
                continue
            open_fields = OPEN_FIELDS + (("finding",) if cell.id != body["experiment"] else ())
            for text, line in _open_texts(cell, open_fields):
                for call, place in _figures(text):
                    names = [call.get(k) for k in ("run", "other", "probe")]
                    if of in names and UNIT_OF.sub("", str(call.get("what", ""))) == what:
                        at = line + text.count("\n", 0, place) if cell.kind == "prose" else line
                        yield (
                            at,
                            f"This tells what the prediction {guess.id!r} asks for, to whoever reads on before "
                            "answering: put it into a {reveal} after it.",
                        )


OPEN_FIELDS = ("text", "question")
"""Fields that are there to be read before anything is answered."""


def _open_texts(cell: Cell, fields: Iterable[str]) -> Iterator[tuple[str, int]]:
    """The texts of a cell in these fields, and of a quiz's choices and items, with their lines."""
    if cell.body.get("code") and cell.kind == "prose":
        return
    lines = cell.body.lines if isinstance(cell.body, Lined) else {}
    for field in fields:
        if isinstance(cell.body.get(field), str):
            yield cell.body[field], lines.get(field, cell.line)
    for choice in cell.body.get("choices") or ():
        yield str(choice.get("text", "")), lines.get("choices", cell.line)
    for item in cell.body.get("items") or ():
        yield str(item), lines.get("items", cell.line)


def _figures(text: str) -> Iterator[tuple[Mapping[str, Any], int]]:
    """The calcs in a text: their arguments and where they stand."""
    for match in index.INLINE.finditer(text):
        if match["calc"] is not None:
            yield calc.parse(match["calc"]).arguments, match.start()


# --- what is missing --------------------------------------------------------------------------------------------------


def _missing(lesson: Lesson) -> Iterator[tuple[int, str]]:
    for words, kinds, least in NEEDED:
        if sum(cell.kind in kinds for cell in lesson.cells) < least:
            yield 1, f"The lesson lacks {words}."
    if not lesson.summary_points:
        yield 1, "The lesson lacks its summary_points, the lines of the printed summary."


def _pictures(lesson: Lesson) -> Iterator[tuple[int, str]]:
    """Alt texts that say nothing."""
    for cell in lesson.cells:
        if cell.kind == "image" and _says_nothing(cell):
            yield cell.line, f"The alt text of {cell.body['file']} does not say what the picture shows."


def _says_nothing(cell: Cell) -> bool:
    words = str(cell.body["alt"]).split()
    return len(words) < 4 or Path(cell.body["file"]).stem.lower() == " ".join(words).lower()


def _stale(lesson: Lesson) -> Iterator[tuple[int, str]]:
    """Recorded results of something else than the lesson asks for now."""
    from app import recording

    for job in recording.jobs(lesson):
        why = recording.stale(lesson, job)
        if why:
            where = f"deltalab lessons record {lesson.slug} {job.name}"
            yield job.cell.line, f"The recorded result of {job.name} is {why}; record it again: {where}."
