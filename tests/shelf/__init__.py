"""A small Django app whose models the tests cache."""
