"""The models on offer, for the operator."""

from django.contrib import admin

from chat.models import LanguageModel


@admin.register(LanguageModel)
class LanguageModelAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("label", "key", "provider", "tier", "position", "enabled", "input_price", "output_price")
    list_editable = ("position", "enabled")
    list_filter = ("provider", "tier", "enabled")
    search_fields = ("key", "label", "provider_model")
