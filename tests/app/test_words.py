"""The words of the interface: every language has the same keys and blanks, and none is written into the code."""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest

from app import charts_memory, form, tables, words
from app.views import VIEWS
from core.catalog import architecture_of, gpu
from core.claims import claims
from core.config import RunConfig
from core.counting import experts_note
from core.errors import BadInput
from core.guide import rule_book
from core.guide.evidence import UNMEASURED
from core.memory import predicted
from core.memory.card import other_kernels
from core.memory.compare import half_note
from core.memory.estimate import find
from core.memory.setup import Device, Setup
from core.methods import METHODS
from core.race import MEASURES
from core.rag import verdicts
from core.rag.experiment import ARMS, NEEDS
from core.world import SKILLS, TASKS

APP = Path(words.__file__).parent
OTHERS = [code for code in words.languages() if code != words.DEFAULT]

SAYS = {
    "title", "header", "subheader", "markdown", "caption", "write", "button", "download_button", "form_submit_button",
    "link_button", "page_link", "text_input", "text_area", "number_input", "slider", "select_slider", "selectbox",
    "multiselect", "radio", "checkbox", "toggle", "segmented_control", "pills", "file_uploader", "expander", "popover",
    "tabs", "error", "warning", "info", "success", "toast", "spinner", "metric", "progress", "status",
}  # fmt: skip


def spoken(node: ast.expr | None) -> bool:
    """Whether an argument is a text with a word in it that is written there."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and bool(
            re.search(r"[A-Za-z]{2}", re.sub(r":material/\w+:", "", node.value))
        )
    if isinstance(node, ast.JoinedStr):
        return any(spoken(part) for part in node.values if isinstance(part, ast.Constant))
    if isinstance(node, ast.IfExp):
        return spoken(node.body) or spoken(node.orelse)
    if isinstance(node, ast.BinOp):
        return spoken(node.left) or spoken(node.right)
    return isinstance(node, ast.List | ast.Tuple) and any(spoken(part) for part in node.elts)


def unmoved(path: Path) -> list[int]:
    """The lines of a file where a text is written into a call of Streamlit instead of app/locales."""
    out = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SAYS):
            continue
        if not (isinstance(node.func.value, ast.Name) and node.func.value.id in ("st", "localized")):
            continue
        told = [*node.args[:1], *(k.value for k in node.keywords if k.arg in ("label", "help", "placeholder", "text"))]
        if any(spoken(argument) for argument in told):
            out.append(node.lineno)
    return out


def test_words_are_in_the_locales() -> None:
    found = {str(path.relative_to(APP)): lines for path in APP.rglob("*.py") if (lines := unmoved(path))}
    assert found == {}, "write these words into app/locales, and say them with app.words.t"


DRAWS = {"title", "name", "text", "alt", "x_title", "y_title", "hovertemplate", "annotation_text", "ticktext"}
"""What a figure is given as a keyword and draws."""
TOLD = {"figure": (0, 1), "Chart": (0, 2), "Box": (1,)}
"""Calls of this project -> the places of their arguments that people read."""
SAID = {"title", "alt", "told"}
"""Names that hold a text until a figure is given it."""
KEPT = {"Bias"}
"""Words that are the same in every language."""
DRAWN = [
    "charts_memory", "charts_parameters", "charts_quantization", "charts_kernels", "charts_roofline", "charts_levels",
    "charts_validation", "block_drawing",
]  # fmt: skip
WORDS = re.compile(r"[A-Za-z]{2,}[ ,;:]+[A-Za-z]+|^\s*[a-z]{3,}[\s.:]*$")
COLUMN = re.compile(r"^[A-Z][a-z]+|\w \w")
"""What people read at the head of a column: names for machines have neither a capital nor a blank."""
NOT_WORDS = re.compile(r"%\{[^}]*\}|<[^>]*>|\b(?:GiB|GB|MB|GPUs|USD|TFLOP/s)\b")


def written(node: ast.expr | None) -> bool:
    """Whether an expression has words in it that are written there, other than keys of app/locales."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and bool(WORDS.search(NOT_WORDS.sub("", node.value)))
    if isinstance(node, ast.JoinedStr):  # in one piece: a tag of a drawing has blanks inside
        said = "".join(str(part.value) if isinstance(part, ast.Constant) else "0" for part in node.values)
        return bool(WORDS.search(NOT_WORDS.sub("", said))) or any(
            written(part.value) for part in node.values if isinstance(part, ast.FormattedValue)
        )
    if isinstance(node, ast.Call):  # of " ".join(…) what is joined; a key of t is not drawn
        return isinstance(node.func, ast.Attribute) and node.func.attr == "join" and any(map(written, node.args))
    if isinstance(node, ast.Dict | ast.Compare | ast.Subscript | ast.Name | ast.Attribute):
        return False
    if isinstance(node, ast.IfExp):
        return written(node.body) or written(node.orelse)
    if node is None:
        return False
    return any(written(child) for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr))


