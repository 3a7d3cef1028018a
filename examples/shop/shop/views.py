"""The pages of the shop. Each view says how it is cached; what it shows comes from `catalogue.py`."""

import re
from decimal import Decimal, InvalidOperation
from functools import wraps

from django.conf import settings
from django.http import Http404, HttpResponse, HttpResponseForbidden, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.crypto import constant_time_compare
from django.utils.decorators import method_decorator
from django.views.decorators.cache import cache_page, never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST
from django.views.generic import DetailView, ListView

from . import catalogue, covers
from .cart import MOST_OF_ONE, Cart, total
from .models import Film, Genre, Person
from .pages import price_page

# ---------------------------------------------------------------------------- without prices: per-site cache


def home(request):
    """Kept by the per-site cache alone."""
    genres = Genre.objects.with_counts()[:9]
    tiles = [{**genre, "films": catalogue.best_of_genre(genre["slug"])} for genre in genres]
    return render(request, "shop/home.html", {"tiles": tiles})


@cache_page(300)
def numbers(request):
    return render(request, "shop/numbers.html", catalogue.numbers())


def cover(request, pk):
    """A picture made from the film's title; `urls.py` wraps it in `cache_page` for a day."""
    film = get_object_or_404(Film.objects.only("title", "year"), pk=pk)
    return HttpResponse(covers.svg(film.pk, film.title, film.year), content_type="image/svg+xml")


def year(request, year):
    """Expensive when it is cold: what happens when all visitors ask for it at once is a row of the demo's table."""
    report = catalogue.year_in_film(year)
    if report is None:
        raise Http404("no films of this year")
    return render(request, "shop/year.html", report)


@method_decorator(cache_page(600), name="dispatch")
class PersonView(DetailView):
    model = Person
    template_name = "shop/person.html"

    def get_context_data(self, **kwargs):
        person = self.object
        return super().get_context_data(directed=person.directed.all(), acted=person.acted.all(), **kwargs)


# ------------------------------------------------------------------------------ with prices: pages with tags


GENRE_SLUG = re.compile(r"[a-z-]{1,40}")


def _list_tags(request):
    """A list of one genre changes with that genre's films, any other list with all; each counts the genres."""
    genre = request.GET.get("genre", "")
    return ["films", f"genre:{genre}" if GENRE_SLUG.fullmatch(genre) else "prices"]


@method_decorator(price_page(_list_tags), name="dispatch")
class FilmListView(ListView):
    template_name = "shop/film_list.html"
    paginator_class = catalogue.CachedCountPaginator
    paginate_by = 24

    def get_queryset(self):
        asked = self.request.GET
        decade, sort = asked.get("decade", ""), asked.get("sort", "popular")
        self.filters = {
            "genre": asked.get("genre", "")[:40],
            "decade": int(decade) if decade.isascii() and decade.isdigit() and len(decade) == 4 else None,
            "query": asked.get("q", "").strip()[:80],
            "sort": sort if sort in catalogue.SORTS else "popular",
        }
        return catalogue.find(**self.filters).prefetch_related("genres")

    def get_context_data(self, **kwargs):
        page_free = self.request.GET.copy()
        page_free.pop("page", None)
        sorts = [(key, label) for key, (label, _) in catalogue.SORTS.items()]
        return super().get_context_data(
            filters=self.filters, genres=Genre.objects.with_counts(), sorts=sorts,
            decades=range(2010, 1930, -10), link=page_free.urlencode(), **kwargs,
        )  # fmt: skip


def count_view(view):
    """Counts outside the page cache, so that a look at a stored page counts too."""

    @wraps(view)
    def counted(request, pk, **kwargs):
        response = view(request, pk=pk, **kwargs)
        if response.status_code == 200:
            catalogue.count_view(pk)
        return response

    return counted


@method_decorator([count_view, price_page(lambda request, pk, **kwargs: [f"film:{pk}"])], name="dispatch")
class FilmView(DetailView):
    queryset = Film.objects.prefetch_related("genres", "directors", "cast")
    template_name = "shop/film.html"

    def get_context_data(self, **kwargs):
        return super().get_context_data(similar=catalogue.similar(self.object), **kwargs)


# ------------------------------------------------------------------------------- never cached as whole pages


@never_cache
def trending(request):
    return render(request, "shop/trending.html", {"films": catalogue.trending()})


@never_cache
def cart(request):
    lines = Cart(request).lines()
    return render(request, "shop/cart.html", {"lines": lines, "total": total(lines)})


@never_cache
def cart_add(request, pk):
    """GET asks how many (this page, not the cached one, carries the CSRF token); POST puts them into the cart."""
    if request.method != "POST":
        film = get_object_or_404(Film, pk=pk)
        return render(request, "shop/cart_add.html", {"film": film, "most": MOST_OF_ONE})
    get_object_or_404(Film.objects.only("pk"), pk=pk)
    quantity = request.POST.get("quantity", "")
    if not (quantity.isascii() and quantity.isdigit() and 1 <= int(quantity[:3]) <= MOST_OF_ONE):
        return HttpResponse(f"quantity must be a number from 1 to {MOST_OF_ONE}", status=400)
    cart = Cart(request)
    cart.add(pk, int(quantity))
    return cart.save(redirect("cart"))


@require_POST
def cart_remove(request, pk):
    cart = Cart(request)
    cart.remove(pk)
    return cart.save(redirect("cart"))


@never_cache
def film_row(request, pk):
    """For the shop's other programs: title and price of a film."""
    found = catalogue.rows([pk])
    if not found:
        raise Http404("no such film")
    return JsonResponse(found[pk])


@csrf_exempt
@require_POST
def change_price(request, pk):
    """For the shop's other programs: a new price, guarded by a token instead of a cookie."""
    if not settings.PRICE_TOKEN or not constant_time_compare(
        request.headers.get("X-Price-Token", ""), settings.PRICE_TOKEN
    ):
        return HttpResponseForbidden("the X-Price-Token header must hold the shop's PRICE_TOKEN")
    film = get_object_or_404(Film, pk=pk)
    try:
        price = Decimal(request.POST.get("price", "")).quantize(Decimal("0.01"))
    except InvalidOperation:
        price = Decimal(-1)
    if not (price.is_finite() and 0 < price < 10_000):
        return HttpResponse("price must be a number above 0 and below 10000", status=400)
    film.change_price(price)
    return JsonResponse({"pk": film.pk, "price": str(price)})
