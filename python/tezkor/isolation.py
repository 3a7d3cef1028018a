"""Whose cache this process may touch: the project's own region, or private memory under a test runner.

It never opens a store, and imports nothing but the standard library, so that the pytest plugin costs nothing.
"""

from __future__ import annotations

import hashlib
import os
import sys

# Set by the pytest plugin when a session starts; xdist's workers set it too, since they load the plugin.
pytest_runs = False


def under_test_runner() -> bool:
    """Whether pytest, Django's test runner (also its parallel workers) or ``python -m unittest`` runs this process."""
    if pytest_runs or _RUNNER_STARTED:
        return True
    state = getattr(sys.modules.get("django.test.utils"), "_TestState", None)
    if hasattr(state, "saved_data"):  # between setup_test_environment() and teardown_test_environment()
        return True
    # pytest without our plugin (-p no:tezkor). Children of a test inherit the variable, but do not load pytest.
    return "_pytest.config" in sys.modules and "PYTEST_VERSION" in os.environ


def runs_management_command() -> bool:
    """Whether the process was started as ``manage.py something`` or ``django-admin something``."""
    program = os.path.basename(sys.argv[0]) if sys.argv else ""
    return program in ("manage.py", "django-admin", "django-admin.py") or _main_module() == "django.__main__"


def _main_module() -> str:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return getattr(spec, "name", None) or ""


def _runner_was_started() -> bool:
    """``manage.py test`` sets its environment up after the apps are ready, but an app may use the cache before that."""
    if _main_module() == "unittest.__main__":
        return True
    return sys.argv[1:2] == ["test"] and runs_management_command()


_RUNNER_STARTED = _runner_was_started()


def own_region() -> str:
    """The name of the project's own region: the same for all processes of one user, settings module and its file.

    Symbolic links on the way to the file are kept, so that release folders behind one link share.
    """
    name, path = _settings_module()
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
    digest = hashlib.blake2b(f"{user}\0{name}\0{path}".encode(), digest_size=8).hexdigest()
    readable = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in name)
    return f"{readable[:40]}-{digest}"


def _settings_module() -> tuple[str, str]:
    from django.conf import UserSettingsHolder, settings

    holder = settings._wrapped
    while isinstance(holder, UserSettingsHolder):  # override_settings() hides the module behind one of these
        holder = holder.default_settings
    name = getattr(holder, "SETTINGS_MODULE", None)
    if isinstance(name, str):
        return name, _as_typed(getattr(sys.modules.get(name), "__file__", None) or "")
    # settings.configure(): the program stands for its settings.
    return "configured", _as_typed(getattr(sys.modules.get("__main__"), "__file__", None) or os.getcwd())


def _as_typed(path: str) -> str:
    """The absolute path with the links that the user went through.

    Python resolves the folder of ``manage.py``, and the system that of the working directory; what was typed is
    still in ``sys.argv`` and ``$PWD``.
    """
    path = os.path.abspath(path)
    here = os.environ.get("PWD", "")
    if not (os.path.isabs(here) and os.path.exists(here) and os.path.samefile(here, os.getcwd())):
        here = os.getcwd()
    program = os.path.dirname(os.path.join(here, sys.argv[0])) if sys.argv and sys.argv[0] else here
    for typed in (os.path.normpath(program), here):
        real = os.path.realpath(typed)
        if real != typed and path.startswith(real + os.sep):
            return typed + path[len(real) :]
    return path
