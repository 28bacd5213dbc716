"""The decision guide's rules, by written scenarios: people with a need, and what they should be told."""

from __future__ import annotations

import itertools
import json
import random
import shlex

import pytest

from core.cli import main, parser
from core.errors import BadInput
from core.export.link import from_parameters
from core.guide import answers_of, decide, rule_book, sensitivity
from core.guide.decide import BOTH, DEEP, PROMPTING, RAG, TUNING, references
from core.guide.evidence import UNMEASURED, measured
from core.guide.method import CARDS, MODELS, choose
from core.guide.plan import markdown, memory_line, playground_link, vram_link
from core.guide.rules import PULLS, read

BOOK = rule_book()

# (who, their answers, what they should be told)
SCENARIOS = [
    # --- facts ---
    ("a help desk over a manual that changes daily",
     "knowledge=many changes=daily sources=must invention=trouble", RAG),
    ("a shop's stock and prices", "knowledge=many changes=daily format=free tone=some", RAG),
    ("a law firm that must cite", "knowledge=many changes=monthly sources=must invention=never data=none", RAG),
    ("a hospital's guidelines",
     "knowledge=many changes=monthly sources=must invention=never domain=jargon data=tens", RAG),
    ("an archive that never changes, with sources", "knowledge=many changes=never sources=must", RAG),
    ("an archive nobody has to cite", "knowledge=many changes=never sources=no data=none", RAG),
    ("a personnel office with rights", "knowledge=many changes=monthly rights=differ data=none", RAG),
    ("a bank that must be able to delete", "knowledge=few rights=differ changes=never", RAG),
    ("a wiki of a company", "knowledge=many sources=nice invention=trouble latency=relaxed", RAG),
    ("a few pages of house rules", "knowledge=few changes=never sources=no invention=little", PROMPTING),
    ("a few pages that change daily", "knowledge=few changes=daily", PROMPTING),
    ("a few pages that change monthly, no sources", "knowledge=few changes=monthly sources=no", PROMPTING),
    ("a few pages that change daily, to be cited", "knowledge=few changes=daily sources=must", RAG),
    ("a few pages with a source to show", "knowledge=few changes=never sources=must", RAG),
    ("one to whom invention must not happen", "knowledge=many invention=never", RAG),
    ("rare parts in a catalogue, no examples", "knowledge=many changes=never data=none invention=trouble", RAG),
    ("a settled body of facts, with solved questions", "knowledge=many changes=never sources=no data=hundreds", RAG),
    # --- form ---
    ("an extractor of invoices to JSON", "knowledge=none format=strict data=hundreds domain=near", TUNING),
    ("a generator of database queries", "knowledge=none format=strict data=hundreds latency=quick", TUNING),
    ("a brand's voice", "knowledge=none tone=strong data=hundreds format=free", TUNING),
    ("a game's characters", "knowledge=none tone=strong data=tens hardware=gpu8 model=small", TUNING),
    ("notes in a clinic's shorthand", "knowledge=none domain=jargon data=hundreds format=loose", TUNING),
    ("a classifier of tickets on a phone", "knowledge=none format=strict data=hundreds latency=edge", TUNING),
    ("a persona on a device without a network", "knowledge=none tone=strong data=hundreds latency=edge", TUNING),
    ("a report that people read", "knowledge=none format=loose tone=some data=tens domain=near", PROMPTING),
    ("a loose form, for many users, with examples",
     "knowledge=none format=loose tone=some domain=near latency=quick data=hundreds", PROMPTING),
    ("the same, with the voice of a brand",
     "knowledge=none format=loose tone=strong domain=near latency=quick data=hundreds", TUNING),
    ("a few changing pages, as JSON", "knowledge=few changes=daily format=strict data=hundreds", TUNING),
    ("a few changing pages, and a far language", "knowledge=few changes=daily tone=some domain=far data=raw "
     "hardware=several", DEEP),
    ("an assistant with a friendly word", "knowledge=none format=free tone=some domain=near", PROMPTING),
    ("a summary now and then", "knowledge=none format=free tone=no domain=near data=none", PROMPTING),
    # --- both ---
    ("answers from documents, as JSON", "knowledge=many changes=daily format=strict data=hundreds", BOTH),
    ("product advice in the brand's voice", "knowledge=many changes=monthly tone=strong data=hundreds", BOTH),
    ("a lawyer's bot in house style with sources", "knowledge=many sources=must tone=strong data=hundreds", BOTH),
    ("medical coding with guidelines", "knowledge=many domain=jargon format=strict data=hundreds sources=must", BOTH),
    ("a jargon, much text of facts and sources", "knowledge=many domain=jargon data=hundreds sources=must", BOTH),
    ("many users, strict form, changing facts",
     "knowledge=many changes=daily format=strict latency=quick data=hundreds",
     BOTH),
    # --- deeper ---
    ("a small language with much text", "domain=far data=raw hardware=several model=medium knowledge=none", DEEP),
    ("a field of its own, with facts to cite",
     "domain=far data=raw hardware=several knowledge=many sources=must", DEEP),
    ("a language on one large card", "domain=far data=raw hardware=gpu80 model=small", DEEP),
    ("a language on a laptop", "domain=far data=raw hardware=cpu knowledge=none", PROMPTING),
    ("a far field, hundreds of examples, a format", "domain=far data=hundreds format=strict knowledge=none", TUNING),
    ("a far field, few examples, facts", "domain=far data=tens knowledge=many", RAG),
    # --- not possible ---
    ("a strict form behind somebody's interface",
     "format=strict data=hundreds hardware=none knowledge=none", PROMPTING),
    ("facts and form behind an interface", "knowledge=many changes=daily format=strict data=hundreds hardware=none",
     RAG),
    ("a strict form, not one example", "format=strict data=none knowledge=none", PROMPTING),
    ("facts on a device without an index", "knowledge=many changes=never latency=edge", PROMPTING),
    ("facts and form on a device", "knowledge=many format=strict data=hundreds latency=edge", TUNING),
    # --- contradictory ---
    ("sources of nothing", "knowledge=none sources=must", PROMPTING),
    ("nothing missing, but it changes", "knowledge=none changes=daily format=free tone=no domain=near", PROMPTING),
    ("daily facts on a lone device, with sources", "knowledge=many changes=daily sources=must latency=edge", PROMPTING),
    ("rights on a lone device", "knowledge=many rights=differ latency=edge", PROMPTING),
    ("a huge model on a laptop", "model=huge hardware=cpu format=strict data=hundreds", TUNING),
    ("another language behind somebody's interface", "domain=far data=raw hardware=none knowledge=none", PROMPTING),
    ("nothing may leave, and the model is elsewhere", "knowledge=many leaves=no hardware=none", RAG),
    ("never invent, never measured", "invention=never data=none knowledge=many", RAG),
    # --- incomplete ---
    ("somebody who says nothing", "", PROMPTING),
    ("somebody who only knows that facts change daily", "changes=daily", PROMPTING),
    ("somebody who only has a card", "hardware=gpu24", PROMPTING),
    ("somebody who only wants JSON", "format=strict", TUNING),
    ("somebody who only has documents", "knowledge=many", RAG),
    ("somebody who only needs sources", "sources=must", RAG),
    ("somebody with documents and a voice", "knowledge=many tone=strong", BOTH),
]  # fmt: skip


