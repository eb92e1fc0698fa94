"""QuantLens: see what quantization does to a language model, layer by layer, and choose where to spend the bits."""
