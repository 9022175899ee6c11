"""Room on the disk for what is on its way: taken before the first byte, so that nothing begins that cannot end."""

from __future__ import annotations

import ctypes
import errno
import os

from edge_agent.errors import DiskFull

_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE of fallocate(2): blocks behind the end of the file, which stays where it is
_UNKNOWN = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_BLOCK_BYTES = 512  # of st_blocks, on every file system: inode(7)

_fallocate = ctypes.CDLL(None, use_errno=True).fallocate64
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def take_room(fd: int, size_bytes: int, reserve_bytes: int) -> None:
    """Take blocks for a file of that size; of a disk that cannot promise them, only ask whether they are free.

    Raises:
        DiskFull: fewer than `reserve_bytes` would stay free for everything else.
        OSError: the disk failed.
    """
    lacking = size_bytes - os.fstat(fd).st_blocks * _BLOCK_BYTES
    if lacking <= 0:
        return
    disk = os.fstatvfs(fd)
    free = disk.f_bavail * disk.f_frsize
    if free - lacking < reserve_bytes:
        said = f"a download needs {lacking} more bytes and must leave {reserve_bytes} free, and there are {free}"
        raise DiskFull(
            said,
            remedy="Free some space on the disk of 'incoming_dir', or lower 'disk_reserve_bytes' under 'uplink' in "
            "agent.yaml; it is tried again by itself.",
        )
    if _fallocate(fd, _KEEP_SIZE, 0, size_bytes) != 0:
        code = ctypes.get_errno()
        if code not in _UNKNOWN:
            raise OSError(code, os.strerror(code))
