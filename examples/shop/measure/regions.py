"""Removes the shared memory of the demo's own Tezkor region."""


def remove_region(location):
    pass
