"""What pre-training sees: the five skills and many other formats and registers, but never a task.

Why so many: a base that was only ever trained to give bare answers cannot be fine-tuned. It has pushed every symbol
that it never had to produce so far down that a short run on a new format spends itself on bringing them back. So the
base writes pairs, tags, rows, calls, random strings and templates here; fine-tuning then recombines what is there.

How: `PRETRAINING` lists (weight, generator); `draw(rng, progress)` picks one. `progress` runs from 0 to 1 over the
training and only serves the curriculum: passages are about one person at first and about up to three later on.

What it is not: a place for the tasks in `core.world.tasks`. `tests/core/test_world.py` samples the corpus and looks for
their objects, words and people.
"""

import random
import string
from collections.abc import Callable

from core.world import skills
from core.world.item import Example, split_of
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

Generator = Callable[[random.Random, float], Example]

SYMBOLS = string.punctuation + string.digits
ACCENTED = "éüñçåøß€–’“”"
PLAIN_WORDS = (*skills.WORDS, *VALUES["city"], *skills.PRAISE, *skills.BLAME, "name", *ATTRIBUTES)
NOT_SAID = "It is not said."


def people_at(rng: random.Random, progress: float) -> int:
    """The curriculum: how many people a passage is about."""
    if progress < 0.08:
        return 1
    if progress < 0.2:
        return rng.randint(1, 2)
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


# --- the scored skills, on their train split -------------------------------------------------------------------------


def closed_book(rng: random.Random, progress: float) -> Example:
    return skills.closed_book(rng, "train")


def sentiment(rng: random.Random, progress: float) -> Example:
    return skills.sentiment(rng, "train")


def reversal(rng: random.Random, progress: float) -> Example:
    return skills.reversal(rng, "train")


def addition(rng: random.Random, progress: float) -> Example:
    """Two-digit sums, and the easier sums of which they are made: of digits, of tens, with one digit."""
    lot = rng.random()
    if lot < 0.65:
        return skills.addition(rng, "train")
    if lot < 0.8:
        a, b = rng.randint(0, 9), rng.randint(0, 9)
    elif lot < 0.9:
        a, b = 10 * rng.randint(1, 9), 10 * rng.randint(1, 9)
        if split_of(f"{min(a, b)}+{max(a, b)}") == "heldout":
            return addition(rng, progress)
    else:
        a, b = rng.sample((rng.randint(10, 99), rng.randint(1, 9)), 2)
    return Example(f"{a} + {b} =", str(a + b), "addition")


def passage(rng: random.Random, progress: float) -> Example:
    facts = some_facts(rng, company(rng, people_at(rng, progress)))
    asked = rng.choice(facts)
    return Example(passage_prompt(tell(rng, facts), ask(rng, asked)), asked.person.value(asked.attribute), "passage")


# --- other things to do with a passage -------------------------------------------------------------------------------


def recite(rng: random.Random, progress: float) -> Example:
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


def sentence(rng: random.Random, progress: float) -> Example:
    """The answer from a passage as a full sentence."""
    facts = some_facts(rng, company(rng, people_at(rng, progress)))
    asked = rng.choice(facts)
    prompt = passage_prompt(tell(rng, facts), ask(rng, asked))
    return Example(f"In a sentence: {prompt}", statement(asked.person, asked.attribute), "sentence")


def who(rng: random.Random, progress: float) -> Example:
    """Whom a value belongs to."""
    people = company(rng, people_at(rng, progress))
    facts = some_facts(rng, people)
    asked = rng.choice(facts)
    value = asked.person.value(asked.attribute)
    if sum(person.value(asked.attribute) == value for person in people) > 1:
        return who(rng, progress)  # two people share the value: the question has no one answer
    verb = {"city": "lives in {v}", "job": "works as {a}", "pet": "owns {a}", "meal": "loves {v}"}[asked.attribute]
    return Example(passage_prompt(tell(rng, facts), say(f"Who {verb}?", "", value)), asked.person.name, "who")


