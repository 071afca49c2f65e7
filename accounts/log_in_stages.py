"""The step of a log-in that asks for a second factor."""

from typing import Any

from allauth.account.internal.stagekit import clear_login
from allauth.account.stages import LoginStageController
from allauth.mfa.stages import AuthenticateStage
from django.http import HttpRequest

SEAL = "seal"


class CodeStage(AuthenticateStage):
    """allauth's, which remembers the seal: who waits for the code has the password of now, and no earlier one."""

    def handle(self) -> tuple[Any, bool]:
        response, goes_on = super().handle()
        if response is not None:
            self.state[SEAL] = self.login.user.seal
        return response, bool(goes_on)


def forget_void_log_in(request: HttpRequest) -> None:
    """End a log-in that waits for its second factor, if a new password, a suspension or a log-out everywhere has made
    it void meanwhile."""
    stage = LoginStageController.enter(request, CodeStage.key)
    if stage is not None and stage.state.get(SEAL) != stage.login.user.seal:
        clear_login(request)