def drawn(source: str) -> list[int]:
    """The lines of a file of figures where words are written that people read."""
    out = []
    tree = ast.parse(source)
    constants = {part for one in tree.body if isinstance(one, ast.AnnAssign | ast.Assign) for part in ast.walk(one)}
    for node in ast.walk(tree):
        told: list[ast.expr] = []
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            told = [node.args[place] for place in TOLD.get(name, ()) if place < len(node.args)]
            told += [k.value for k in node.keywords if k.arg in DRAWS]
        elif isinstance(node, ast.Assign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            told = [node.value] if any(isinstance(one, ast.Name) and one.id in SAID for one in targets) else []
        elif isinstance(node, ast.Dict) and node not in constants:
            keys = [k.value for k in node.keys if isinstance(k, ast.Constant) and isinstance(k.value, str)]
            out += [node.lineno for key in keys if COLUMN.search(key) and key not in KEPT]
        elif isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
            told = [node] if "<text" in str(node.values[0].value) else []
        if any(map(written, told)):
            out.append(node.lineno)
    return out


@pytest.mark.parametrize("name", DRAWN)
def test_words_of_figures_are_in_the_locales(name: str) -> None:
    assert drawn((APP / f"{name}.py").read_text(encoding="utf-8")) == [], "say them with app.words.t"


@pytest.mark.parametrize(
    "source",
    [
        'figure("usable memory, GiB", "")',
        'figure("GiB", t("a.b") if one else "largest batch")',
        'go.Scatter(name=f"levels of {form.title}")',
        'go.Scatter(name="quantiles")',
        'go.Bar(hovertemplate="level %{x:.3f}: %{y:.1f} % of all<extra></extra>")',
        'go.Bar(text=[f"{r.name}: {r.launches} launches a step" for r in rows])',
        'title = f"{count} of {all} methods fit"',
        'alt = "Bars of all. " + " ".join(f"{r.name}: saved by fusing." for r in rows)',
        'Chart(t("a.b"), fig, "No matrix has a spread.", table)',
        'Box("head", "output layer", 1, 2, 3)',
        '{"Largest batch": 1}',
        'pd.DataFrame({"bytes saved": [1]})',
    ],
)
def test_words_in_a_figure_would_be_found(source: str) -> None:
    assert drawn(source) == [1]


@pytest.mark.parametrize("code", OTHERS)
def test_a_language_has_every_key_with_the_same_blanks(code: str) -> None:
    english, other = words.catalogue(words.DEFAULT), words.catalogue(code)
    assert set(other) == set(english)
    for key, text in english.items():
        assert sorted(words.BLANK.findall(other[key])) == sorted(words.BLANK.findall(text)), key
        assert text.strip(), key
        assert other[key].strip(), key


@pytest.mark.parametrize("code", OTHERS)
def test_a_language_is_a_translation(code: str) -> None:
    """Nearly every longer text differs from the English one."""
    english, other = words.catalogue(words.DEFAULT), words.catalogue(code)
    same = [key for key, text in english.items() if len(text.split()) > 3 and other[key] == text]
    assert same == []


def test_every_key_that_the_code_names_is_there_and_every_key_is_named() -> None:
    source = "\n".join(p.read_text(encoding="utf-8") for p in APP.rglob("*.py"))
    keys = set(words.catalogue(words.DEFAULT))
    stems = {re.sub(r"\.(one|other)$", "", key) for key in keys}
    named = set(re.findall(r"""\b[tn]\(\s*f?["']([a-z_.]+)["']""", source))
    assert {key for key in named if key not in stems} == set()
    quoted = set(re.findall(r"""["']([a-z_]+\.[a-z_.]+)["']""", source))
    made = {f"{prefix}." for prefix in re.findall(r"""["']([a-z_]+(?:\.[a-z_]+)*)\.\{""", source)}
    unused = {s for s in stems if s not in quoted and not any(s.startswith(prefix) for prefix in made)}
    assert unused - {"language.name"} == set()


def test_blanks_plurals_and_what_is_missing() -> None:
    assert words.said("en", "home.continue", title="A {b}") == "Continue: A {b}"
    assert words.said("de", "home.continue", title="X") == "Weiter: X"
    assert words.n("home.steps", 1) == "1 step"
    assert words.n("home.steps", 1200) == "1,200 steps"
    with pytest.raises(BadInput, match=r"home\.nothing"):
        words.said("en", "home.nothing")


def test_every_page_has_a_name_and_a_sentence_in_every_language() -> None:
    for code in words.languages():
        for view in VIEWS:
            name = view.url_path or "course"
            assert words.said(code, f"page.{name}.title")
            assert words.said(code, f"page.{name}.summary").endswith((".", "?", ")"))
            if view.section:
                assert words.said(code, f"menu.{view.section}")


def said_by_core() -> set[str]:
    """Names, sentences and reasons of every method, knob and term of memory, as core says them."""
    terms = {*charts_memory.TERMS, *charts_memory.OTHERS, predicted.ONE_TERM, "gradient buckets"}
    found = terms - set(charts_memory.SAID)
    found |= {text for m in MEASURES for text in (m.title, m.unit) if len(text) > 3 and "/" not in text}
    found |= {text for task in TASKS.values() for text in (task.title, task.summary)}
    found |= {skill.replace("_", " ") for skill in SKILLS}
    found |= {verdicts.CONFIRMED, verdicts.NOT_CONFIRMED, verdicts.UNDECIDED, verdicts.UNKNOWN}
    found |= {need.title for need in NEEDS.values()} | set(ARMS.values()) - {"RAG", "RAFT", "RAG + LoRA"}
    for name, method in METHODS.items():
        found |= {method.SUMMARY, method.INFERENCE}
        for knob in form.knobs(RunConfig(method=name)):
            found |= {knob.label, knob.meta["doc"], knob.meta.get("why") or ""}
    return found - {""}


def said_above_columns() -> set[str]:
    """Heads that a figure's table may have: what `tables` makes of every name in the files of figures."""
    found = {*tables.HEADS.values(), *tables.SAID.values(), *tables.UNITS.values()}
    for path in APP.glob("charts*.py"):
        for name in re.findall(r'"([a-z][a-z0-9_]*)"', path.read_text(encoding="utf-8")):
            said = tables.head(name)
            found |= {said, said.rpartition(", ")[0]}
    return found


def written_in_core() -> str:
    """Every text in core and its catalogues, in small letters, each blank as {}."""
    found: list[str] = []
    for path in (APP.parent / "core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(words.BLANK.sub("{}", node.value))
            elif isinstance(node, ast.JoinedStr):
                parts = (str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
                found.append("".join(parts))
    found += [path.read_text(encoding="utf-8") for path in (APP.parent / "core" / "catalog").glob("*.toml")]
    return re.sub(r"(\{\})+", "{}", "\n".join(found)).lower()


def pieces(entry: str) -> list[str]:
    """What of an entry has to stand in core: it may be put together at a semicolon, and around what is filled in."""
    said = words.BLANK.sub("{}", entry).lower()
    return [part.removeprefix("{}").removesuffix("{}").strip() for part in said.split("; ")]


def said_still(entry: str, source: str) -> bool:
    """Whether core says it. An entry that spells out a phrase which core puts in stands nowhere as a whole: of its
    words most do, with the word behind."""
    if all(piece in source for piece in pieces(entry)):
        return True
    runs = [run.split() for run in words.BLANK.sub("{}", entry).lower().split("{}")]
    pairs = [" ".join(pair) for run in runs for pair in pairwise(run)]
    return sum(pair in source for pair in pairs) >= len(pairs) / 2


def said_of_rules_and_claims() -> set[str]:
    """What the guide asks, answers and gives as reasons; the claims; and what became of them."""
    book = rule_book()
    found = {q.ask for q in book.questions.values()} | {o for q in book.questions.values() for o in q.options.values()}
    found |= {text for rule in book.rules for text in (rule.because, rule.instead)}
    found |= {conflict.says for conflict in book.conflicts} | {paper.found for paper in book.references.values()}
    return (found | {UNMEASURED} | {c.text for c in claims()} | {c.told for c in claims()}) - {""}


@pytest.mark.parametrize("code", OTHERS)
def test_what_core_says_is_said_in_every_language(code: str) -> None:
    """And nothing that it says no longer: a changed sentence has to be translated anew."""
    known = said_by_core()
    assert known - set(words.engine(code)) == set()
    source = written_in_core()
    others = set(words.engine(code)) - known - said_above_columns()
    assert {text for text in others if not said_still(text, source)} == set()
    same = [text for text, other in words.engine(code).items() if len(text.split()) > 2 and other == text]
    assert same == []
    assert all(words.engine(code).values())


@pytest.mark.parametrize("code", OTHERS)
def test_rules_and_claims_are_said_in_every_language(code: str) -> None:
    assert [text for text in said_of_rules_and_claims() if words.of_core(code, text) == text] == []


@pytest.mark.parametrize("code", OTHERS)
def test_a_sentence_of_core_has_the_same_blanks(code: str) -> None:
    for english, other in words.engine(code).items():
        assert sorted(set(words.BLANK.findall(other))) == sorted(set(words.BLANK.findall(english))), english


@pytest.mark.parametrize(
    ("english", "german"),
    [
        ("rank must be at most 256, not 300.", "rank darf höchstens 256 sein, nicht 300."),
        ("16,000 instead of 1,000,000: 98.4 % fewer.", "16\u202f000 statt 1\u202f000\u202f000: 98,4 % weniger."),
        ("up to Phi-1.5 with LoRA", "LoRA bis Phi-1.5"),
        ("Weights of Llama 3.1 are a thing nobody has translated.", None),
        ("rank must be at most 256, not 300. Nobody has translated this one.", None),
        ("Nothing to search", None),
    ],
)
def test_numbers_and_names_go_into_the_blanks_of_a_sentence(english: str, german: str | None) -> None:
    assert words.of_core("de", english) == (german or english)


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_notes_of_the_calculators_are_said_in_german(method: str) -> None:
    setup = Setup(method, METHODS[method].Config(), 1, 1024, device=Device.of("7.5"))
    notes = [
        experts_note(architecture_of("Mixtral-8x7B"), method), half_note(lambda asked: None, setup),
        half_note(lambda asked: find("Llama-3.1-8B", asked), setup), other_kernels(gpu("MI300X")),
    ]  # fmt: skip
    told = [words.of_core("de", note) for note in notes]
    assert told[0].startswith("45\u202f097\u202f156\u202f608 der Gewichte sind Experten")
    assert ("bleiben in 16 Bit" in told[0]) == (method == "qlora")
    assert "einer späteren Karte; die" in told[1]
    assert re.search(r"einer späteren Karte: \d+,\d GiB; die", told[2])
    assert "die von MI300X sind andere" in told[3]
    assert not any(re.search(r"\b(?:the|pairs|card)\b", said) for said in told)


def test_an_entry_of_core_that_two_files_have_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "xx" / words.ENGINE
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        (folder / f"{name}.toml").write_text(f'"Rank" = "Rang"\n"{name}" = "x"\n', encoding="utf-8")
    monkeypatch.setattr(words, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match="xx/engine has Rank twice"):
        words.engine("xx")


def test_what_stands_in_a_blank_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(words, "_known", lambda code, text: asked.append(text))
    assert words._blank("de", "nobody has translated this") == "nobody has translated this"
    assert asked == ["nobody has translated this"]
    asked.clear()
    words._blank("de", "a, b")
    assert asked == ["a", "b", "a, b"]


def test_what_core_says_is_english_where_no_page_is_drawn() -> None:
    assert words.engine(words.DEFAULT) == {}
    assert words.from_core("frozen weights") == "frozen weights"
