"""The site's version, and the only place for it. What a release checks of it is in docs/contributing.md."""

VERSION = "0.1.0"
