"""The admin's page of users."""

from typing import Any

from allauth.account.adapter import get_adapter
from allauth.account.models import EmailAddress
from allauth.core import context as allauth_context
from allauth.socialaccount.models import SocialAccount
from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.forms import AdminPasswordChangeForm
from django.contrib.auth.models import Group, Permission
from django.contrib.contenttypes.models import ContentType
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone, translation
from django.utils.translation import get_language, ngettext
from django.utils.translation import gettext_lazy as _

from accounts import asking_again, events
from accounts.http import member_of, peer_of
from accounts.joining import forget_invitation, invite
from accounts.leaving import check_another_superuser
from accounts.models import Invitation, User, valid_email
from accounts.second_factor import has_second_factor, remove_all

GRANTS = ("is_staff", "is_superuser", "groups", "user_permissions")
"""What gives somebody rights in the admin."""
OWN = ("email", "is_active", "is_staff", "is_superuser")
"""What nobody changes of themselves there."""


class NewPasswordForm(AdminPasswordChangeForm):  # type: ignore[type-arg]  # not generic at run time
    def save(self, commit: bool = True) -> Any:
        """Save the password alone: whoever was suspended while it was hashed stays so. Accounts elsewhere let nobody in
        any more, as after a reset by mail: whoever had got in may have connected theirs."""
        user = super().save(commit=False)
        with transaction.atomic():
            user.save(update_fields=["password"])
            SocialAccount.objects.filter(user=user).delete()
        _tell(user, "account/email/password_changed")
        return user


class CheckedAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Many of many are boxes to check. Django's two lists have no labels, and a phone no room for them. Permissions are
    those for what this admin has: others permit nothing."""

    filter_horizontal = ()

    def formfield_for_manytomany(self, db_field: Any, request: Any, **kwargs: Any) -> Any:
        field = super().formfield_for_manytomany(
            db_field, request, **{"widget": forms.CheckboxSelectMultiple, **kwargs}
        )
        if db_field.related_model is Permission and isinstance(field, forms.ModelChoiceField):
            tables = ContentType.objects.get_for_models(*self.admin_site._registry).values()
            field.queryset = Permission.objects.select_related("content_type").filter(content_type__in=tables)
        return field


class AskingAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Asks operators who they are once more before they change anything here: what they do is done to others, and an
    open screen or a stolen session must not be enough."""

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        _ask(request)
        return super().changelist_view(request, extra_context)

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        _ask(request)
        return super().changeform_view(request, *args, **kwargs)

    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        _ask(request)
        return super().delete_view(request, *args, **kwargs)


admin.site.unregister(Group)


