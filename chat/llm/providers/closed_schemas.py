"""JSON schemas as Anthropic takes them for answers."""

from typing import Any

_WORDS = frozenset(("type", "enum", "const", "$ref", "description", "title", "required"))
_LISTS = {"anyOf": "anyOf", "oneOf": "anyOf", "allOf": "allOf"}
_MAPS = frozenset(("$defs", "definitions", "properties"))
_FORMATS = frozenset(("date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"))


def closed_schema(schema: Any) -> Any:
    """Return a JSON schema as it is taken: objects have the properties they name and no others, and what is unknown
    becomes a part of the description. Its SDK does the same.

    https://platform.claude.com/docs/en/build-with-claude/structured-outputs
    """
    if not isinstance(schema, dict):
        return schema
    closed: dict[str, Any] = {}
    unknown: dict[str, Any] = {}
    for name, value in schema.items():
        if name in _WORDS or (name == "format" and str(value) in _FORMATS):
            closed[name] = value
        elif name in _LISTS and isinstance(value, list):
            closed[_LISTS[name]] = [*map(closed_schema, value)]
        elif name in _MAPS and isinstance(value, dict):
            closed[name] = {key: closed_schema(part) for key, part in value.items()}
        elif name == "items" or (name == "minItems" and value in (0, 1)):
            closed[name] = closed_schema(value)
        elif name != "additionalProperties":
            unknown[name] = value
    if closed.get("type") == "object" or "properties" in closed:
        closed["additionalProperties"] = False
    if unknown:
        stated = ", ".join(f"{name}: {value}" for name, value in unknown.items())
        closed["description"] = f"{closed.get('description', '')}\n\n{{{stated}}}".strip()
    return closed
