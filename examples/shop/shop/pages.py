"""How whole pages are cached: the per-site cache for pages without prices, and a versioned `cache_page` for the rest.

No page cached here depends on who looks at it: carts and forms with a CSRF token have pages of their own, and the
number on the cart link is put there by the browser from a cookie.
"""

from functools import wraps

from django.conf import settings
from django.middleware.cache import FetchFromCacheMiddleware
from django.views.decorators.cache import cache_page

from . import versions


class FetchFromSiteCache(FetchFromCacheMiddleware):
    """Django's per-site cache, which does not even look for the pages that it must not keep."""

    def process_request(self, request):
        if request.path.startswith(settings.SITE_CACHE_SKIPS):
            request._cache_update_cache = False
            return None
        return super().process_request(request)


def price_page(version_name, timeout=600):
    """`cache_page` for a view that shows prices: stored under the version that `version_name(request, ...)` names.

    Browsers and the per-site cache are told not to keep the page, since neither would hear of a new price.
    """

    def decorate(view):
        @wraps(view)
        def cached(request, *args, **kwargs):
            name = version_name(request, *args, **kwargs)
            prefix = f"{name}.{versions.current(name)}"
            response = cache_page(timeout, key_prefix=prefix)(view)(request, *args, **kwargs)
            if hasattr(response, "render"):
                response = response.render()  # a template response is stored when it is rendered, not before
            response.headers.pop("Expires", None)
            response.headers["Cache-Control"] = "private, no-cache"
            return response

        return cached

    return decorate
