"""Programs that run a model's files in somebody else's runtime; started by name (``quant_core.runtimes``), never
imported.
"""
