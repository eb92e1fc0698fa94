"""Work that takes longer than a page may: asked for by the client, done by the worker, met only in the store."""
