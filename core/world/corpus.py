"""What pre-training sees: the five skills and many other formats and registers, but never a task.

Why so many: a base that was only ever trained to give bare answers cannot be fine-tuned. It has pushed every symbol
that it never had to produce so far down that a short run on a new format spends itself on bringing them back. So the
base writes pairs, tags, rows, calls, random strings and templates here; fine-tuning then recombines what is there.

How: `PRETRAINING` lists (weight, generator); `draw(rng)` picks one. Passages come with their `Reading`, and what copies
from its prompt says so (`COPYING`): both are for `core.guidance`.

What it is not: a place for the tasks in `core.world.tasks`. `tests/core/test_world.py` samples the corpus and looks for
their objects, words and people.
"""

import random
import re
import string
from collections.abc import Callable
from dataclasses import replace

from core.world import skills
from core.world.item import Example, Reading, Statement, split_of
from core.world.people import (
    ATTRIBUTES,
    KNOWN,
    STATEMENTS,
    VALUES,
    Fact,
    Person,
    passage_prompt,
    question,
    say,
    some_facts,
    statement,
    strangers,
    tell,
)

Generator = Callable[[random.Random], Example]

SYMBOLS = string.punctuation + string.digits
ACCENTED = "éüñçåøß€–’“”"
PLAIN_WORDS = (*skills.WORDS, *VALUES["city"], *skills.PRAISE, *skills.BLAME, "name", *ATTRIBUTES)
NOT_SAID = "It is not said."


def how_many(rng: random.Random) -> int:
    """How many people a passage is about."""
    return rng.choices((1, 2, 3), weights=(2, 3, 4))[0]


def pseudo_word(rng: random.Random) -> str:
    """A word that is in no list, so that copying does not come to mean choosing from the lists."""
    word = "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(1, 3)))
    return word.capitalize() if rng.random() < 0.5 else word


def company(rng: random.Random, count: int) -> list[Person]:
    """People for a passage: strangers, now and then a known person with other facts (the passage is right), or one
    with a name or a value from no list."""
    people = strangers(rng, "train", count)
    for i, person in enumerate(people):
        lot = rng.random()
        changed: dict[str, str] = {}
        if lot < 0.12:
            changed["name"] = rng.choice(KNOWN).name
        elif lot < 0.2:
            changed["name"] = f"{pseudo_word(rng).capitalize()} {pseudo_word(rng).capitalize()}"
        elif lot < 0.26:
            attribute = rng.choice(ATTRIBUTES)
            changed[attribute] = pseudo_word(rng)
        people[i] = Person(**{"name": person.name, **{a: person.value(a) for a in ATTRIBUTES}, **changed})
    firsts = {person.first_name for person in people}
    return people if len(firsts) == count else company(rng, count)


def ask(rng: random.Random, fact: Fact) -> str:
    return question(fact.person.name, fact.attribute, rng.randrange(4))


def read(
    facts: list[Fact], sentences: list[str], asked: Fact, *, by_name: bool = False, by_value: bool = False
) -> Reading:
    """What there is to find in the sentences that tell the facts, when one of these (or none) is asked for."""
    statements = tuple(
        Statement(sentence, fact.person.first_name, fact.person.value(fact.attribute))
        for fact, sentence in zip(facts, sentences, strict=True)
    )
    return Reading(
        statements,
        name=asked.person.first_name if by_name else None,
        value=asked.person.value(asked.attribute) if by_value else None,
        evidence=facts.index(asked) if asked in facts else None,
    )


# --- the scored skills, on their train split -------------------------------------------------------------------------


def closed_book(rng: random.Random) -> Example:
    return skills.closed_book(rng, "train")


def sentiment(rng: random.Random) -> Example:
    return skills.sentiment(rng, "train")


def reversal(rng: random.Random) -> Example:
    return skills.reversal(rng, "train")


