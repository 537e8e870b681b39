"""Classes: what each clip is of, and the numbers that a network knows classes by.

A class is given in captions.jsonl, as {"file": "a.mp4", "class": "dog"} or with a number, "label":
3, or both; else it is the top folder that the clip lies in below the searched one, as torchvision's
ImageFolder has it.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeGuard

from ...platform.errors import MoescopeError
from .captions import CLASS_KEYS, FILE_KEYS, first_text, read_lines

CLASSES_FILE = "classes.json"
MOST_CLASSES = 1_000_000


class Given(NamedTuple):
    """What is said of a clip's class; at least one of both is there."""

    name: str | None
    number: int | None


def read_class_file(path: Path) -> dict[str, Given]:
    """Reads {file name as written: class} from the lines of a captions.jsonl that give one.

    Of two lines about one file the later counts. Raises MoescopeError with file and line.
    """
    classes: dict[str, Given] = {}
    for number, entry in read_lines(path):
        name = first_text(entry, FILE_KEYS)
        given = _given(entry, f"{path} line {number}")
        if name is not None and given is not None:
            classes[Path(name).as_posix()] = given
    return classes


def folder_class(name: str) -> Given:
    """Returns the class of a clip by its name: the top folder, or the empty class outside all."""
    folder, slash, _ = name.partition("/")
    return Given(folder if slash else "", None)


def number_classes(
    given: Iterable[Given], known: Mapping[str, int], *, is_resumed: bool = True
) -> dict[str, int]:
    """Returns {class: number}, by number.

    A known class keeps its number; of those that no clip is of any more, only where a run is
    resumed. A number that is given counts. All other names get the lowest free numbers in the order
    of `sorted`. A number without a name is called `class 3`. Raises MoescopeError where a class
    would have two numbers, or a number two classes.
    """
    said = dict.fromkeys(given)
    there = {name for name, _ in said} | {_nameless(n) for _, n in said if n is not None}
    numbers = {name: number for name, number in known.items() if is_resumed or name in there}
    names = {number: name for name, number in numbers.items()}
    for name, number in said:
        if number is None or name is None:
            continue
        if names.get(number) == _nameless(number):
            del numbers[names.pop(number)]
        if numbers.get(name, number) != number:
            raise MoescopeError(
                f"class {name} is given the number {number}, but it has {numbers[name]} already"
            )
        if names.get(number, name) != name:
            raise MoescopeError(
                f"the number {number} is given to class {name}, but {names[number]} has it already"
            )
        numbers[name], names[number] = number, name
    for name, number in said:
        if name is None and number is not None and number not in names:
            numbers[_nameless(number)], names[number] = number, _nameless(number)
    free = (number for number in range(len(numbers) + len(said)) if number not in names)
    for name in sorted(name for name, _ in said if name is not None and name not in numbers):
        numbers[name] = next(free)
    return dict(sorted(numbers.items(), key=lambda pair: pair[1]))


def number_of(given: Given, numbers: Mapping[str, int]) -> int:
    """Returns a clip's number among those of `number_classes`."""
    return given.number if given.number is not None else numbers[given.name or ""]


def refuse_more_classes(classes: Mapping[str, int], num_classes: int, folder: Path) -> None:
    """Raises MoescopeError where a network of num_classes does not know a class of the data."""
    needed = max(classes.values(), default=-1) + 1
    if needed > num_classes:
        raise MoescopeError(
            f"the clips in {folder} are of {needed} classes, but model.num_classes is "
            f"{num_classes}: set model.num_classes={needed}, or name a folder with fewer"
        )


def write_classes(run_folder: Path, classes: Mapping[str, int]) -> None:
    """Writes the run's classes and their numbers, as a whole or not at all."""
    unfinished = run_folder / f".{CLASSES_FILE}"
    unfinished.write_text(json.dumps(dict(classes), indent=1, ensure_ascii=False), encoding="utf-8")
    unfinished.replace(run_folder / CLASSES_FILE)


def read_classes(run_folder: Path) -> dict[str, int]:
    """Reads what `write_classes` wrote; empty where a run has none. Raises MoescopeError."""
    path = run_folder / CLASSES_FILE
    try:
        classes = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise MoescopeError(f"{path} cannot be read: {error}") from None
    if not isinstance(classes, dict) or not all(map(_is_number, classes.values())):
        raise MoescopeError(f"{path} is damaged: expected {{class: number}}")
    return classes


def _given(entry: Mapping[str, object], where: str) -> Given | None:
    """Reads `label` and `class` of a line; a text is a name and a number is a number in both."""
    name, number = None, None
    for key in CLASS_KEYS:
        value = entry.get(key)
        if isinstance(value, str):
            name = value if name is None else name
        elif _is_number(value):
            number = value if number is None else number
        elif value is not None:
            raise MoescopeError(
                f"{where}: {key} is {json.dumps(value)}, but a class is a name or a number from 0 "
                f"to {MOST_CLASSES - 1}"
            )
    return None if name is None and number is None else Given(name, number)


def _is_number(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_CLASSES


def _nameless(number: int) -> str:
    return f"class {number}"