def given(text):
    return answers_of(dict(pair.split("=") for pair in text.split()))


@pytest.mark.parametrize(("who", "text", "wanted"), SCENARIOS, ids=[who for who, _, _ in SCENARIOS])
def test_scenario(who, text, wanted):
    answers = given(text)
    found = decide(answers)
    assert found.approach == wanted, (found.points, [r.rule.id for r in found.reasons])
    if wanted != PROMPTING:
        assert found.reasons, "a recommendation has a reason"
    assert set(found.open) == set(BOOK.questions) - set(answers)


def test_there_are_enough_scenarios_and_every_rule_is_in_one():
    assert len(SCENARIOS) >= 40
    told = {text for _, text, _ in SCENARIOS}
    assert len(told) == len(SCENARIOS)
    held = {rule.id for text in told for rule in BOOK.rules if rule.when.holds(given(text))}
    assert held == {rule.id for rule in BOOK.rules}
    conflicts = {c.says for text in told for c in BOOK.conflicts if c.when.holds(given(text))}
    assert len(conflicts) == len(BOOK.conflicts)


def test_contradictory_answers_are_said_and_still_answered():
    found = decide(given("knowledge=many changes=daily sources=must latency=edge"))
    assert len(found.conflicts) == 2
    assert [(pull, rule.id) for pull, rule in found.lacking] == [("rag", "no-place-for-an-index")]
    assert "no-place-for-an-index" in [r.rule.id for r in found.reasons]
    assert not decide(given("knowledge=many changes=daily")).conflicts


