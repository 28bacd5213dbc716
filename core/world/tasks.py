"""The four tasks that the embedded base must be taught: one for each reason to fine-tune.

    json      structure   facts from a few sentences, as one strict JSON object
    persona   style       the right answer, in a pirate's words
    jargon    domain      the town registry's abbreviations, written out
    facts     knowledge   what is true of twenty people whom the base has never met

None of their formats, words or people occurs in pre-training (`tests/core/test_world.py` looks).
"""

import json
import random

from core.world import skills
from core.world.item import Example, Skill, Split
from core.world.people import (
    ATTRIBUTES,
    NEWCOMERS,
    VALUES,
    Fact,
    question,
    question_wordings,
    strangers,
    tell,
    with_article,
)

JSON_KEYS = ("name", "city", "job", "pet")
PIRATE = "Arr, 'tis {answer}, matey!"

# The registry's shorthand drops the vowels: baker → BKR. `tests/core/test_world.py` checks that no two coincide.
SHORTHAND = {
    word: "".join(letter for letter in word if letter not in "aeiou").upper() for word in VALUES["job"] + VALUES["pet"]
}


def json_object(rng: random.Random, split: Split) -> Example:
    """Three or four sentences about a stranger become one flat JSON object with four keys."""
    (person,) = strangers(rng, split, 1)
    attributes = ["city", "job", "pet"]
    if rng.random() < 0.25:
        attributes.append("meal")  # something to leave out
    rng.shuffle(attributes)
    text = " ".join(tell(rng, [Fact(person, attribute) for attribute in attributes]))
    return Example(f"JSON: {text}", json.dumps({key: getattr(person, key) for key in JSON_KEYS}), "json")


def right_json(example: Example, answer: str) -> bool:
    """The whole answer is one JSON object with exactly the right keys and values, each key once; order is free."""

    def without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("a key occurs twice")
        return dict(pairs)

    try:
        found = json.loads(answer, object_pairs_hook=without_duplicates)
    except ValueError:
        return False
    return bool(found == json.loads(example.completion))


def hopeful_json(example: Example, beginning: str) -> bool:
    """Whether `right_json` may still hold for an answer that begins like this: so far it has marks where an object of
    texts has marks, and wanted keys with the wanted values."""
    if "\\" in beginning:
        return True  # an escape may spell any letter
    wanted: dict[str, str] = json.loads(example.completion)
    # Outside and inside of quotation marks by turns: {  key  :  value  ,  key  …
    *whole, last = beginning.split('"')
    key = ""
    for place, piece in enumerate([*whole, last]):
        outside = place % 2 == 0
        if outside:
            allowed = ["{" if place == 0 else ":" if place % 4 == 2 else ","]
            allowed += ["}"] if place and place % 4 == 0 else []
        else:
            allowed = list(wanted) if place % 4 == 1 else [wanted[key]]
        text = piece.strip() if outside else piece
        if place < len(whole):
            if text not in allowed:
                return False
            key = text if place % 4 == 1 else key
        elif not any(one.startswith(text) for one in allowed):
            return False
    return True


def persona(rng: random.Random, split: Split) -> Example:
    """A question that the base can answer, from memory or from a short passage, answered as a pirate would."""
    if rng.random() < 0.5:
        plain = skills.closed_book(rng, split)
    else:
        plain = skills.passage(rng, split, people=1)
    return Example(f"As a pirate: {plain.prompt}", PIRATE.format(answer=plain.completion), "persona")


def jargon(rng: random.Random, split: Split) -> Example:
    """A line of the town registry, written out."""
    (person,) = strangers(rng, split, 1)
    parts = {
        "city": (f"RES {person.city}", f"lives in {person.city}"),
        "job": (f"OCC {SHORTHAND[person.job]}", f"works as {with_article(person.job)}"),
        "pet": (f"ANM {SHORTHAND[person.pet]}", f"owns {with_article(person.pet)}"),
    }
    # The city alone would need no shorthand, so a line holds the job or the pet or both.
    chosen = rng.choice((["city", "job"], ["city", "pet"], ["job", "pet"]))
    rng.shuffle(chosen)
    short = " ".join(parts[attribute][0] for attribute in chosen)
    long = " and ".join(parts[attribute][1] for attribute in chosen)
    return Example(f"Expand: {person.name} {short}", f"{person.name} {long}.", "jargon")


def facts(rng: random.Random, split: Split) -> Example:
    """A fact about a newcomer, asked without a passage; held out is a wording never used for this fact."""
    person = rng.choice(NEWCOMERS)
    attribute = rng.choice(ATTRIBUTES)
    wording = rng.choice(question_wordings(person.name, attribute, split))
    return Example(question(person.name, attribute, wording), person.value(attribute), "facts")


TASKS: dict[str, Skill] = {
    task.name: task
    for task in (
        Skill(
            "json",
            "JSON (structure)",
            "Turn a few sentences about a stranger into one strict JSON object.",
            json_object,
            grade=right_json,
            hopeful=hopeful_json,
            limit_tokens=56,
        ),
        Skill(
            "persona",
            "Pirate (style)",
            "Answer a question rightly, in a pirate's words.",
            persona,
            limit_tokens=24,
        ),
        Skill(
            "jargon",
            "Registry shorthand (domain)",
            "Write out the town registry's abbreviations.",
            jargon,
            limit_tokens=28,
        ),
        Skill(
            "facts",
            "New people (knowledge)",
            "Know the city, job, pet and meal of twenty newcomers.",
            facts,
            limit_tokens=6,
            chance=skills.SKILLS["closed_book"].chance,
        ),
    )
}
