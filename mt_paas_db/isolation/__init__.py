"""Proof of isolation on a service's own models: recognisable rows, and what is done with them."""
