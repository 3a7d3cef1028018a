"""Which build of Python this is: whether it was built with profile guided optimisation decides how slow peers look."""

from __future__ import annotations

import platform
import sys
import sysconfig


def optimised() -> bool:
    """True when the build says so, or is Debian's or Ubuntu's, which optimise without naming the option."""
    options = str(sysconfig.get_config_var("CONFIG_ARGS") or "")
    return "--enable-optimizations" in options or "deb_system" in sysconfig.get_scheme_names()


def described() -> str:
    kind = "optimised" if optimised() else "NOT optimised (pure-Python peers run about 1.4 times slower)"
    return f"{platform.python_implementation()} {platform.python_version()}, {kind} build"


if __name__ == "__main__":
    if "--is-optimised" in sys.argv:
        sys.exit(0 if optimised() and sys.version_info >= (3, 10) else 1)
    print(described())
