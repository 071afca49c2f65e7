"""`manage.py doctor`: looks at everything the site stands on, and says what to do about what is wrong."""

import sys
from argparse import ArgumentParser
from typing import Any

import msgspec
from django.core.management.base import BaseCommand

from config.doctor.examination import examine_everything

MARKS = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}
CODES = {"ok": 0, "warn": 1, "fail": 2}


class Command(BaseCommand):
    help = (
        "Look at stores, keys, webhooks, mail, clocks, proxy, disks and processes. Ends with 0 where all is well, 1 "
        "with warnings, 2 with failures."
    )
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="a list of findings, for programs")
        parser.add_argument("--only-wrong", action="store_true", help="leave out what is well")

    def handle(self, *_args: Any, json: bool, only_wrong: bool, **_options: Any) -> None:
        shown, code = [], 0
        for finding in examine_everything():
            code = max(code, CODES[finding.state])
            if only_wrong and finding.state == "ok":
                continue
            shown.append(finding)
            if not json:
                self.stdout.write(f"{MARKS[finding.state]}  {finding.subject}: {finding.said}")
                if finding.remedy:
                    self.stdout.write(f"      {finding.remedy}")
        if json:
            self.stdout.write(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())
        if code:
            sys.exit(code)
