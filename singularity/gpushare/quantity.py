"""Kubernetes quantities: "2", "1500m", "2k", "1Gi", "1e3"."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal
from typing import Final

from singularity.primitives.errors import InvalidSpec

_BINARY: Final = {f"{letter}i": Decimal(1024) ** (n + 1) for n, letter in enumerate("KMGTPE")}
_DECIMAL: Final = {
    **{"n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1)},
    **{letter: Decimal(1000) ** (n + 1) for n, letter in enumerate("kMGTPE")},
}
_SCALE: Final = _BINARY | _DECIMAL
_FORM: Final = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:[eE]([+-]?\d{1,3})|([a-zA-Z]{0,2}))")


def units(text: object) -> int:
    """The quantity in whole units, rounded up as Kubernetes does. Raises InvalidSpec."""
    found = _FORM.fullmatch(str(text).strip())
    if found is None or (found[3] or "") not in _SCALE:
        raise InvalidSpec(f"{text!r} is not a quantity of Kubernetes; write it like 2, 2k or 2Gi")
    scale = Decimal(10) ** int(found[2]) if found[2] else _SCALE[found[3] or ""]
    return int((Decimal(found[1]) * scale).to_integral_value(ROUND_CEILING))
