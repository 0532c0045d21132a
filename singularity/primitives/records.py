"""dataclasses.replace for nouns with many fields, of which a step changes a few: less than half as
long, for nothing is asked by name that can be asked at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # by its own name, or nobody would check what is given to it
    from dataclasses import replace as replace
else:
    from collections.abc import Callable
    from dataclasses import fields
    from dataclasses import replace as _replace
    from functools import cache
    from operator import attrgetter

    def replace(record, /, **changes):
        """The record with other values in these fields. Raises TypeError for one it has not."""
        kind = type(record)
        parts = _parts(kind)
        if parts is None:
            return _replace(record, **changes)
        get, places, setters = parts
        values = list(get(record))
        for name, value in changes.items():
            if name not in places:
                raise TypeError(f"{kind.__name__} has no field {name!r}")
            values[places[name]] = value
        made = object.__new__(kind)
        for put, value in zip(setters, values, strict=True):
            put(made, value)
        return made

    @cache
    def _parts(kind: type) -> tuple[Callable, dict[str, int], list[Callable]] | None:
        """All values at once, where each is, and how each is set; None for a class that does more
        than keep its fields in slots."""
        names = [f.name for f in fields(kind)]
        plain = all(f.init for f in fields(kind)) and not hasattr(kind, "__post_init__")
        if not plain or len(names) < 2:
            return None
        if any(name not in getattr(kind, "__slots__", ()) for name in names):
            return None
        setters = [getattr(kind, name).__set__ for name in names]
        return attrgetter(*names), {name: i for i, name in enumerate(names)}, setters
