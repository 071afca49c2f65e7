"""What can be wrong with a backup, or with where it is to be restored. Each message is a sentence for operators."""


class BackupError(Exception):
    """A backup cannot be made, read or restored."""


class DamagedBackup(BackupError):
    """The file is not what was written: it was cut off or altered, or is no backup at all."""


class WrongKey(BackupError):
    """None of the keys opens the file."""
