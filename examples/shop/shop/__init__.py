"""A small film shop that uses every level of Django's cache framework."""
