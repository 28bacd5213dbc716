"""Checks of the exercises on forgetting: its measure, and mixing old examples in."""

from __future__ import annotations

from typing import Any

from core.exercise import Wrong
from core.forgetting import lost
from core.material import replayed_count


def _function(space: dict[str, Any], name: str) -> Any:
    found = space.get(name)
    if not callable(found):
        raise Wrong(f"There is no function called {name} yet.")
    return found


def forgetting(space: dict[str, Any]) -> str:
    """Points of a hundred, over the skills that both have, gains counted."""
    own = _function(space, "forgetting")
    plain = own({"a": 1.0, "b": 0.8}, {"a": 0.5, "b": 0.6})
    if plain is None:
        raise Wrong("forgetting(before, after) returns nothing yet.")
    if abs(plain - 0.35) < 1e-9:
        raise Wrong("That is a share. Return points of a hundred: 35, not 0.35.")
    if abs(plain + 35) < 1e-9:
        raise Wrong("The sign is the other way round: forgetting is before minus after.")
    if abs(plain - 35) > 1e-9:
        raise Wrong(f"One skill fell by 50 points, one by 20: the mean is 35, and you have {plain:g}.")
    better = own({"a": 1.0, "b": 0.5}, {"a": 0.5, "b": 0.9})
    if abs(better - 25) < 1e-9:
        raise Wrong("A skill that got better counts negative; here a gain of 40 stands against a loss of 50, mean 5.")
    if abs(better - 5) > 1e-9:
        raise Wrong(f"A loss of 50 and a gain of 40 have the mean 5, and you have {better:g}.")
    before, after = {"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 0.5, "b": 0.5, "d": 0.1}
    try:
        some = own(before, after)
    except KeyError:
        raise Wrong(
            "A skill that was scored only once made it fail. Count those that were scored both times."
        ) from None
    if abs(some - 100 * lost(before, after)) > 1e-9:
        raise Wrong(f"Only skills scored both times count: here two, with a mean of 50, and you have {some:g}.")
    return "In what follows it is this number, 0 for a model that kept everything."


def mixed(space: dict[str, Any]) -> str:
    """The right number of old examples, without repeats, shuffled by the seed; the lists are left alone."""
    own = _function(space, "mixed")
    new, old = [f"new {i}" for i in range(80)], [f"old {i}" for i in range(100)]
    answer = own(list(new), list(old), 0.2, 7)
    if answer is None:
        raise Wrong("mixed(new, old, share, seed) returns nothing yet.")
    found = list(answer)
    count = sum(x in set(old) for x in found)
    if sum(x in set(new) for x in found) != len(new):
        raise Wrong("All of the new examples belong into the list, each once.")
    wanted = replayed_count(len(new), 0.2)
    if count != wanted:
        raise Wrong(
            f"There are {count} old ones among {len(found)}, a share of {count / len(found):.2f}. "
            f"For 0.2 of all it takes {wanted}."
        )
    if len(set(found)) < len(found):
        raise Wrong("An old example stands there twice: draw without repeats.")
    if found != list(own(list(new), list(old), 0.2, 7)):
        raise Wrong(
            "Twice the same seed, and two different lists. Draw from a generator of your own: random.Random(seed)."
        )
    ends = found[: len(new)]
    if ends == new or all(x in set(new) for x in ends) or all(x in set(old) for x in found[:wanted]):
        raise Wrong("Old and new are not mixed: shuffle the list.")
    if found == list(own(list(new), list(old), 0.2, 8)):
        raise Wrong("Another seed gives the same list; the seed is not used.")
    kept_new, kept_old = list(new), list(old)
    own(kept_new, kept_old, 0.5, 1)
    if kept_new != new or kept_old != old:
        raise Wrong("One of the two lists was changed. Make a new one.")
    try:
        own(list(new), old[:5], 0.5, 1)
    except ValueError:
        return f"{wanted} old ones beside {len(new)} new, and the same list for the same seed."
    raise Wrong("Five old examples cannot be half of the list here, and no ValueError was raised.")
