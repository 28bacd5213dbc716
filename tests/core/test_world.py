"""The small world: seeded generators, exact graders, splits that never meet, and a corpus without the tasks."""

import dataclasses
import json
import random
import subprocess
import sys

import pytest

from core.world import KNOWN, NEWCOMERS, SKILLS, TASKS, Example, examples, grade, hopeful, lookup, passage_prompt
from core.world.corpus import FORMATS, PRETRAINING, draw
from core.world.item import same_text
from core.world.people import (
    ATTRIBUTES,
    FIRST_NAMES,
    HELDOUT_NAMES,
    LAST_NAMES,
    QUESTIONS,
    STATEMENTS,
    TRAIN_NAMES,
    VALUES,
    question,
    question_wordings,
    statement,
)
from core.world.tasks import SHORTHAND

NAMES = [*SKILLS, *TASKS]


@pytest.fixture(scope="module")
def corpus() -> list[Example]:
    """A large sample of what pre-training sees, from all along the curriculum."""
    rng = random.Random(11)
    return [draw(rng) for _ in range(24_000)]


def test_the_interface_names_what_the_design_names() -> None:
    assert list(SKILLS) == ["closed_book", "passage", "sentiment", "reversal", "addition"]
    assert list(TASKS) == ["json", "persona", "jargon", "facts"]
    for name in NAMES:
        skill = lookup(name)
        assert skill.name == name
        assert skill.title
        assert skill.summary.endswith(".")
        assert skill.limit_tokens > 0
        assert 0 <= skill.chance < 1


def test_the_world_needs_no_torch() -> None:
    code = "import sys, core.world, core.world.corpus; print('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


# --- generators ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_the_same_seed_gives_the_same_examples(name: str, split: str) -> None:
    assert examples(name, split, 50, seed=3) == examples(name, split, 50, seed=3)  # type: ignore[arg-type]
    assert examples(name, split, 50, seed=3) != examples(name, split, 50, seed=4)  # type: ignore[arg-type]


def test_examples_do_not_depend_on_the_process() -> None:
    """Python's own `hash` of a string changes from process to process; nothing here may rest on it."""
    code = "from core.world import *; print([examples(n, s, 5, 0) for n in [*SKILLS, *TASKS] for s in SPLITS])"
    out = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert len(out) == 1
    assert "Example(" in out.pop()


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_has_one_answer_and_one_split(name: str) -> None:
    """Over several seeds: no prompt in both splits, and never two completions for the same prompt."""
    seen: dict[str, tuple[str, str]] = {}
    for split in ("train", "heldout"):
        for seed in range(3):
            for example in examples(name, split, 400, seed):  # type: ignore[arg-type]
                assert example.skill == name
                found = seen.setdefault(example.prompt, (example.completion, split))
                assert found == (example.completion, split)


def test_prompts_are_distinct_as_long_as_there_are_enough() -> None:
    for name in NAMES:
        prompts = [example.prompt for example in examples(name, "heldout", 80, seed=0)]
        assert len(set(prompts)) == 80, name
    # One wording of each of 20 × 4 facts is held out; after those, prompts repeat rather than never end.
    assert len({example.prompt for example in examples("facts", "heldout", 100, seed=0)}) == 80


def test_held_out_people_are_nowhere_else() -> None:
    groups = [{p.name for p in KNOWN}, {p.name for p in NEWCOMERS}, set(HELDOUT_NAMES), set(TRAIN_NAMES)]
    assert sum(map(len, groups)) == len(set().union(*groups)) == len(FIRST_NAMES) * len(LAST_NAMES)
    for name in ("passage", "json", "jargon"):
        for split, pool in (("train", TRAIN_NAMES), ("heldout", HELDOUT_NAMES)):
            others = [other for group in groups if pool[0] not in group for other in group]
            text = "\n".join(e.prompt + "\n" + e.completion for e in examples(name, split, 200, 0))  # type: ignore[arg-type]
            assert not [other for other in others if other in text]


