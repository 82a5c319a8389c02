"""Which revision of the method wrote something."""

METHOD = "memit"
METHOD_REVISION = 4
"""In the name of what is kept; raised when the same facts and hyperparameters give another z or
solution: by how facts become tokens, by when z stops, by how weights are solved."""