def addition(rng: random.Random) -> Example:
    """Two-digit sums, and the easier sums of which they are made: of digits, of tens, with one digit."""
    lot = rng.random()
    if lot < 0.65:
        return skills.addition(rng, "train")
    if lot < 0.8:
        a, b = rng.randint(0, 9), rng.randint(0, 9)
    elif lot < 0.9:
        a, b = 10 * rng.randint(1, 9), 10 * rng.randint(1, 9)
        if split_of(f"{min(a, b)}+{max(a, b)}") == "heldout":
            return addition(rng)
    else:
        a, b = rng.sample((rng.randint(10, 99), rng.randint(1, 9)), 2)
    return Example(f"{a} + {b} =", str(a + b), "addition")


def passage(rng: random.Random) -> Example:
    facts = some_facts(rng, company(rng, how_many(rng)))
    asked, sentences = rng.choice(facts), tell(rng, facts)
    prompt = passage_prompt(sentences, ask(rng, asked))
    reading = read(facts, sentences, asked, by_name=True)
    return Example(prompt, asked.person.value(asked.attribute), "passage", reading)


# --- other things to do with a passage -------------------------------------------------------------------------------


def recite(rng: random.Random) -> Example:
    """What the base knows about a known person, in a sentence."""
    person = rng.choice(KNOWN)
    if rng.random() < 0.5:
        attribute = rng.choice(ATTRIBUTES)
        return Example(f"Tell me the {attribute} of {person.name}.", statement(person, attribute), "recite")
    chosen = rng.sample(ATTRIBUTES, rng.randint(2, 4))
    return Example(
        f"Tell me the {', '.join(chosen)} of {person.name}.",
        " ".join(statement(person, attribute) for attribute in chosen),
        "recite",
    )


def sentence(rng: random.Random) -> Example:
    """The answer from a passage as a full sentence."""
    facts = some_facts(rng, company(rng, how_many(rng)))
    asked, sentences = rng.choice(facts), tell(rng, facts)
    prompt = f"In a sentence: {passage_prompt(sentences, ask(rng, asked))}"
    reading = read(facts, sentences, asked, by_name=True)
    return Example(prompt, statement(asked.person, asked.attribute), "sentence", reading)


def who(rng: random.Random) -> Example:
    """Whom a value belongs to."""
    people = company(rng, how_many(rng))
    facts = some_facts(rng, people)
    asked = rng.choice(facts)
    value = asked.person.value(asked.attribute)
    if sum(person.value(asked.attribute) == value for person in people) > 1:
        return who(rng)  # two people share the value: the question has no one answer
    verb = {"city": "lives in {v}", "job": "works as {a}", "pet": "owns {a}", "meal": "loves {v}"}[asked.attribute]
    sentences = tell(rng, facts)
    prompt = passage_prompt(sentences, say(f"Who {verb}?", "", value))
    return Example(prompt, asked.person.name, "who", read(facts, sentences, asked, by_value=True))


def names(rng: random.Random) -> Example:
    """The people of a passage, in the order in which they appear."""
    facts = some_facts(rng, company(rng, how_many(rng)), most=2)
    order = list(dict.fromkeys(fact.person.name for fact in facts))
    return Example(passage_prompt(tell(rng, facts), "Who is named?"), ", ".join(order), "names")


def not_said(rng: random.Random) -> Example:
    """A question that the passage does not answer."""
    people = company(rng, how_many(rng) + 1)
    absent = people.pop()
    facts = some_facts(rng, people)
    told = {(fact.person.name, fact.attribute) for fact in facts}
    person = absent if rng.random() < 0.5 else rng.choice(people)
    attribute = rng.choice(ATTRIBUTES)
    if (person.name, attribute) in told:
        return not_said(rng)
    asked, sentences = Fact(person, attribute), tell(rng, facts)
    prompt = passage_prompt(sentences, ask(rng, asked))
    return Example(prompt, NOT_SAID, "not_said", read(facts, sentences, asked, by_name=True))