def test_what_is_called_for_and_not_possible_is_not_passed_over():
    found = decide(given("knowledge=many changes=daily format=strict data=hundreds hardware=none"))
    assert (found.approach, [pull for pull, _ in found.lacking]) == (RAG, ["tune"])
    assert "provider's own fine-tuning" in found.lacking[0][1].instead
    quiet = decide(given("knowledge=many hardware=none"))
    assert quiet.lacking == ()
    assert "no-way-to-train" not in [r.rule.id for r in quiet.reasons], "nobody called for training"


# --- whether what is open matters -------------------------------------------------------------------------------------

WHOLE = (
    "knowledge=many changes=daily sources=must rights=same format=free tone=no domain=near invention=trouble "
    "data=none latency=relaxed model=medium hardware=gpu24"
)
REPORT = "knowledge=none format=loose tone=some domain=near sources=no rights=same invention=little changes=never"

# (answers, answers to open questions that together change the recommendation; none: nothing open could)
OPEN = [
    (WHOLE, ""),
    (WHOLE.replace(" model=medium hardware=gpu24", ""), ""),  # neither could change it
    (WHOLE.replace(" data=none latency=relaxed", ""), "latency=edge"),
    ("", "domain=jargon latency=quick"),
    ("knowledge=many", "latency=edge"),
    ("knowledge=none format=free tone=no sources=no rights=same invention=little changes=never",
     "domain=jargon latency=quick"),
    ("format=strict data=hundreds hardware=gpu24", "domain=jargon invention=never"),
    (REPORT, ""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "change"), OPEN)
def test_it_says_whether_open_questions_could_change_it_one_by_one_or_together(text, change):
    answers = given(text)
    found = decide(answers)
    assert found.certain is (not change)
    if change:
        assert decide({**answers, **found.change}).title == found.instead != found.title
        assert len(found.change) <= len(given(change)), "as few as are needed"
        assert decide({**answers, **given(change)}).title != found.title, "the example is one"
        for key in found.change:
            fewer = {k: v for k, v in found.change.items() if k != key}
            assert decide({**answers, **fewer}).title == found.title, "none could be left out"


def test_certain_is_what_trying_every_way_to_answer_finds():
    """Against brute force, at answers drawn by lot, of which few enough are left open."""
    rng = random.Random(0)
    asked = {key for rule in BOOK.rules for key in rule.when.wanted}
    together = kinds = 0
    for _ in range(150):
        answers = {key: rng.choice(list(q.options)) for key, q in BOOK.questions.items() if key in asked}
        left = rng.sample(sorted(asked), 3)
        for key in left:
            del answers[key]
        now = decide(answers)
        ways = itertools.product(*(["", *BOOK.questions[key].options] for key in left))
        ends = {decide({**answers, **dict(zip(left, way, strict=True))}).title for way in ways}
        assert now.certain is (ends == {now.title}), answers
        together += len(now.change) > 1
        kinds += now.certain
    assert together >= 2, "the lot has drawn some that only together change it"
    assert 10 < kinds < 140


