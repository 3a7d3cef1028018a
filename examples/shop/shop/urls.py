"""URLs of the shop."""

from django.urls import path
from django.views.decorators.cache import cache_page

from . import views

urlpatterns = [
    path("", views.home, name="home"),
    path("films/", views.FilmListView.as_view(), name="films"),
    path("film/<int:pk>/<slug:slug>/", views.FilmView.as_view(), name="film"),
    path("cover/<int:pk>.svg", cache_page(24 * 3600)(views.cover), name="cover"),
    path("person/<int:pk>/", views.PersonView.as_view(), name="person"),
    path("year/<int:year>/", views.year, name="year"),
    path("trending/", views.trending, name="trending"),
    path("numbers/", views.numbers, name="numbers"),
    path("cart/", views.cart, name="cart"),
    path("cart/add/<int:pk>/", views.cart_add, name="cart-add"),
    path("cart/remove/<int:pk>/", views.cart_remove, name="cart-remove"),
    path("api/film/<int:pk>/", views.film_row, name="film-row"),
    path("api/price/<int:pk>/", views.change_price, name="change-price"),
]
