"""The site's version, here alone. The tag `v<version>` releases it, if CHANGELOG.md tells of it (docs/contributing.md)."""

VERSION = "0.1.0"