def test_a_plan_and_the_command_say_what_only_together_would_change(capsys):
    text = OPEN[5][0]
    answers = given(text)
    assert "Answers to several open questions together: " in markdown(answers, decide(answers))
    assert main(["guide", *text.split(), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["certain"] is False
    assert len(told["together"]) == 2
    assert told["instead"] == "Fine-tuning"


def test_sensitivity_lists_exactly_the_single_changes_that_matter():
    answers = given("knowledge=many changes=daily format=strict data=hundreds hardware=gpu24")
    now = decide(answers).title
    expected = set()
    for key, question in BOOK.questions.items():
        for option in question.options:
            if option != answers.get(key) and decide({**answers, key: option}).title != now:
                expected.add((key, option))
    found = sensitivity(answers)
    assert {(s.question, s.answer) for s in found} == expected
    assert expected, "something would"
    assert all(s.title == decide({**answers, s.question: s.answer}).title for s in found)
    assert [s.known for s in found] == sorted((s.known for s in found), reverse=True)


def test_every_combination_of_the_main_answers_gets_an_approach_and_a_plan_that_says_why():
    keys = ("knowledge", "format", "data", "hardware", "latency")
    for options in itertools.product(*(BOOK.questions[k].options for k in keys)):
        answers = dict(zip(keys, options, strict=True))
        found = decide(answers)
        strong = {p for p in PULLS if found.points[p] >= BOOK.strong}
        if found.approach == PROMPTING:
            assert strong - {p for p, _ in found.lacking} <= {"prompt"}
        assert not (found.tunes and (answers["hardware"] == "none" or answers["data"] == "none"))
        assert not (found.retrieves and answers["latency"] == "edge")


# --- rules as data ----------------------------------------------------------------------------------------------------


def test_every_measured_key_of_a_rule_is_in_the_recorded_experiment():
    for rule in BOOK.rules:
        assert len(measured(rule)) == len(rule.measured), rule.id


def test_every_reference_has_what_is_needed_to_check_it():
    used = {key for rule in BOOK.rules for key in rule.literature}
    assert used <= set(BOOK.references)
    for paper in BOOK.references.values():
        assert paper.url.startswith("https://")
        assert 2000 < paper.year <= 2026
        assert "abstract" in paper.where or "table" in paper.where
        assert paper.title and paper.authors and paper.found.endswith(".")  # noqa: PT018
    papers = references(decide(given("knowledge=many tone=strong")))
    assert [p.key for p in papers] == list(dict.fromkeys(p.key for p in papers))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[[rules]]\nid = "a"\nwhen = { no = ["x"] }\npoints = { rag = 1 }\nbecause = "b"', "no answer"),
        ('[[rules]]\nid = "a"\nwhen = { q = ["y"] }\npoints = { rag = 1 }\nbecause = "b"', "no answer"),
        ('[[rules]]\nid = "a"\nwhen = { q = ["x"] }\nbecause = "b"', "no effect"),
        ('[[rules]]\nid = "a"\nwhen = { q = ["x"] }\npoints = { magic = 1 }\nbecause = "b"', "unknown field or pull"),
        (
            '[[rules]]\nid = "a"\nwhen = { q = ["x"] }\npoints = { rag = 1 }\nbecause = "b"\nliterature = ["z"]',
            "no reference",
        ),
    ],
)
def test_a_mistake_in_the_rules_is_found(text, says):
    with pytest.raises(ValueError, match=says):
        read('strong = 3\n[[questions]]\nkey = "q"\nask = "?"\n[questions.options]\nx = "X"\n' + text)