@admin.register(Group)
class GroupAdmin(AskingAdmin, CheckedAdmin, DjangoGroupAdmin):  # type: ignore[misc]  # the stubs name its request otherwise
    """Only superusers make, change and delete groups: whoever enlarged one they are in would give themselves rights."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return _is_superuser(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return _is_superuser(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return _is_superuser(request)


@admin.register(User)
class UserAdmin(AskingAdmin, CheckedAdmin, DjangoUserAdmin):  # type: ignore[type-arg]
    change_password_form = NewPasswordForm
    ordering = ("-created_at",)
    list_display = ("email", "name", "locale", "is_active", "is_staff", "created_at", "last_login")
    list_filter = ("is_active", "is_staff", "locale")
    search_fields = ("email", "name")
    readonly_fields = ("confirmed", "second_factor", "created_at", "last_login", "closes_at")
    fieldsets = (
        (None, {"fields": ("email", "confirmed", "password", "second_factor")}),
        (_("Profile"), {"fields": ("name", "locale", "time_zone", "theme", "keep_history_days")}),
        (_("Access"), {"fields": ("is_active", "is_staff", "is_superuser", "groups", "user_permissions")}),
        (_("Dates"), {"fields": ("created_at", "last_login", "closes_at")}),
    )
    add_fieldsets = ((None, {"classes": ("wide",), "fields": ("email", "password1", "password2")}),)

    actions = ("confirm_addresses", "suspend", "let_back", "remove_second_factors")

    @admin.display(description=_("address confirmed"), boolean=True)
    def confirmed(self, user: User) -> bool:
        return bool(EmailAddress.objects.filter(user=user, email=user.email, verified=True).exists())

    @admin.action(description=_("Confirm their addresses"), permissions=["change"])
    def confirm_addresses(self, request: HttpRequest, selected: QuerySet[User]) -> None:
        """Take the operator's word for it, where no mail arrives. An address that somebody else has confirmed stays
        theirs."""
        confirmed = 0
        for user in selected:
            if not _may_touch(request, user):
                continue
            address, _is_new = EmailAddress.objects.get_or_create(user=user, email=user.email)
            confirmed += address.set_verified()
            address.set_as_primary(conditional=True)
        said = ngettext("%(number)d address is confirmed.", "%(number)d addresses are confirmed.", confirmed)
        self.message_user(request, said % {"number": confirmed}, messages.SUCCESS)

    @admin.display(description=_("second factor"), boolean=True)
    def second_factor(self, user: User) -> bool:
        return has_second_factor(user.pk)

    @admin.action(description=_("Remove their second factor"), permissions=["change"])
    def remove_second_factors(self, request: HttpRequest, selected: QuerySet[User]) -> None:
        """For who lost their telephone and their recovery codes, and has shown in some other way who they are."""
        removed = 0
        for user in selected.exclude(pk=member_of(request).pk):
            if _may_touch(request, user) and remove_all(user):
                removed += 1
                events.record("second_factor_removed", peer=peer_of(request), user_id=user.pk, kind="all")
                self.log_change(request, user, "second factor removed")
                _tell(user, "mfa/email/totp_deactivated")
        said = ngettext(
            "%(number)d person logs in without one now.", "%(number)d people log in without one now.", removed
        )
        self.message_user(request, said % {"number": removed}, messages.SUCCESS)

    def has_suspend_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perms(("accounts.suspend_user",)) or request.user.has_perms(("accounts.change_user",))

    @admin.action(description=_("Suspend: ends sessions, streams and keys at once"), permissions=["suspend"])
    def suspend(self, request: HttpRequest, selected: QuerySet[User]) -> None:
        self._set_active(request, selected, is_active=False)

    @admin.action(description=_("Let them back in"), permissions=["suspend"])
    def let_back(self, request: HttpRequest, selected: QuerySet[User]) -> None:
        self._set_active(request, selected, is_active=True)

    def _set_active(self, request: HttpRequest, selected: QuerySet[User], *, is_active: bool) -> None:
        changed = 0
        for user in selected.exclude(is_active=is_active).exclude(pk=member_of(request).pk):
            if not _may_touch(request, user):
                continue
            with transaction.atomic():
                if not is_active:
                    check_another_superuser(user)
                user.is_active = is_active
                user.save(update_fields=["is_active"])
            self.log_change(request, user, "let back" if is_active else "suspended")
            changed += 1
        said = ngettext("%(number)d person was changed.", "%(number)d people were changed.", changed)
        self.message_user(request, said % {"number": changed}, messages.SUCCESS)

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        """Filter by no secret: `?seal__startswith=` would reveal it, one guess at a time."""
        return not lookup.startswith("seal") and super().lookup_allowed(lookup, value, request)

    # Who may change people, and is no superuser, gives nobody rights, and changes no operator but themselves: with a
    # new address or password they would have the other's rights. Nobody changes here what is their own: pages of the
    # site ask who they are first, and a superuser stays.

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        found = tuple(super().get_readonly_fields(request, obj))
        found = found if obj != request.user else (*found, *OWN)
        return found if _is_superuser(request) else (*found, *GRANTS)

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        """Django's page of a new password; of one's own it is the one there is for everybody."""
        _ask(request)
        if self.get_object(request, unquote(id)) == request.user:
            return redirect("account_change_password")
        return super().user_change_password(request, id, form_url)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return _may_touch(request, obj) and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return obj != request.user and _may_touch(request, obj) and super().has_delete_permission(request, obj)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Whoever may delete a person may delete what goes with them, such as readings that nobody deletes alone."""
        shown, counts, needed, protected = super().get_deleted_objects(objs, request)
        if all(self.has_delete_permission(request, user) for user in objs):
            needed = set()
        return shown, counts, needed, protected

    def delete_model(self, request: HttpRequest, obj: User) -> None:
        check_another_superuser(obj)
        super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        with transaction.atomic():
            for user in queryset.filter(is_superuser=True):
                check_another_superuser(user)
                user.delete()
            super().delete_queryset(request, queryset)

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        """Save what was changed here, and nothing that was changed elsewhere meanwhile. A new address is the only one:
        with a row of the old one left, whoever has that could confirm nothing."""
        if not change:
            super().save_model(request, obj, form, change)
            return
        if not (obj.is_superuser and obj.is_active):
            check_another_superuser(User(pk=obj.pk, is_superuser=form.initial.get("is_superuser", False)))
        columns = {field.name for field in obj._meta.concrete_fields}
        obj.save(update_fields=columns.intersection(form.changed_data))
        if "email" in form.changed_data:
            EmailAddress.objects.filter(user=obj).exclude(email=obj.email).delete()
            former = form.initial["email"]
            forget_invitation(former)
            _tell(obj, "account/email/email_changed", former, from_email=former, to_email=obj.email)


