"""The reference of every key, made from the sections: ``python -m fedfmd.config.reference PAGE``."""

import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_args

import tomli_w
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fedfmd import registry
from fedfmd.config.conditions import Needs, OnlyIf
from fedfmd.config.experiment import ExperimentConfig
from fedfmd.config.parts import Named
from fedfmd.config.study import StudyConfig
from fedfmd.config.values import LARGEST
from fedfmd.units import unit_of

START, END = "<!-- made from the code: from here -->", "<!-- to here -->"
SAMPLES: Mapping[str, str] = {
    "model": '[model]\nname = "resnet8"\nconv = "fmdconv"\nkernels = 4\nnorm = "gn"',
    "partition": '[partition]\nscheme = "dirichlet"\nclients = 100\nalpha = 0.3\nholdout = 0.2',
    "data": '[data]\nname = "imagefolder"\nroot = "my-images"\nimage_size = 32',
    "evaluation": '[partition]\nholdout = 0.2\n\n[evaluation]\nevery = 5\nclients = "all"\n'
    'models = ["global", "affordable"]',
    "devices": '[devices]\nkind = "tiers"\n\n[[devices.tiers]]\nname = "strong"\nlike = "laptop"\n\n'
    "[[devices.tiers]]\n"
    'name = "weak"\nlike = "phone-low"\nbudget = { macs_fraction = 0.3 }',
    "budget": "[budget]\nmacs_fraction = 0.5\nuplink_bytes = 2e6",
    "policy": '[budget]\nmacs_fraction = 0.5\n\n[policy]\nkind = "width"\nwidths = [1.0, 0.5, 0.25]',
    "selection": '[devices]\nkind = "lognormal"\n\n[selection]\nkind = "oort"\nover_selection = 1.3',
    "compression": '[compression]\nuplink = "topk"\ntopk_fraction = 0.1',
    "faults": '[faults]\nat = [{ round = 3, client = 7, kind = "raise" }]',
    "train": "[train]\nepochs = 20\nbatch_size = 128\nlearning_rate = 0.1",
    "diagnostics": "[diagnostics]\nenabled = true",
    "temperature": '[temperature]\nmode = "both"\nstart = 30.0\nanneal_rounds = 10',
}
"""What a section looks like where its plain defaults would not show it."""
STUDY_SAMPLE = """name = "budgets"
base = "experiment.toml"
seeds = [0, 1, 2]
set = { "policy.kind" = "width" }

[axes]
"model.conv" = ["static", "fmdconv"]
"budget.macs_fraction" = [0.25, 0.5, 1.0]

[figure]
x = "budget.macs_fraction"
labels = { fmdconv = "FMDConv" }"""


def page_text() -> str:
    """Return the tables of all keys of an experiment, then of a study, as Markdown."""
    parts = [_keys("Top level", "", ExperimentConfig)]
    found = list(_sections(ExperimentConfig))
    first: dict[type[BaseModel], str] = {}
    for name, section in sorted(found, key=lambda one: one[0].count(".")):
        first.setdefault(section, name)
    for name, section in found:
        alike = f"### `{name}`\n\nThe keys of [`{first[section]}`](#{_anchor(first[section])}).\n"
        parts.append(_section(name, section) if first[section] == name else alike)
    parts.append("## Studies\n\nA study file has these keys and sections.\n")
    parts.append(f"```toml\n{STUDY_SAMPLE}\n```\n")
    parts.append(_table("", StudyConfig))
    parts += [
        f"### `{name}` of a study\n\n{_words(section)}\n\n{_table('', section)}"
        for name, section in _sections(StudyConfig)
    ]
    return "\n".join(parts)


def sample(name: str) -> str:
    """Return a section as it may stand in a file; empty where there is none to show."""
    if name in SAMPLES:
        return SAMPLES[name]
    section = dict(_sections(ExperimentConfig))[f"[{name}]"]
    plain = {
        key: field.default
        for key, field in section.model_fields.items()
        if field.default not in (None, [], {}) and not _marks(field, OnlyIf, Needs)
        if isinstance(field.default, bool | int | float | str)
    }
    return tomli_w.dumps({name: dict(list(plain.items())[:5])}).strip() if plain else ""


def sections() -> list[str]:
    """List the names of the sections of an experiment."""
    return [name.strip("[]") for name, _ in _sections(ExperimentConfig) if "." not in name]


def _keys(title: str, prefix: str, section: type[BaseModel]) -> str:
    return f"## {title}\n\n{_words(section)}\n\n{_table(prefix, section)}"