def test_unknown_answers_are_refused_all_at_once():
    with pytest.raises(BadInput) as told:
        answers_of({"knowledge": "lots", "colour": "red", "tone": "strong"})
    assert "knowledge is one of none, few, many, not 'lots'" in told.value.sentence
    assert "no question 'colour'" in told.value.sentence
    assert answers_of({"tone": "", "data": None}) == {}


# --- method, links, plan ----------------------------------------------------------------------------------------------


# (answers, method ("" if nothing fits), card, how many share a step, a part of the sentence)
METHODS = [
    ("format=strict data=hundreds model=medium hardware=gpu8", "", CARDS["gpu8"], 1, "Take a smaller model"),
    ("format=strict data=hundreds model=medium hardware=gpu24", "qlora", CARDS["gpu24"], 1, "and it fits"),
    ("format=strict data=hundreds model=medium hardware=gpu48", "lora", CARDS["gpu48"], 1, "and it fits"),
    ("format=strict data=hundreds model=medium hardware=gpu80", "lora", CARDS["gpu80"], 1, "and it fits"),
    ("format=strict data=hundreds", "qlora", CARDS["gpu16"], 1, "Nothing is said about hardware"),
    ("format=strict data=hundreds hardware=cpu", "lora", "cpu", 1, "takes days"),
    ("format=strict data=hundreds model=huge hardware=several", "lora", CARDS["several"], 4, "ZeRO-3 (FSDP)"),
    ("format=strict data=hundreds model=medium hardware=several", "lora", CARDS["several"], 1, "and it fits"),
    ("domain=far data=raw hardware=gpu80 model=small", "full", CARDS["gpu80"], 1, "and it fits"),
    ("domain=far data=raw hardware=gpu80 model=medium", "", CARDS["gpu80"], 1, "2 such cards hold it"),
    ("domain=far data=raw hardware=gpu48 model=large", "", CARDS["gpu48"], 1, "Llama-3.2-1B fits on one"),
    ("domain=far data=raw hardware=several model=medium", "full", CARDS["several"], 2, "ZeRO-3 (FSDP)"),
    ("domain=far data=raw hardware=several model=huge", "full", CARDS["several"], 32, "activations recomputed"),
    ("domain=far data=raw", "full", CARDS["gpu80"], 2, "Nothing is said about hardware"),
    ("domain=far data=raw model=small", "full", CARDS["gpu24"], 1, "Nothing is said about hardware"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "method", "card", "gpus", "says"), METHODS)
def test_the_method_is_what_the_calculator_says_fits(text, method, card, gpus, says):
    answers = given(text)
    found = decide(answers)
    choice = choose(found, answers)
    assert (choice.method, choice.gpu, choice.gpus) == (method, card, gpus), choice.because
    assert says in choice.because
    assert choice.model == MODELS[answers.get("model", "medium")]
    if found.approach == DEEP:
        assert choice.tried == "full", "continued pre-training moves all weights, or nothing"
        assert "LoRA of" not in choice.because


def test_no_method_where_nothing_is_trained():
    assert choose(decide(given("knowledge=many")), given("knowledge=many")) is None
    for _, text, _ in SCENARIOS:
        answers = given(text)
        found = decide(answers)
        choice = choose(found, answers)
        assert (choice is None) is not found.tunes
        if found.approach == DEEP:
            assert choice.tried == "full"


@pytest.mark.parametrize("text", [text for text, *_ in METHODS])
def test_the_plans_command_asks_about_the_same_step(text):
    answers = given(text)
    choice = choose(decide(answers), answers)
    line = memory_line(choice)
    assert line in markdown(answers, decide(answers))
    asked = parser().parse_args(shlex.split(line)[1:])
    assert (asked.model, asked.method, asked.gpu, asked.gpus) == (choice.model, choice.tried, choice.gpu, choice.gpus)
    assert asked.zero == (3 if choice.gpus > 1 else 0)
    assert asked.settings == (["gradient_checkpointing=true"] if choice.recomputed else [])