def yes_or_no(rng: random.Random) -> Example:
    """Whether a statement agrees with the passage."""
    facts = some_facts(rng, company(rng, how_many(rng)))
    asked = rng.choice(facts)
    truth = rng.random() < 0.5
    value = asked.person.value(asked.attribute)
    others = [other for other in VALUES[asked.attribute] if other != value]
    claimed = say(STATEMENTS[asked.attribute][0], asked.person.name, value if truth else rng.choice(others))
    sentences = tell(rng, facts)
    prompt = f"Passage: {' '.join(sentences)}\nTrue or false? {claimed}"
    reading = read(facts, sentences, asked, by_name=True)
    return Example(prompt, "true" if truth else "false", "yes_or_no", reading)


# --- formats: the same facts, written in many ways -------------------------------------------------------------------

# Each writes (field, value) pairs. None of them is a JSON object: braces and quoted keys occur, never together.
FORMATS: dict[str, Callable[[list[tuple[str, str]]], str]] = {
    "Pairs": lambda rows: "; ".join(f"{field}={value}" for field, value in rows),
    "Quotes": lambda rows: ", ".join(f'"{value}"' for _, value in rows),
    "Call": lambda rows: "person(" + ", ".join(f'"{value}"' for _, value in rows) + ")",
    "Options": lambda rows: "person(" + ", ".join(f"{field}='{value}'" for field, value in rows) + ")",
    "Groups": lambda rows: " ".join(f"({field} {value})" for field, value in rows),
    "Tags": lambda rows: "".join(f"<{field}>{value}</{field}>" for field, value in rows),
    "Lines": lambda rows: "\n".join(f"- {field}: {value}" for field, value in rows),
    "Headings": lambda rows: "\n".join(f'{field}: "{value}"' for field, value in rows),
    "Row": lambda rows: " | ".join(value for _, value in rows),
    "Set": lambda rows: "{" + ", ".join(value for _, value in rows) + "}",
    "Braces": lambda rows: "{" + "; ".join(f"{field}: {value}" for field, value in rows) + "}",
    "Brackets": lambda rows: "".join(f"[{field}][{value}]" for field, value in rows),
    "Arrows": lambda rows: ", ".join(f'"{field}" -> {value}' for field, value in rows),
    "Slashes": lambda rows: "/" + "/".join(value for _, value in rows),
    "Table": lambda rows: "|".join(field for field, _ in rows) + "\n" + "|".join(value for _, value in rows),
}


def one_person(rng: random.Random) -> tuple[Person, list[str], str]:
    """A person, the fields that a text gives (the name first), and that text."""
    (person,) = company(rng, 1)
    told = rng.sample(ATTRIBUTES, rng.randint(1, 4))
    text = " ".join(tell(rng, [Fact(person, attribute) for attribute in told]))
    return person, ["name", *(attribute for attribute in ATTRIBUTES if attribute in told)], text


def extraction(rng: random.Random) -> Example:
    """The fields of a text in one of `FORMATS`: all of them, or those asked for in the order asked for."""
    person, fields, text = one_person(rng)
    name, write = rng.choice(list(FORMATS.items()))
    instruction = name
    if rng.random() < 0.4:
        fields = rng.sample(fields, rng.randint(1, len(fields)))
        instruction = f"{name} of {', '.join(fields)}"
    rows = [(field, getattr(person, field)) for field in fields]
    return Example(f"{instruction}: {text}", write(rows), "extraction")


def template(rng: random.Random) -> Example:
    """Fill in a template made of the field names and random symbols."""
    person, fields, text = one_person(rng)
    fields = rng.sample(fields, rng.randint(1, len(fields)))

    def filler() -> str:
        return "".join(rng.choice(SYMBOLS.replace("{", "")) for _ in range(rng.randint(1, 2))) + rng.choice(("", " "))

    glue = [filler() if rng.random() < 0.6 else "", *(filler() for _ in fields)]
    shape = glue[0] + "".join(field + after for field, after in zip(fields, glue[1:], strict=True))
    filled = glue[0] + "".join(getattr(person, f) + after for f, after in zip(fields, glue[1:], strict=True))
    return Example(f"Fill in {shape.strip()}: {text}", filled.strip(), "template")


# --- strings: every symbol must have been an output ------------------------------------------------------------------


