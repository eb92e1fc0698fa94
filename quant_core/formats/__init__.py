"""Number formats, one file a family; importing the package fills the registry."""

from quant_core.formats import float8, integer, normal_float, unquantized
from quant_core.formats.base import (
    FAMILIES,
    Codes,
    Family,
    Format,
    Grid,
    fake_quantize,
    find,
    from_blocks,
    infos,
    join,
    place,
    split,
    to_blocks,
)

__all__ = [
    "FAMILIES",
    "Codes",
    "Family",
    "Format",
    "Grid",
    "fake_quantize",
    "find",
    "float8",
    "from_blocks",
    "infos",
    "integer",
    "join",
    "normal_float",
    "place",
    "split",
    "to_blocks",
    "unquantized",
]