def test_the_links_are_the_tools_own():
    answers = given("knowledge=none tone=strong data=hundreds hardware=gpu24 model=medium")
    found = decide(answers)
    choice = choose(found, answers)
    config = from_parameters(playground_link(found, answers, choice))
    assert (config.task, config.method) == ("persona", "qlora")
    assert playground_link(decide({}), {}, None) is None
    assert vram_link(None) is None
    deep = given("domain=far data=raw hardware=gpu80 model=medium")
    link = playground_link(decide(deep), deep, choose(decide(deep), deep))
    assert from_parameters(link).method == "full", "not LoRA, where the page says all weights"


def test_the_plan_that_is_taken_away_has_whole_addresses():
    answers = given("format=strict data=hundreds leaves=no")
    text = markdown(answers, decide(answers), address="http://host:8501")
    assert "http://host:8501/playground" in text
    assert "http://host:8501/vram?" in text
    assert "Nothing may leave the house" in text
    bare = markdown(answers, decide(answers))
    assert "put its address in front" in bare


def test_a_rule_without_a_measurement_is_called_a_judgement():
    answers = given("knowledge=few changes=never")
    assert UNMEASURED in markdown(answers, decide(answers))
    judged = [rule for rule in BOOK.rules if not rule.measured]
    assert judged
    assert all(measured(rule) == [] for rule in judged)
    (rule,) = (rule for rule in BOOK.rules if rule.id == "train-the-reader")
    told = " ".join(measured(rule))
    assert "RAFT" in told
    assert "invented" in told, "what it costs is said beside what it gains"
    (rule,) = (rule for rule in BOOK.rules if rule.id == "many-facts")
    assert all("questions)" in text for text in measured(rule)), "with how many questions, and the interval"


def test_the_plan_says_answers_reasons_steps_and_what_would_change_it():
    answers = given("knowledge=many changes=daily format=strict data=hundreds hardware=gpu24 model=medium sources=must")
    text = markdown(answers, decide(answers))
    for part in (
        "# Plan: Retrieval and fine-tuning", "Measured here: ", "deltalab rag index", "deltalab rag raft",
        "deltalab memory --model Llama-3.1-8B --method qlora", "/playground?",
        "/vram?from=catalogue&model=Llama-3.1-8B", "## What would change this", "arXiv:2312.05934",
    ):  # fmt: skip
        assert part in text, part
    assert "(no answer)" in text
    odd = given("knowledge=none sources=must")
    assert "Answers that do not go together" in markdown(odd, decide(odd))


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_answers_in_words_json_and_markdown(capsys, tmp_path):
    assert main(["guide", "knowledge=many", "changes=daily", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["approach"] == RAG
    assert told["certain"] is False
    assert {r["rule"] for r in told["reasons"]} == {"many-facts", "daily-changes"}
    assert all(r["measured"] for r in told["reasons"])
    assert main(["guide", "format=strict", "data=hundreds", "--plan", str(tmp_path / "plan.md")]) == 0
    assert capsys.readouterr().out.startswith("Fine-tuning")
    assert (tmp_path / "plan.md").read_text(encoding="utf-8").startswith("# Plan: Fine-tuning")
    assert main(["guide", "--questions", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == set(BOOK.questions)
    assert main(["guide", "knowledge"]) == 2
    assert "An answer is QUESTION=ANSWER" in capsys.readouterr().err
    assert main(["guide", "knowledge=lots", "--json"]) == 2
    assert "knowledge is one of" in capsys.readouterr().err


def test_without_answers_the_command_asks_and_asks_again(capsys, monkeypatch):
    said = iter(["3", "nonsense", "9", "", *[""] * 20])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: next(said))
    assert main(["guide"]) == 0
    out = capsys.readouterr().out
    assert "A number from 1 to 3, or nothing." in out
    assert "Retrieval (RAG) (what is not answered yet could change that)" in out
