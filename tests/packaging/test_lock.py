"""The lock files fit pyproject.toml: `scripts/lock` was run after the last change there."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS: dict[str, list[str]] = PYPROJECT["project"]["optional-dependencies"]
GROUPS: dict[str, list[Any]] = PYPROJECT["dependency-groups"]
LOCKS = {
    "demo": (["demo"], None),
    "test": (["all"], "test"),
    "dev": (["all"], "dev"),
    "bench": (["all"], "bench"),
}


def read_pins(name: str) -> dict[str, str]:
    """Read a lock file as project name → version."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    pins = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", text, re.MULTILINE)
    return {canonicalize_name(project): version for project, version in pins}


def list_group(group: str) -> list[str]:
    """List a dependency group's requirements, included groups too."""
    found: list[str] = []
    for entry in GROUPS[group]:
        found += [entry] if isinstance(entry, str) else list_group(entry["include-group"])
    return found


def list_requirements(extras: list[str], group: str | None) -> list[Requirement]:
    """List what the project with these extras and this group asks for, by name and range."""
    found: list[Requirement] = []
    texts = [*PYPROJECT["project"]["dependencies"]]
    texts += [text for extra in extras for text in EXTRAS[extra]]
    texts += list_group(group) if group else []
    for text in texts:
        requirement = Requirement(text)
        if requirement.name == "wirebell":
            found += list_requirements(sorted(requirement.extras), None)
        else:
            found.append(requirement)
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_lock_holds_every_requirement(name: str) -> None:
    """Each requirement is pinned, to a version in its range."""
    pins = read_pins(name)
    unfit = []
    for requirement in list_requirements(*LOCKS[name]):
        pin = pins.get(canonicalize_name(requirement.name))
        if pin is None or pin not in requirement.specifier:
            unfit.append(f"{requirement} (pinned: {pin})")

    assert [] == unfit, "run scripts/lock"


def test_smaller_locks_are_parts_of_the_larger() -> None:
    """An environment grows from demo to test to dev to bench without changing a version."""
    demo, test, dev, bench = (read_pins(name) for name in LOCKS)

    assert demo.items() <= test.items()
    assert test.items() <= dev.items()
    assert dev.items() <= bench.items()


@pytest.mark.parametrize("name", LOCKS)
def test_lock_has_hashes_and_no_address(name: str) -> None:
    """Every pin has a hash, and where packages come from is left to the machine."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    entries = re.split(r"\n(?=[a-z0-9])", text)[1:]

    assert [] == [entry.split(" ")[0] for entry in entries if "--hash=sha256:" not in entry]
    assert "://" not in text
    assert "--index" not in text


def test_extra_all_names_every_extra() -> None:
    """`wirebell[all]` forgets no extra."""
    (everything,) = EXTRAS["all"]

    assert sorted(Requirement(everything).extras) == sorted(EXTRAS.keys() - {"all"})