def test_held_out_facts_are_new_wordings_about_the_same_people() -> None:
    train = examples("facts", "train", 500, seed=0)
    heldout = examples("facts", "heldout", 80, seed=0)
    # Every held-out question is about a fact that training states in other words.
    known = {question(p.name, a, w): (p.name, a) for p in NEWCOMERS for a in ATTRIBUTES for w in range(4)}
    assert {known[e.prompt] for e in heldout} == {known[e.prompt] for e in train}
    for person in NEWCOMERS:
        for attribute in ATTRIBUTES:
            both = question_wordings(person.name, attribute, "train") + question_wordings(
                person.name, attribute, "heldout"
            )
            assert sorted(both) == list(range(len(QUESTIONS[attribute])))


def test_words_are_unambiguous() -> None:
    everything = [*FIRST_NAMES, *LAST_NAMES, *(value for values in VALUES.values() for value in values)]
    assert len(set(everything)) == len(everything)
    assert len(set(SHORTHAND.values())) == len(SHORTHAND)
    assert all(len(QUESTIONS[a]) == 4 and len(STATEMENTS[a]) == 3 for a in ATTRIBUTES)


def test_the_helpers_for_retrieval() -> None:
    person = NEWCOMERS[0]
    assert person.city in statement(person, "city")
    prompt = passage_prompt([statement(person, "city")], question(person.name, "city"))
    assert prompt == f"Passage: {statement(person, 'city')}\nQuestion: {question(person.name, 'city')}"


def test_unknown_names_are_refused_with_a_sentence() -> None:
    with pytest.raises(ValueError, match="closed_book"):
        examples("poetry", "train", 1, 0)
    with pytest.raises(ValueError, match="heldout"):
        examples("json", "test", 1, 0)  # type: ignore[arg-type]


# --- graders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_graders_accept_the_reference_and_refuse_what_is_near_it(name: str) -> None:
    for example in examples(name, "heldout", 60, seed=1):
        right = example.completion
        assert grade(name, example, right)
        assert grade(name, example, f" {right}\n")
        for wrong in ("", right[:-1], right + "x", f"{right} {right}", f"The answer: {right}", right.swapcase() + "."):
            assert not grade(name, example, wrong), wrong


def test_json_is_parsed_strictly() -> None:
    example = examples("json", "heldout", 1, seed=0)[0]
    right = json.loads(example.completion)
    assert set(right) == {"name", "city", "job", "pet"}
    for same in (json.dumps(right, indent=1), json.dumps(dict(reversed(right.items())))):
        assert grade("json", example, same)
    wrong = [
        json.dumps(right | {"job": "king"}),
        json.dumps(right | {"meal": "soup"}),
        json.dumps({key: value for key, value in right.items() if key != "pet"}),
        json.dumps([right]),
        json.dumps(right | {"city": [right["city"]]}),
        example.completion.replace('"', "'"),
        example.completion.replace("}", ""),
        example.completion.replace("}", ",}"),
        example.completion + "}",
        "```json\n" + example.completion + "\n```",
        example.completion.replace("{", '{"pet": "unicorn", ', 1),  # a key twice: the last one would win
        "null",
        "NaN",
    ]
    for answer in wrong:
        assert not grade("json", example, answer), answer


def test_a_sum_is_a_number_and_nothing_else() -> None:
    example = Example("17 + 25 =", "42", "addition")
    assert grade("addition", example, "42")
    for wrong in ("43", "420", "4 2", "42.0", "+42", "-42", "42 = 17 + 25", "²", "٤٢"):
        assert not grade("addition", example, wrong), wrong


@pytest.mark.parametrize("name", NAMES)
def test_a_right_answer_is_never_given_up(name: str) -> None:
    """Whatever is right for the grader is hopeful at every letter on the way there."""
    for example in examples(name, "heldout", 20, seed=1):
        right = example.completion
        same = [right, f" {right}\n"]
        if name == "json":
            read = json.loads(right)
            turned = dict(reversed(read.items()))
            same += [json.dumps(read, indent=1), json.dumps(turned), json.dumps(turned, separators=(",", ":"))]
            same.append(right.replace("a", "\\u0061"))
        if name == "addition":
            same.append("00" + right)
        for answer in same:
            assert grade(name, example, answer), answer
            for end in range(len(answer) + 1):
                assert hopeful(name, example, answer[:end]), answer[:end]


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_become_right_is_given_up(name: str) -> None:
    for example in examples(name, "heldout", 20, seed=1):
        right = example.completion
        for wrong in ("~", f"{right} ~", right[:-1] + "~", f"~{right}"):
            assert not hopeful(name, example, wrong), wrong


