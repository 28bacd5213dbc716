"""The pinned versions go together: with what the project asks for, and with what they ask of each other."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PINS = {
    canonicalize_name(name): version
    for name, version in (
        line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if "==" in line
    )
}
# What PyTorch's wheels for Linux with CUDA ask for to the digit, and those for a processor do not mention (their
# METADATA on the usual index): pinned otherwise, nothing could be installed where there is a card.
OF_CUDA_WHEELS = {"2.13.0": {"triton": "3.7.1"}}


def test_what_the_project_asks_for_is_pinned_within_its_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for text in (*project["dependencies"], *(t for extra in project["optional-dependencies"].values() for t in extra)):
        asked = Requirement(text)
        if asked.name == project["name"] or (asked.marker and not asked.marker.evaluate({"platform_system": "Linux"})):
            continue
        assert canonicalize_name(asked.name) in PINS, f"constraints.txt has no {asked.name}"
        assert asked.specifier.contains(PINS[canonicalize_name(asked.name)], prereleases=True), text


@pytest.mark.parametrize("name", PINS)
def test_what_a_pinned_package_asks_for_is_pinned_within_its_range(name: str) -> None:
    try:
        wanted = [Requirement(text) for text in requires(name) or ()]
    except PackageNotFoundError:
        pytest.skip(f"{name} is not installed here")
    for asked in wanted:
        pin = PINS.get(canonicalize_name(asked.name))
        if pin is not None and (asked.marker is None or asked.marker.evaluate({"extra": ""})):
            assert asked.specifier.contains(pin, prereleases=True), f"{name} asks for {asked}, pinned is {pin}"


def test_a_machine_with_a_card_can_install_what_is_pinned() -> None:
    assert PINS["torch"] in OF_CUDA_WHEELS, "look up what the CUDA wheel of this torch asks for, and add it"
    for name, version in OF_CUDA_WHEELS[PINS["torch"]].items():
        assert PINS[name] == version