def _anchor(name: str) -> str:
    """Return what the site and GitHub call the heading of a section alike."""
    return re.sub(r"[^\w-]", "", name)


def _section(name: str, section: type[BaseModel]) -> str:
    level = "###" if "." in name else "##"
    shown = "" if "." in name else sample(name.strip("[]"))
    text = f"\n```toml\n{shown}\n```\n" if shown else ""
    return f"{level} `{name}`\n\n{_words(section)}\n{text}\n{_table('', section)}"


def _sections(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield what stands in brackets in a file, with its keys; a section's own ones follow it."""
    for name, field in section.model_fields.items():
        inner, repeated = _inner(field.annotation)
        if inner is not None:
            dotted = prefix + name
            yield (f"[[{dotted}]]" if repeated else f"[{dotted}]"), inner
            yield from _sections(inner, f"{dotted}.")


def _inner(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """Return the section that a type holds, and whether it is a list of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    for part in get_args(annotation):
        found, _ = _inner(part)
        if found is not None:
            return found, str(annotation).startswith("list")
    return None, False


def _table(prefix: str, section: type[BaseModel]) -> str:
    lines = ["| key | allowed | default | what it is |", "| --- | --- | --- | --- |"]
    schema = _schema(section)
    for name, field in section.model_fields.items():
        if _inner(field.annotation)[0] is not None:
            continue
        allowed = _escaped(_allowed(schema["properties"][name], field))
        unit = unit_of(name)
        told = f"{allowed}, in {unit}" if unit not in ("", "%") else allowed
        lines.append(f"| `{prefix}{name}` | {told} | {_default(field)} | {_escaped(_meaning(field))} |")
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


@cache
def _schema(section: type[BaseModel]) -> dict[str, Any]:
    return section.model_json_schema()


def _allowed(schema: Mapping[str, Any], field: FieldInfo | None = None) -> str:
    """Say in words what a key takes."""
    for named in _marks(field, Named) if field else ():
        built_in = (n for n in registry.names(named.kind) if registry.origin(named.kind, n) is None)
        one_of = ", ".join(f"`{name}`" for name in built_in)
        return f"{one_of}, `MODULE:NAME`"
    if "anyOf" in schema:
        return " or ".join(_allowed(s) for s in schema["anyOf"] if s.get("type") != "null")
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    kind = str(schema.get("type", "any"))
    if kind == "array":
        return f"list of {_allowed(schema.get('items', {}))}"
    words = {"integer": "whole number", "number": "number", "boolean": "`true`, `false`", "string": "text"}
    return " ".join(filter(None, (words.get(kind, "table" if kind == "object" else "any"), _bounds(schema))))


def _bounds(schema: Mapping[str, Any]) -> str:
    low, above = schema.get("ge", schema.get("minimum")), schema.get("exclusiveMinimum")
    high, below = schema.get("le", schema.get("maximum")), schema.get("exclusiveMaximum")
    parts = [f"from {low:g}"] if low is not None else []
    parts += [f"above {above:g}"] if above is not None else []
    parts += [f"to {high:g}"] if high is not None and high < LARGEST else []
    parts += [f"below {below:g}"] if below is not None else []
    return " ".join(parts)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return ""
    text = tomli_w.dumps({"v": value}).strip().removeprefix("v = ") if value != {} else "{}"
    text = re.sub(r"\s+", " ", text).replace("[ ", "[").replace(", ]", "]").replace(",]", "]")
    return f"`{text}`"


def _meaning(field: FieldInfo) -> str:
    conditions = [mark.words for mark in _marks(field, OnlyIf, Needs)]
    return " ".join([_one_line(field.description or ""), *conditions])


def _marks(field: FieldInfo, *kinds: type) -> list[Any]:
    return [mark for mark in field.metadata if isinstance(mark, kinds)]


def _words(section: type[BaseModel]) -> str:
    return _one_line(section.__doc__ or "")


def _one_line(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def remade(page: str, content: str) -> str:
    """Return a page with ``content`` in the place of what stands between its two marks."""
    before, rest = page.split(START, 1)
    return f"{before}{START}\n\n{content}\n{END}{rest.split(END, 1)[1]}"


def with_reference(page: str) -> str:
    """Return the page with the tables of all keys made anew."""
    return remade(page, page_text())


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(with_reference(file.read_text(encoding="utf-8")), encoding="utf-8")
