"""The command line behind ``python -m quant_core``: its arguments, its commands, and what it writes."""
