"""The Python client, both ways, against real services."""
