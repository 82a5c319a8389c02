"""Which revision of the method wrote something."""

METHOD = "memit"
METHOD_REVISION = 4
"""In the name of solutions; raised when the same facts and hyperparameters give another one: by
another z, or by how weights are solved."""
Z_REVISION = 3
"""In the name of z, which takes far longer; raised when the same facts and hyperparameters give
another one: by how facts become tokens, by when z stops."""