def random_string(rng: random.Random) -> str:
    parts = []
    for _ in range(rng.randint(3, 10)):
        lot = rng.random()
        if lot < 0.4:
            part = "".join(rng.choice(SYMBOLS) for _ in range(rng.randint(1, 3)))
        elif lot < 0.6:
            part = rng.choice(PLAIN_WORDS)
        elif lot < 0.75:
            part = "".join(rng.choice(string.ascii_letters) for _ in range(rng.randint(1, 4)))
        elif lot < 0.95:
            part = pseudo_word(rng)
        else:
            part = rng.choice(ACCENTED)
        parts.append(part + (" " if rng.random() < 0.6 else ""))
    return re.sub(r"\{\s*\}", "}{", "".join(parts)).strip()  # {} is a JSON object, and those are a task


def repeat(rng: random.Random) -> Example:
    """A random string, or sentences about someone, word for word."""
    text = random_string(rng) if rng.random() < 0.75 else one_person(rng)[2]
    return Example(f"Repeat: {text}", text, "repeat")


def spelling(rng: random.Random) -> Example:
    """A word in letters, in capitals, put together from letters, or told from a few of them: pieces and whole words are
    kin."""
    if rng.random() < 0.3:
        word = rng.choice(skills.WORDS)
        gapped = "".join(letter if i == 0 or rng.random() < 0.6 else "_" for i, letter in enumerate(word))
        return Example(f"Gaps: {gapped.upper() if rng.random() < 0.5 else gapped}", word, "spelling")
    word = rng.choice(PLAIN_WORDS) if rng.random() < 0.7 else pseudo_word(rng)
    return rng.choice(
        (
            Example(f"Spell: {word}", " ".join(word), "spelling"),
            Example(f"Capitals: {word}", word.upper(), "spelling"),
            Example(f"Join: {' '.join(word)}", word, "spelling"),
            Example(f"Small letters: {word.upper()}", word.lower(), "spelling"),
        )
    )


# --- registers: the same answer, said in many ways -------------------------------------------------------------------

REGISTERS: dict[str, str] = {
    "Politely": "Certainly, it is {v}.",
    "Briefly": "{v}.",
    "Loudly": "{V}!!",
    "As a poet": "O {v}, sweet {v}, of thee I sing.",
    "As a robot": "BEEP. ANSWER: {v}. BEEP.",
    "As a knight": "By my sword, good sir, {v} it be!",
    "As a child": "Um... I think {v}?",
    "As a detective": "Elementary: {v}, of course.",
    "As a merchant": 'Only today: "{v}", at half the price!',
    "As a teacher": "Well done for asking; the answer is '{v}'.",
}


def register(rng: random.Random) -> Example:
    """A plain answer, from memory, from a passage or from a review, in another manner of speaking."""
    plain = rng.choice((closed_book, passage, passage, sentiment, addition))(rng)
    manner, words = rng.choice(list(REGISTERS.items()))
    said = words.replace("{v}", plain.completion).replace("{V}", plain.completion.upper())
    return Example(f"{manner}: {plain.prompt}", said, "register", plain.reading)


PRETRAINING: tuple[tuple[float, Generator], ...] = (
    (0.11, closed_book),
    (0.22, passage),
    (0.02, sentiment),
    (0.04, reversal),
    (0.14, addition),
    (0.03, recite),
    (0.04, sentence),
    (0.05, who),
    (0.03, names),
    (0.04, not_said),
    (0.03, yes_or_no),
    (0.11, extraction),
    (0.03, template),
    (0.05, repeat),
    (0.04, spelling),
    (0.05, register),
)
# Skills whose answers are made of pieces of the prompt. (A sum may happen to have a digit of what is added.)
COPYING = {"passage", "reversal", "sentence", "who", "names", "extraction", "template", "repeat"}
_WEIGHTS = [weight for weight, _ in PRETRAINING]
_GENERATORS = [generator for _, generator in PRETRAINING]


def draw(rng: random.Random) -> Example:
    """One pre-training example."""
    example = rng.choices(_GENERATORS, _WEIGHTS)[0](rng)
    return replace(example, copied=example.skill in COPYING)
