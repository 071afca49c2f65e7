"""What the page's own scripts say, translated by the server."""

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

WORDS: dict[str, Promise] = {
    "writing": _("Writing the answer."),
    "finished": _("The answer is complete: %(words)s words."),
    "ended": _("The answer ended."),
    "waiting": _("Still waiting for the first word…"),
    "in_line": _("Waiting for a free place: number %(place)s in line."),
    "reconnecting": _("Reconnecting…"),
    "polling": _("No live connection: this page asks for news every few seconds."),
    "connected": _("Connected again."),
    "copy": _("Copy"),
    "copied": _("Copied"),
    "not_copied": _("Copying did not work: select the text and copy it yourself."),
    "code": _("Code"),
    "code_in": _("Code in %(language)s"),
    "estimate_one": _("≈ 1 credit"),
    "estimate": _("≈ %(credits)s credits"),
    "unsent": _("Not sent yet: it goes out as soon as the connection is back."),
    "image": _("Image not shown:"),
}
