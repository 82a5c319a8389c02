"""Webhooks: events go, signed, to whoever asked for them."""
