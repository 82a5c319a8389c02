"""What is said between processes: pydantic models, names, settings and the error tree.

Knows nothing of torch, Redis or HTTP frameworks; every other package may import it.
"""
