"""Number formats, one file a family; importing the package fills the registry."""

from quant_core.formats import float8, integer, normal_float, unquantized
from quant_core.formats.base import (
    FAMILIES,
    Codes,
    Family,
    Format,
    fake_quantize,
    find,
    from_blocks,
    infos,
    to_blocks,
)
from quant_core.jobs.context import Context
from quant_core.schema import Catalog, CatalogRequest

__all__ = [
    "FAMILIES",
    "Codes",
    "Family",
    "Format",
    "catalog",
    "fake_quantize",
    "find",
    "float8",
    "from_blocks",
    "infos",
    "integer",
    "normal_float",
    "to_blocks",
    "unquantized",
]


def catalog(context: Context, request: CatalogRequest) -> Catalog:
    """What the registries offer, for pages that load no torch."""
    return Catalog(tuple(infos().values()))