@admin.register(Invitation)
class InvitationAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """To add one sends a mail; to delete one ends its link."""

    list_display = ("email", "invited_by", "created_at", "expires_at", "accepted_at")
    search_fields = ("email",)
    ordering = ("-created_at",)
    fields = ("email",)
    readonly_fields = ("invited_by", "created_at", "expires_at", "accepted_at")
    actions = ("send_again",)

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        return super().get_form(request, obj, change, form=InvitationForm, **kwargs)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nothing of one is changed; the list has an action for whoever may add."""
        return obj is None and self.has_add_permission(request)

    def save_model(self, request: HttpRequest, obj: Invitation, form: Any, change: bool) -> None:
        made = invite(obj.email, by=member_of(request), language=get_language() or settings.LANGUAGE_CODE)
        obj.pk = made.pk

    @admin.action(description=_("Invite them once more"), permissions=["add"])
    def send_again(self, request: HttpRequest, selected: QuerySet[Invitation]) -> None:
        waiting = selected.filter(accepted_at=None)
        for invitation in waiting:
            invite(invitation.email, by=member_of(request), language=get_language() or settings.LANGUAGE_CODE)
        said = ngettext("%(number)d mail was sent.", "%(number)d mails were sent.", len(waiting))
        self.message_user(request, said % {"number": len(waiting)}, messages.SUCCESS)


class InvitationForm(forms.ModelForm):  # type: ignore[type-arg]
    def clean_email(self) -> str:
        email = valid_email(self.cleaned_data["email"])
        if User.objects.filter(email=email).exists():
            raise forms.ValidationError(_("That address has an account."))
        return email


def _ask(request: HttpRequest) -> None:
    if request.method == "POST":
        asking_again.check(request)


def _tell(user: User, letter: str, address: str = "", **context: str) -> None:
    """Tell somebody by mail, in their language, what the staff has done to their account: whoever gives them another
    password or address can read what they write."""
    with translation.override(user.locale), timezone.override(user.zone):
        get_adapter(allauth_context.request).send_notification_mail(letter, user, context, email=address or user.email)


def _is_superuser(request: HttpRequest) -> bool:
    return isinstance(request.user, User) and request.user.is_superuser


def _may_touch(request: HttpRequest, user: User | None) -> bool:
    is_operator = user is not None and (user.is_staff or user.is_superuser)
    return not is_operator or _is_superuser(request) or user == request.user