def test_json_is_given_up_at_the_first_wrong_letter() -> None:
    example = examples("json", "heldout", 1, seed=0)[0]
    right = json.loads(example.completion)
    assert not right["city"].startswith("~")
    named = f'{{"name": "{right["name"]}"'
    assert hopeful("json", example, named)
    city = json.dumps(right | {"city": right["city"] + "s"})
    for wrong in (
        "name:", '["name"', "{,", '{"n": ', '{"meal"', '{"name": "~', '{"name": ["', '{"name" "', named + "}}",
        named + ' "', city,
    ):  # fmt: skip
        assert not hopeful("json", example, wrong), wrong


def test_a_grader_without_such_a_rule_is_asked_at_the_end() -> None:
    lenient = dataclasses.replace(SKILLS["closed_book"], name="lenient", grade=lambda e, a: a.lower() == e.completion)
    example = Example("Who?", "ana", "lenient")
    assert lenient.hopeful is None
    SKILLS["lenient"] = lenient
    try:
        assert hopeful("lenient", example, "AN")
        assert SKILLS["closed_book"].grade is same_text
        assert not hopeful("closed_book", example, "AN")
    finally:
        del SKILLS["lenient"]


# --- the corpus ------------------------------------------------------------------------------------------------------


def test_every_pretraining_generator_is_seeded_and_gives_something() -> None:
    assert sum(weight for weight, _ in PRETRAINING) == pytest.approx(1, abs=0.2)
    for _, generator in PRETRAINING:
        first = [generator(random.Random(i)) for i in range(100)]
        assert first == [generator(random.Random(i)) for i in range(100)]
        assert all(example.prompt and example.completion and example.skill for example in first)


def test_pretraining_never_sees_a_task(corpus: list[Example]) -> None:
    newcomers = [person.name for person in NEWCOMERS]
    heldout = list(HELDOUT_NAMES)
    for example in corpus:
        text = f"{example.prompt}\n{example.completion}"
        for turn in (example.prompt, example.completion):
            start = turn.find("{")
            if start >= 0:
                with pytest.raises(ValueError):
                    json.JSONDecoder().raw_decode(turn[start:])  # no JSON object at the first brace
        assert "JSON" not in text
        assert '"name":' not in text
        low = text.lower()
        assert "pirate" not in low
        assert "matey" not in low
        assert "'tis" not in low
        assert "arr," not in low
        assert "Expand" not in text
        for abbreviation in (" RES ", " OCC ", " ANM "):
            assert abbreviation not in text
        assert not any(name in text for name in newcomers)
        assert not any(name in text for name in heldout)


def test_pretraining_never_sees_a_held_out_prompt(corpus: list[Example]) -> None:
    seen = {example.prompt for example in corpus}
    for name in SKILLS:
        for seed in range(3):
            assert not [e.prompt for e in examples(name, "heldout", 300, seed) if e.prompt in seen], name


def test_the_corpus_has_every_format_and_every_printable_character(corpus: list[Example]) -> None:
    prompts = "\n".join(example.prompt for example in corpus if example.skill == "extraction")
    assert all(f"{name}: " in prompts for name in FORMATS)
    written = set("".join(example.completion for example in corpus))
    assert not set(map(chr, range(32, 127))) - written


def test_passages_are_about_one_to_three_people(corpus: list[Example]) -> None:
    known = (*TRAIN_NAMES, *(person.name for person in KNOWN))
    passages = [example for example in corpus if example.skill == "passage"][:1_000]
    assert {sum(name in example.prompt for name in known) for example in passages} >= {1, 2, 3}


def test_a_reading_says_where_the_answer_stands(corpus: list[Example]) -> None:
    read = [example for example in corpus if example.reading]
    assert {example.skill for example in read} == {"passage", "sentence", "who", "not_said", "yes_or_no", "register"}
    for example in read:
        reading = example.reading
        assert reading is not None
        assert " ".join(told.sentence for told in reading.statements) in example.prompt
        assert all(told.name in told.sentence and told.value in told.sentence for told in reading.statements)
        for asked in (reading.name, reading.value):
            assert asked is None or asked in example.prompt
        if example.skill == "not_said":
            assert reading.evidence is None
        if example.skill == "passage":
            assert reading.evidence is not None
            evidence = reading.statements[reading.evidence]
            assert (evidence.value, evidence.name) == (example.completion, reading.name)
