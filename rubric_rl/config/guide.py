"""Every field of the configuration as Markdown, read from the schema.

    python -m rubric_rl.config.guide                               # print it
    python -m rubric_rl.config.guide rubric_rl/config/README.md    # write it into the file

A section gets a table: key, what is allowed, default, meaning. A section that stands in several
places (a chat model) is described at the first and named at the others.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, Field, JsonValue

from rubric_rl.config.schema import Config
from rubric_rl.errors import DataError

BEGIN = "<!-- fields of the schema: begin -->"
END = "<!-- fields of the schema: end -->"

_KINDS = {
    "boolean": "true or false",
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "null": "null",
}


class _Node(BaseModel):
    """What is read of a JSON schema."""

    kind: str | None = Field(default=None, alias="type")
    reference: str | None = Field(default=None, alias="$ref")
    any_of: tuple[_Node, ...] = Field(default=(), alias="anyOf")
    choices: tuple[JsonValue, ...] = Field(default=(), alias="enum")
    constant: JsonValue = Field(default=None, alias="const")
    items: _Node | None = None
    description: str = ""
    default: JsonValue = None
    minimum: float | None = None
    above: float | None = Field(default=None, alias="exclusiveMinimum")
    maximum: float | None = None
    below: float | None = Field(default=None, alias="exclusiveMaximum")
    required: frozenset[str] = frozenset()
    properties: dict[str, _Node] = {}
    definitions: dict[str, _Node] = Field(default={}, alias="$defs")

    @property
    def parts(self) -> tuple[_Node, ...]:
        """The alternatives that the node allows, itself where it has none."""
        return self.any_of or (self,)

    @property
    def section(self) -> str | None:
        """Name of the section that the node holds, optional or not, alone or in a list."""
        for part in self.parts:
            held = part.items if part.items is not None else part
            if held.reference is not None:
                return held.reference.rpartition("/")[2]
        return None

    @property
    def is_list(self) -> bool:
        return any(part.kind == "array" for part in self.parts)

    @property
    def is_optional(self) -> bool:
        return any(part.kind == "null" for part in self.parts)


def field_guide() -> str:
    """All sections with all fields, in the schema's order."""
    root = _Node.model_validate(Config.model_json_schema())
    described: dict[str, str] = {}
    parts: list[str] = []
    for name, node in root.properties.items():
        parts += _section(name, node, root.definitions, described)
    return "\n".join(parts)


def with_field_guide(text: str) -> str:
    """A document with what stands between its two marks written anew. Raises DataError."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise DataError(f"want the lines {BEGIN!r} and {END!r}, and the fields go between them")
    return f"{before}{BEGIN}\n\n{field_guide()}\n{END}{after}"


def _section(
    path: str, node: _Node, definitions: dict[str, _Node], described: dict[str, str]
) -> Iterator[str]:
    """One section and then those within it, as blocks that a blank line ends each."""
    name = node.section
    assert name is not None, f"{path} is no section"
    level = "###" if "." not in path else "####"
    yield f"{level} `{path}`\n"
    optional = " It is `null`, unless one of its keys is set." if node.is_optional else ""
    if name in described:
        yield f"{_line(node.description)}{optional} The fields are those of `{described[name]}`.\n"
        return
    described[name] = path
    section = definitions[name]
    yield f"{_line(section.description)}{optional}\n"
    fields = section.properties
    values = {key: field for key, field in fields.items() if not field.section or field.is_list}
    if values:
        yield "| key | allowed | default | meaning |\n|---|---|---|---|"
        yield "\n".join(_row(path, key, field, section) for key, field in values.items()) + "\n"
    for key, field in fields.items():
        if field.section:
            inner = f"{path}.{key}[]" if field.is_list else f"{path}.{key}"
            yield from _section(inner, field, definitions, described)


def _row(path: str, key: str, field: _Node, section: _Node) -> str:
    default = "required" if key in section.required else f"`{_value(field.default)}`"
    cells = (f"`{path}.{key}`", _allowed(field), default, _line(field.description))
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _allowed(node: _Node) -> str:
    """What a value may be, in words."""
    return ", or ".join(filter(None, (_alternative(part) for part in node.parts)))


def _alternative(node: _Node) -> str:
    if node.choices or node.constant is not None:
        choices = node.choices or (node.constant,)
        return ", ".join(f"`{_value(choice)}`" for choice in choices)
    if node.kind == "array":
        return "list of sections" if node.section else "list of texts"
    words = _KINDS[node.kind or "null"]
    bounds = " and ".join(
        f"{sign} {bound:g}"
        for sign, bound in (
            (">=", node.minimum),
            (">", node.above),
            ("<=", node.maximum),
            ("<", node.below),
        )
        if bound is not None
    )
    return f"{words} {bounds}".strip()


def _value(value: JsonValue) -> str:
    """As it is written on the command line."""
    return value if isinstance(value, str) else json.dumps(value)


def _line(text: str) -> str:
    return " ".join(text.split())


def main(argv: Sequence[str]) -> int:
    """Print the guide, or write it into the files that are named. Raises DataError."""
    for path in map(Path, argv):
        path.write_text(with_field_guide(path.read_text(encoding="utf-8")), encoding="utf-8")
    if not argv:
        sys.stdout.write(field_guide())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