def names(rng: random.Random, progress: float) -> Example:
    """The people of a passage, in the order in which they appear."""
    facts = some_facts(rng, company(rng, people_at(rng, progress)), most=2)
    order = list(dict.fromkeys(fact.person.name for fact in facts))
    return Example(passage_prompt(tell(rng, facts), "Who is named?"), ", ".join(order), "names")


def not_said(rng: random.Random, progress: float) -> Example:
    """A question that the passage does not answer."""
    people = company(rng, people_at(rng, progress) + 1)
    absent = people.pop()
    facts = some_facts(rng, people)
    told = {(fact.person.name, fact.attribute) for fact in facts}
    person = absent if rng.random() < 0.5 else rng.choice(people)
    attribute = rng.choice(ATTRIBUTES)
    if (person.name, attribute) in told:
        return not_said(rng, progress)
    return Example(passage_prompt(tell(rng, facts), ask(rng, Fact(person, attribute))), NOT_SAID, "not_said")


def yes_or_no(rng: random.Random, progress: float) -> Example:
    """Whether a statement agrees with the passage."""
    facts = some_facts(rng, company(rng, people_at(rng, progress)))
    asked = rng.choice(facts)
    truth = rng.random() < 0.5
    value = asked.person.value(asked.attribute)
    others = [other for other in VALUES[asked.attribute] if other != value]
    claimed = say(STATEMENTS[asked.attribute][0], asked.person.name, value if truth else rng.choice(others))
    prompt = f"Passage: {' '.join(tell(rng, facts))}\nTrue or false? {claimed}"
    return Example(prompt, "true" if truth else "false", "yes_or_no")


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


def extraction(rng: random.Random, progress: float) -> Example:
    """The fields of a text in one of `FORMATS`: all of them, or those asked for in the order asked for."""
    person, fields, text = one_person(rng)
    name, write = rng.choice(list(FORMATS.items()))
    instruction = name
    if rng.random() < 0.4:
        fields = rng.sample(fields, rng.randint(1, len(fields)))
        instruction = f"{name} of {', '.join(fields)}"
    rows = [(field, getattr(person, field)) for field in fields]
    return Example(f"{instruction}: {text}", write(rows), "extraction")


def template(rng: random.Random, progress: float) -> Example:
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
    return "".join(parts).strip()


def repeat(rng: random.Random, progress: float) -> Example:
    """A random string, or sentences about someone, word for word."""
    text = random_string(rng) if rng.random() < 0.75 else one_person(rng)[2]
    return Example(f"Repeat: {text}", text, "repeat")


def spelling(rng: random.Random, progress: float) -> Example:
    """A word in letters, in capitals, or put together from letters: pieces and whole words are kin."""
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


def register(rng: random.Random, progress: float) -> Example:
    """A plain answer, from memory, from a passage or from a review, in another manner of speaking."""
    plain = rng.choice((closed_book, passage, passage, sentiment, addition))(rng, min(progress, 0.1))
    manner, words = rng.choice(list(REGISTERS.items()))
    said = words.replace("{v}", plain.completion).replace("{V}", plain.completion.upper())
    return Example(f"{manner}: {plain.prompt}", said, "register")


PRETRAINING: tuple[tuple[float, Generator], ...] = (
    (0.11, closed_book),
    (0.22, passage),
    (0.02, sentiment),
    (0.04, reversal),
    (0.15, addition),
    (0.03, recite),
    (0.04, sentence),
    (0.05, who),
    (0.03, names),
    (0.04, not_said),
    (0.03, yes_or_no),
    (0.11, extraction),
    (0.03, template),
    (0.05, repeat),
    (0.03, spelling),
    (0.05, register),
)
_WEIGHTS = [weight for weight, _ in PRETRAINING]
_GENERATORS = [generator for _, generator in PRETRAINING]


def draw(rng: random.Random, progress: float = 1.0) -> Example:
    """One pre-training example."""
    return rng.choices(_GENERATORS, _WEIGHTS)[0](rng, progress)
