"""What all settings share: takes a frozen dataclass of settings, raises SettingError for what is
wrong with it.

The fields of a command's settings are its flags. What several commands have stands in a class that
they inherit from, once, with its help text; a class has at most 12 fields of its own.
"""

from dataclasses import fields
from typing import Any, TypeVar

from radnet_lake.errors import SettingError

T = TypeVar("T")


def name_flag(name: str) -> str:
    """Field of a settings class -> its flag."""
    return "--" + name.replace("_", "-")


def check_choices(config: Any) -> None:
    """Raise SettingError for a value that is neither its field's default nor of its `choices`."""
    for one in fields(config):
        choices = one.metadata.get("choices")
        value = getattr(config, one.name)
        if choices and value != one.default and value not in choices:
            remedy = f"use {', '.join(map(str, choices))}"
            raise SettingError(f"{value!r} is unknown", name_flag(one.name), remedy)


def check_least(config: Any, **least: float) -> None:
    """Raise SettingError for a number below the one that `least` has under its name."""
    for name, low in least.items():
        if not getattr(config, name) >= low:
            what = f"must be at least {low}"
            raise SettingError(what, name_flag(name), "give a larger number")


def take_settings(kind: type[T], config: Any) -> T:
    """Settings of a command that inherits from `kind` -> those of `kind` alone."""
    return kind(**{one.name: getattr(config, one.name) for one in fields(kind)})  # type: ignore[arg-type]
