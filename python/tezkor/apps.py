"""``INSTALLED_APPS = [..., "tezkor"]``: settings mistakes as system checks. The backends work without it too."""

from __future__ import annotations

from django.apps import AppConfig
from django.core.exceptions import ImproperlyConfigured

from tezkor import checks, isolation


class TezkorConfig(AppConfig):  # type: ignore[misc]
    name = "tezkor"
    verbose_name = "Tezkor"

    def ready(self) -> None:
        checks.register()
        if isolation.runs_management_command():
            return  # it runs the checks, or is what one repairs the settings with
        wrong = [message for message in checks.check_settings() if message.is_serious()]
        if wrong:
            raise ImproperlyConfigured("\n".join(f"{error.msg} {error.hint}" for error in wrong))
