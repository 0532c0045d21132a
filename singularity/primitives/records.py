"""dataclasses.replace for nouns with many fields, of which a step changes a few: a twelfth as long.

A record is frozen, so nothing may be put into one in the ordinary and fast way. It is put into a
twin, of a class with the same slots, which becomes a record when it is complete.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # by its own name, or nobody would check what is given to it
    from dataclasses import replace as replace
else:
    from collections.abc import Callable
    from dataclasses import fields
    from dataclasses import replace as _replace
    from functools import cache

    def replace(record, /, **changes):
        """The record with other values in these fields. Raises TypeError for one it has not."""
        kind = type(record)
        twin_of = _twins(kind)
        if twin_of is None:
            return _replace(record, **changes)
        made = twin_of(record)
        try:
            for name, value in changes.items():
                setattr(made, name, value)
        except AttributeError as error:
            raise TypeError(f"{kind.__name__} has no field {name!r}") from error
        made.__class__ = kind
        return made

    @cache
    def _twins(kind: type) -> Callable | None:
        """Copies a record to a twin, in a line for each field, as dataclasses write their own
        methods; None for a class that does more than keep its fields in slots."""
        names = [f.name for f in fields(kind)]
        plain = all(f.init for f in fields(kind)) and not hasattr(kind, "__post_init__")
        slots = kind.__dict__.get("__slots__", ())
        if not plain or kind.__bases__ != (object,) or tuple(slots) != tuple(names):
            return None
        twin = type(f"{kind.__name__}Twin", (), {"__slots__": slots})
        lines = [f"    made.{name} = record.{name}" for name in names]
        made = {"new": object.__new__, "twin": twin}
        exec(
            "\n".join(["def copy(record):", "    made = new(twin)", *lines, "    return made"]),
            made,
        )
        return made["copy"]
