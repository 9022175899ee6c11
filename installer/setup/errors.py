"""Errors by the party that must act: the numbers are the exit codes of docs/exit-codes.md."""

from __future__ import annotations

import errno

DONE, FAILED, USAGE, MACHINE, LATER, REFUSED, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130


class SetupError(Exception):
    """A message that is clear on its own, a remedy, and the exit code."""

    def __init__(self, code: int, message: str, remedy: str) -> None:
        """Store the three."""
        super().__init__(message)
        self.code, self.message, self.remedy = code, message, remedy


def from_os_error(error: OSError) -> SetupError:
    """Translate an error of the file system for a technician."""
    where = f" ({error.filename})" if error.filename else ""
    message = f"{error.strerror}{where}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SetupError(MACHINE, f"the disk is full: {message}", "Free some space and run the same command again.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return SetupError(MACHINE, f"not allowed: {message}", "Run it as root, on a file system that can be written.")
    return SetupError(MACHINE, message, "Fix this, then run the same command again.")
