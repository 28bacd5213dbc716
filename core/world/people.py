"""The people of the small world: their names, what is true of them, and how it is said and asked.

There are 32 × 32 full names, dealt once and for all into four groups that share no name:

    KNOWN       80 people with fixed facts, which the base learns by heart
    NEWCOMERS   20 people with fixed facts, which the base never meets: the `facts` task
    TRAIN_NAMES and HELDOUT_NAMES   people without fixed facts: each example invents them, so they can only be
                read from the prompt; the base never sees a held-out name
"""

import random
import zlib
from dataclasses import dataclass

from core.world.item import Split

FIRST_NAMES = tuple(
    """
    Mira Ada Leo Nora Ivan Tara Omar Lena Hugo Zoe Amir Ruth Paul Iris Finn Maya Otto Elsa Igor Jade
    Karl Lily Noah Vera Axel Cora Dean Faye Gus Hana Sami Tess
    """.split()
)
LAST_NAMES = tuple(
    """
    Lund Flint Moss Reed Stone Vale Park Snow Wolf Hart Lake Ford Wood Bell Cole Dale Frost Gray
    Hill Knox Lane Marsh Nash Page Quill Rowe Shaw Thorn Voss West Bond Cruz
    """.split()
)
VALUES = {
    "city": tuple(
        """
    Oslo Rome Lima Cairo Delhi Paris Tokyo Quito Accra Perth Lyon Milan Seoul Hanoi Tunis Riga Bern
    Porto Davos Malmo Turin Dakar Osaka Miami Basel Ghent Leeds Lagos Kyiv Sofia Vaduz Minsk
    """.split()
    ),
    "job": tuple(
        """
    baker pilot nurse farmer painter lawyer tailor singer miner judge chef diver guard coach vet
    clerk poet welder driver actor dancer sailor barber mason plumber florist banker editor tutor
    brewer ranger cobbler
    """.split()
    ),
    "pet": tuple(
        """
    cat dog horse parrot rabbit turtle hamster snake goat ferret pony duck goose lizard canary frog
    mouse hen llama pigeon donkey gecko toad spider
    """.split()
    ),
    "meal": tuple(
        """
    soup bread salad pizza curry pasta rice stew cake fish tofu ramen pie kebab risotto burger sushi
    taco waffle gnocchi hummus falafel chilli toast
    """.split()
    ),
}
ATTRIBUTES = tuple(VALUES)

# {n} is the name, {v} the value, {a} the value with its article. In the last wording of each the value comes first,
# so that "copy what follows the name" is not enough to read a passage.
STATEMENTS = {
    "city": ("{n} lives in {v}.", "{n} has a home in {v}.", "{v} is home to {n}."),
    "job": ("{n} works as {a}.", "{n} is {a} by trade.", "The new {v} is {n}."),
    "pet": ("{n} owns {a}.", "{n} keeps {a}.", "The {v} belongs to {n}."),
    "meal": ("{n} loves {v}.", "{n} always orders {v}.", "The {v} is for {n}."),
}
QUESTIONS = {
    "city": (
        "Where does {n} live?",
        "Which city is home to {n}?",
        "In which city is {n} at home?",
        "What is the city of {n}?",
    ),
    "job": (
        "What is the job of {n}?",
        "What work does {n} do?",
        "How does {n} earn a living?",
        "What does {n} work as?",
    ),
    "pet": (
        "Which pet does {n} own?",
        "What animal belongs to {n}?",
        "What is the pet of {n}?",
        "Which animal does {n} keep?",
    ),
    "meal": (
        "What does {n} love to eat?",
        "Which meal does {n} always order?",
        "What is the favourite meal of {n}?",
        "What food is for {n}?",
    ),
}


@dataclass(frozen=True)
class Person:
    """A full name and what is true of its bearer."""

    name: str
    city: str
    job: str
    pet: str
    meal: str

    @property
    def first_name(self) -> str:
        return self.name.split()[0]

    def value(self, attribute: str) -> str:
        """What is true of this person under one of `ATTRIBUTES`."""
        return str(getattr(self, attribute))


def with_article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def say(template: str, name: str, value: str) -> str:
    return template.format(n=name, v=value, a=with_article(value))


def statement(person: Person, attribute: str, wording: int = 0) -> str:
    """A sentence that states one fact, in one of three wordings."""
    return say(STATEMENTS[attribute][wording], person.name, person.value(attribute))


def question(name: str, attribute: str, wording: int = 0) -> str:
    """A question that asks for one fact, in one of four wordings."""
    return QUESTIONS[attribute][wording].format(n=name)


def question_wordings(name: str, attribute: str, split: Split) -> list[int]:
    """The wordings in which a person's fact is asked without a passage: three to train on, one held out.

    Which one is held out changes from fact to fact, so each wording is learnt, but never for this fact.
    """
    wordings = len(QUESTIONS[attribute])
    heldout = zlib.crc32(f"{name}/{attribute}".encode()) % wordings
    return [heldout] if split == "heldout" else [i for i in range(wordings) if i != heldout]


def passage_prompt(sentences: list[str], asked: str) -> str:
    """The user's turn that gives something to read and asks about it: the form a retrieval answer takes here."""
    return f"Passage: {' '.join(sentences)}\nQuestion: {asked}"


def invent(rng: random.Random, name: str) -> Person:
    """A person of that name about whom everything is drawn by lot."""
    return Person(name, **{attribute: rng.choice(values) for attribute, values in VALUES.items()})


def _deal() -> tuple[tuple[Person, ...], tuple[Person, ...], tuple[str, ...], tuple[str, ...]]:
    rng = random.Random(1706)
    names = [f"{first} {last}" for first in FIRST_NAMES for last in LAST_NAMES]
    rng.shuffle(names)
    known = tuple(invent(rng, name) for name in names[:80])
    newcomers = tuple(invent(rng, name) for name in names[80:100])
    return known, newcomers, tuple(names[100:300]), tuple(names[300:])


KNOWN, NEWCOMERS, HELDOUT_NAMES, TRAIN_NAMES = _deal()


def strangers(rng: random.Random, split: Split, count: int) -> list[Person]:
    """Invented people of one split, no two with the same first name (it may stand for the whole name later on)."""
    pool = HELDOUT_NAMES if split == "heldout" else TRAIN_NAMES
    chosen: dict[str, Person] = {}
    while len(chosen) < count:
        person = invent(rng, rng.choice(pool))
        chosen.setdefault(person.first_name, person)
    return list(chosen.values())


@dataclass(frozen=True)
class Fact:
    """One thing that a passage says: about whom, and under which attribute."""

    person: Person
    attribute: str


def tell(rng: random.Random, facts: list[Fact]) -> list[str]:
    """A sentence for each fact, in random wordings; a person named before may go by the first name alone."""
    named: set[str] = set()
    sentences = []
    for fact in facts:
        person = fact.person
        short = person.name in named and rng.random() < 0.5
        named.add(person.name)
        template = rng.choice(STATEMENTS[fact.attribute])
        sentences.append(say(template, person.first_name if short else person.name, person.value(fact.attribute)))
    return sentences


def some_facts(rng: random.Random, people: list[Person], most: int = 3) -> list[Fact]:
    """One to `most` facts about each of the people, in random order."""
    facts = [Fact(person, attribute) for person in people for attribute in rng.sample(ATTRIBUTES, rng.randint(1, most))]
    rng.shuffle(facts)
    return facts
