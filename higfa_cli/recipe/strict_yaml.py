"""YAML without its traps: no code, no repeated keys, `1e-3` is a number, `no` is a word."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any, ClassVar

import yaml

from higfa_cli.errors import RecipeError

# YAML 1.2's core rules instead of 1.1's: without them `1e-3` is text, `no` is false,
# `12:30` is 750 and `2024-01-02` a date.
_RULES = (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("int", r"^[-+]?(?:0|[1-9][0-9]*)$", "-+0123456789"),
    (
        "float",
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|(?:0|[1-9][0-9]*)(?=[eE]))(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        "-+.0123456789",
    ),
)

# A recipe is a page or two. The parser takes about a second for this many characters.
LONGEST = 200_000

_PLAIN = ("bool", "null", "int", "float", "str", "seq", "map")


class _Strict(yaml.BaseLoader):
    """What every loader here refuses: anchors, aliases, repeated keys and keys that are no text."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        # A few lines of aliases of aliases stand for billions of values, or for themselves.
        if getattr(event, "anchor", None) is not None:
            raise yaml.composer.ComposerError(
                None,
                None,
                f"anchors (&{event.anchor}) and aliases (*{event.anchor}) are refused; write the "
                "values out",
                event.start_mark,
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is not a text; put it in quotes", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key `{key}` appears twice; keep one", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Values(_Strict, yaml.SafeLoader):
    """PyYAML's safe loader with the rules above."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]
    # Without the constructors of !!set, !!binary, !!timestamp and the like: what is read is JSON.
    yaml_constructors: ClassVar[dict[str | None, Any]] = {
        tag: constructor
        for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in _PLAIN
    }


class _Texts(_Strict):
    """Every scalar is text, so that `747`, `No` and `1e3` stay class names."""


class _Dumper(yaml.SafeDumper):
    """Writes what `_Values` reads back unchanged."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        first: list(rules) for first, rules in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # Other styles fold these line separators into spaces.
    style = '"' if set(text) & set("\x85\u2028\u2029\r\n") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _represent_text)
for _tag, _pattern, _first in _RULES:
    for _class in (_Values, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first)
        )


def parse_yaml(text: str, origin: str) -> Any:
    """Parse a recipe's YAML text; `origin` names it in errors.

    Raises RecipeError with the line for bad syntax, tags, anchors, aliases, repeated keys and
    non-text keys, and for text that is larger than any recipe.
    """
    if len(text) > LONGEST:
        raise RecipeError(
            f"{origin}: {len(text):,} characters are too many (at most {LONGEST:,}); long lists "
            "belong in a file of their own (data.split_file, data.class_words)"
        )
    return _parse(text, origin, _Values)


def parse_texts(text: str, origin: str) -> Any:
    """As `parse_yaml`, every scalar being text, of any length."""
    return _parse(text, origin, _Texts)


def _parse(text: str, origin: str, loader: type[_Strict]) -> Any:
    try:
        return yaml.load(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}" if mark else ""
        raise RecipeError(f"{origin}{place}: {_one_line(error.problem)}") from None
    except RecursionError:
        raise RecipeError(f"{origin}: nested too deeply; write it flatter") from None
    except (yaml.YAMLError, ValueError) as error:
        raise RecipeError(f"{origin}: not valid YAML: {_one_line(str(error))}") from None


def dump_yaml(value: Any) -> str:
    """YAML text, keys in the order given, that `parse_yaml` reads back as the same value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=96)


def _one_line(message: str | None) -> str:
    text = " ".join((message or "bad syntax").split())
    if "could not determine a constructor for the tag" in text:
        tag = re.sub(r"'?tag:yaml\.org,2002:", "'!!", text.split("the tag ", 1)[1])
        return f"the tag {tag} is refused: only plain values are read; write it without the tag"
    return text
