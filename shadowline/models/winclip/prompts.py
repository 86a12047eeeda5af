"""Prompts as data: the name of a class, words for its normal and its defective state, and sentence templates.

`prompts/default.yaml` holds prompt sets for every class, `prompts/<class>.yaml`, where there is one, its own words:

    words: solar cell                     # without it, the class's name with spaces
    defects: [crack, dark spot]           # its vocabulary of defects
    sets:                                 # its own sets; a set with the name of a default replaces it
      vocabulary:
        normal: ["flawless {}"]           # {} or {words}: the class's words
        anomalous: ["{} with a {defect}"] # {defect}: once per word of the vocabulary
        templates: ["a photo of a {}."]   # {} or {state}: the state above

A side's prompts are its states in all templates. Which set a class uses: the one that `shadowline prompts search` has
recorded in `prompts/chosen/<class>.json`, else `zero_shot.prompt_set`.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from shadowline.core.atomic_files import read_json, write_json
from shadowline.core.params import CLASS_NAME_PATTERN

DEFAULT = "default.yaml"


def _placeholders(text: str) -> list[str]:
    """Names of the placeholders, "" for {}; raises ValueError for a lone brace or a format inside."""
    parts = [part for part in string.Formatter().parse(text) if part[1] is not None]
    if any(spec or conversion for _, _, spec, conversion in parts):
        raise ValueError(f"{text!r}: a placeholder is a name in braces and nothing else")
    return [str(name) for _, name, _, _ in parts]


def _check_state(text: str) -> str:
    names = _placeholders(text)
    unknown = sorted(set(names) - {"", "words", "defect"})
    if unknown or len([name for name in names if name != "defect"]) != 1 or names.count("defect") > 1:
        raise ValueError(f"{text!r}: a state needs {{}} or {{words}} once, and may have {{defect}} once")
    return text


def _check_template(text: str) -> str:
    if _placeholders(text) not in ([""], ["state"]):
        raise ValueError(f"{text!r}: a template needs {{}} or {{state}} once, and no other placeholder")
    return text


def _check_plain(text: str) -> str:
    if not text.strip() or _placeholders(text):
        raise ValueError(f"{text!r}: need words without placeholders")
    return text


def _check_distinct(texts: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted({text for text in texts if texts.count(text) > 1})
    if twice:
        raise ValueError(f"{twice} more than once; a repeated prompt only weighs double")
    return texts


Plain = Annotated[str, AfterValidator(_check_plain)]
SetName = Annotated[str, Field(pattern=CLASS_NAME_PATTERN)]
States = Annotated[
    tuple[Annotated[str, AfterValidator(_check_state)], ...], Field(min_length=1), AfterValidator(_check_distinct)
]
Templates = Annotated[
    tuple[Annotated[str, AfterValidator(_check_template)], ...], Field(min_length=1), AfterValidator(_check_distinct)
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PromptSet(_Frozen):
    """States per side, and the templates that both sides share."""

    normal: States
    anomalous: States
    templates: Templates


class DefaultFile(_Frozen):
    sets: dict[SetName, PromptSet] = Field(min_length=1)


class ClassFile(_Frozen):
    words: Plain | None = None  # None: the class's name with spaces
    defects: Annotated[tuple[Plain, ...], AfterValidator(_check_distinct)] = ()
    sets: dict[SetName, PromptSet] = {}


@dataclass(frozen=True)
class Prompts:
    """One set, filled in for one class: what the text tower reads."""

    set_name: str
    normal: tuple[str, ...]
    anomalous: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Of both sides, whatever their order."""
        sides = json.dumps([sorted(self.normal), sorted(self.anomalous)], ensure_ascii=False)
        return hashlib.sha256(sides.encode()).hexdigest()


