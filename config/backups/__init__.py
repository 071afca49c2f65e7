"""Backups of the whole site and their restoring: both databases and the files people attached (docs/backups.md).

A backup is one file: a tar of small members, gzipped, encrypted in the format of `age`. Nothing of it is ever in memory
as a whole. Why it is made so is in docs/adr/0032-backups.md.
"""
