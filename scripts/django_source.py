"""Fetches the source distribution of the installed Django, whose tests are run against our backends.

python scripts/django_source.py     prints the folder of its tests, .cache/django-<version>/tests
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".cache"


class NotFetched(Exception):
    """The source could not be downloaded; the message is one line."""


def tests_folder(version: str, python: str) -> Path:
    """The tests of this version of Django, downloaded and unpacked if they are not there yet.

    ``python`` is one that this version supports: pip refuses to download for others.
    """
    folder = CACHE / f"django-{version}"
    if not (folder / "tests" / "cache" / "tests.py").exists():
        _unpack(_download(version, python), folder)
    return folder / "tests"


def _download(version: str, python: str) -> Path:
    command = [python, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-binary", "Django", "-d", str(CACHE), f"Django=={version}"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [*CACHE.glob(f"[dD]jango-{version}.tar.gz")]
    if not found:
        lines = run.stderr.strip().splitlines() or ["pip said nothing"]
        raise NotFetched(f"the source of Django {version} could not be downloaded: {lines[-1]}")
    return found[0]


def _unpack(archive: Path, folder: Path) -> None:
    """Only the tests, into a folder that appears complete or not at all."""
    partial = folder.with_suffix(".part")
    with tarfile.open(archive) as source:
        for member in source:
            _, _, name = member.name.partition("/")
            if member.isfile() and name.startswith("tests/") and ".." not in Path(name).parts:
                path = partial / name
                path.parent.mkdir(parents=True, exist_ok=True)
                content = source.extractfile(member)
                assert content is not None
                path.write_bytes(content.read())
    partial.rename(folder)
    archive.unlink()


if __name__ == "__main__":
    import django

    print(tests_folder(django.get_version(), sys.executable))
