"""The back office: films with their prices, genres and people."""

from decimal import Decimal

from django.contrib import admin

from .models import Film, Genre, Person

CENT = Decimal("0.01")


@admin.register(Film)
class FilmAdmin(admin.ModelAdmin):
    list_display = ["title", "year", "price", "score", "reviews"]
    list_filter = ["genres"]
    list_editable = ["price"]
    list_per_page = 50
    search_fields = ["title"]
    autocomplete_fields = ["genres", "directors", "cast"]
    actions = ["reduce_by_a_tenth"]

    @admin.action(description="Reduce the price by 10 %%")
    def reduce_by_a_tenth(self, request, queryset):
        for film in queryset:  # one by one: QuerySet.update() sends no signals
            film.change_price(max(CENT, (film.price * 9 / 10).quantize(CENT)))


@admin.register(Genre)
class GenreAdmin(admin.ModelAdmin):
    prepopulated_fields = {"slug": ["name"]}
    search_fields = ["name"]


@admin.register(Person)
class PersonAdmin(admin.ModelAdmin):
    search_fields = ["name"]
