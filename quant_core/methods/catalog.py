"""The job that lists what the registries offer, for pages that load no torch."""

from __future__ import annotations

from quant_core import formats
from quant_core.jobs.context import Context
from quant_core.kv_cache import KV_CACHES
from quant_core.methods import activations, rounding, transforms
from quant_core.schema import Catalog, CatalogRequest


def catalog(context: Context, request: CatalogRequest) -> Catalog:
    """Every registered family and method."""
    families = formats.infos()
    return Catalog(
        tuple(families.values()),
        tuple(rounding.infos(families).values()),
        transforms=tuple(transforms.infos().values()),
        activations=tuple(activations.infos().values()),
        kv_caches=tuple(KV_CACHES.values()),
    )
