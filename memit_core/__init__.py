"""MEMIT, mass-editing memory in a transformer, usable from a notebook."""
