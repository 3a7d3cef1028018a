"""How whole pages are cached: the per-site cache for pages without prices, and pages with tags for the rest.

No page cached here depends on who looks at it: carts and forms with a CSRF token have pages of their own, and the
number on the cart link is put there by the browser from a cookie.
"""

import hashlib
from functools import wraps

from django.conf import settings
from django.http import Http404
from django.middleware.cache import FetchFromCacheMiddleware

from .caching import HAS_TAGS, cache

LONGEST_PATH = 120


class FetchFromSiteCache(FetchFromCacheMiddleware):
    """Django's per-site cache, which does not even look for the pages that it must not keep."""

    def process_request(self, request):
        if request.path.startswith(settings.SITE_CACHE_SKIPS):
            request._cache_update_cache = False
            return None
        return super().process_request(request)


def price_page(tags_of):
    """Keeps a page with prices until one of the tags that `tags_of(request, ...)` names is invalidated.

    Browsers and the per-site cache are told not to keep it, since neither would hear of a new price.
    """

    def decorate(view):
        kept = page_with_tags(tags_of, "PRICES")(view)

        @wraps(view)
        def call(request, *args, **kwargs):
            page = kept(request, *args, **kwargs)
            page.headers["Cache-Control"] = "private, no-cache"
            return page

        return call

    return decorate


def page_key(request):
    path = request.get_full_path()
    if len(path) > LONGEST_PATH:
        path = hashlib.sha256(path.encode()).hexdigest()
    return cache.key("page", path=path)


if HAS_TAGS:
    from tezkor import skip

    def page_with_tags(tags_of, timeout):
        """One run of the view for all workers, and never an old page after a write that came while it ran."""

        def decorate(view):
            @wraps(view)
            def call(request, *args, **kwargs):
                def load():
                    try:
                        page = view(request, *args, **kwargs)
                    except Http404:
                        return skip  # to raise it would mean that the load failed: nobody else would try for a while
                    page = page.render() if hasattr(page, "render") else page
                    return page if page.status_code == 200 else skip

                if request.method not in ("GET", "HEAD"):
                    return view(request, *args, **kwargs)
                page = cache.get_or_set(
                    page_key(request), load, timeout, tags=tags_of(request, *args, **kwargs)
                )
                return page or view(request, *args, **kwargs)

            return call

        return decorate

else:
    from .by_hand import page_with_tags