@dataclass(frozen=True)
class PromptBook:
    """All sets that a class can use, in the order of the files."""

    class_name: str
    words: str
    defects: tuple[str, ...]
    sets: Mapping[str, PromptSet]

    def fill(self, set_name: str) -> Prompts:
        """Raises ValueError for an unknown set, naming the nearest, and for a set that needs words for defects."""
        if set_name not in self.sets:
            nearest = difflib.get_close_matches(set_name, self.sets, n=1, cutoff=0.3)
            hint = f"; did you mean '{nearest[0]}'?" if nearest else ""
            raise ValueError(f"class '{self.class_name}': no prompt set '{set_name}', need one of {[*self.sets]}{hint}")
        chosen = self.sets[set_name]
        sides = [self._side(set_name, states, chosen.templates) for states in (chosen.normal, chosen.anomalous)]
        return Prompts(set_name, *sides)

    def fillable(self) -> list[Prompts]:
        """Every set that the class's vocabulary can fill."""
        needing = [name for name, prompt_set in self.sets.items() if not self.defects and _needs_defects(prompt_set)]
        return [self.fill(name) for name in self.sets if name not in needing]

    def _side(self, set_name: str, states: tuple[str, ...], templates: tuple[str, ...]) -> tuple[str, ...]:
        filled = [text for state in states for text in self._fill_state(state)]
        if not filled:
            raise ValueError(
                f"class '{self.class_name}': prompt set '{set_name}' asks for defects, and the class names none; "
                f"add them to prompts/{self.class_name}.yaml"
            )
        return tuple(template.format(state, state=state) for state in filled for template in templates)

    def _fill_state(self, state: str) -> list[str]:
        if "defect" not in _placeholders(state):
            return [state.format(self.words, words=self.words)]
        return [state.format(self.words, words=self.words, defect=defect) for defect in self.defects]


def _needs_defects(prompt_set: PromptSet) -> bool:
    """Whether a side would be empty without a vocabulary."""
    return any(
        all("defect" in _placeholders(state) for state in side) for side in (prompt_set.normal, prompt_set.anomalous)
    )


def read_book(folder: Path, class_name: str) -> PromptBook:
    """The default sets and the class's own; raises FileNotFoundError, or ValueError naming every wrong field."""
    if not re.fullmatch(CLASS_NAME_PATTERN, class_name):
        raise ValueError(f"class {class_name!r}: not a class name; small letters, digits, - and _")
    default = _read(folder / DEFAULT, DefaultFile)
    path = folder / f"{class_name}.yaml"
    own = _read(path, ClassFile) if path.is_file() else ClassFile()
    words = own.words or class_name.replace("_", " ").replace("-", " ")
    return PromptBook(class_name, words, own.defects, {**default.sets, **own.sets})


def choose(folder: Path, class_name: str, default_set: str) -> Prompts:
    """The prompts that a class uses; raises ValueError where its files have changed since the search."""
    book = read_book(folder, class_name)
    record = chosen_path(folder, class_name)
    if not record.is_file():
        return book.fill(default_set)
    winner = read_json(record)
    prompts = book.fill(winner["prompt_set"])
    if prompts.sha256 != winner["prompts_sha256"]:
        raise ValueError(
            f"{record}: prompt set '{prompts.set_name}' has changed since it was chosen; run `shadowline prompts "
            f"search {class_name}` again, or delete the record to use zero_shot.prompt_set"
        )
    return prompts


def chosen_path(folder: Path, class_name: str) -> Path:
    return folder / "chosen" / f"{class_name}.json"


def record_choice(folder: Path, class_name: str, winner: Prompts, evidence: Mapping[str, Any]) -> Path:
    """Write the winner with the evidence for it; the same search writes the same bytes."""
    path = chosen_path(folder, class_name)
    fields = {"class_name": class_name, "prompt_set": winner.set_name, "prompts_sha256": winner.sha256}
    write_json(path, {**evidence, **fields})
    return path


F = TypeVar("F", bound=BaseModel)


def _read(path: Path, kind: type[F]) -> F:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; it holds the prompts, see docs/decisions/0011-winclip.md")
    try:
        return kind.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {error}") from None
    except ValidationError as error:
        wrong = [
            f"{path}: {_explain(problem['loc'], problem['type'], problem['msg'], kind)}" for problem in error.errors()
        ]
        raise ValueError("\n".join(wrong)) from None


def _explain(location: tuple[int | str, ...], kind: str, message: str, model: type[BaseModel]) -> str:
    dotted = ".".join(map(str, location)) or "file"
    if kind != "extra_forbidden":
        return f"{dotted}: {message}"
    keys = [*model.model_fields] if len(location) == 1 else [*PromptSet.model_fields]
    nearest = difflib.get_close_matches(str(location[-1]), keys, n=1, cutoff=0.5)
    return f"unknown key {dotted}" + (f"; did you mean {nearest[0]}?" if nearest else f"; known are {keys}")
