"""Quantized checkpoints, whoever wrote them: what each matrix holds, and its values, one file a layout."""
