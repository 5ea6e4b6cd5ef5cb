"""The errors that each call may give, by the manual pages and by what disks, quotas and limits are known to do."""

from __future__ import annotations

import errno

_FULL = (errno.ENOSPC, errno.EDQUOT)
_BROKEN = (errno.EIO,)
_REFUSED = (errno.EROFS, errno.EACCES)

# The first one of each is what the short edition tries. EINTR is for the calls that are made past Python, which repeats its own.
ERRNOS: dict[str, tuple[int, ...]] = {
    "open": (errno.EMFILE, *_REFUSED, *_BROKEN, *_FULL),
    "close": _BROKEN,
    "read": _BROKEN,
    "pread": _BROKEN,
    "preadv": _BROKEN,
    "write": (*_FULL, *_BROKEN),
    "writev": (*_FULL, *_BROKEN),
    "pwrite": (*_FULL, *_BROKEN),
    "fsync": (*_BROKEN, *_FULL),
    "ftruncate": (*_BROKEN, *_FULL),
    "fallocate": (*_FULL, *_BROKEN, errno.EOPNOTSUPP),
    "mkdir": (*_FULL, *_REFUSED, *_BROKEN, errno.EMLINK),
    "rmdir": (*_BROKEN, *_REFUSED),
    "rename": (*_BROKEN, *_FULL, *_REFUSED),
    "replace": (*_BROKEN, *_FULL, *_REFUSED),
    "renameat2": (*_BROKEN, *_FULL, *_REFUSED, errno.EINVAL),
    "link": (errno.EMLINK, errno.EPERM, *_FULL, *_BROKEN, errno.EROFS),
    "unlink": (*_BROKEN, *_REFUSED),
    "stat": (*_BROKEN, errno.EACCES),
    "lstat": (*_BROKEN, errno.EACCES),
    "fstat": _BROKEN,
    "statx": (*_BROKEN, errno.ENOSYS),
    "fstatfs": (*_BROKEN, errno.ENOSYS),
    "statvfs": (*_BROKEN, errno.EACCES),
    "listdir": (errno.EMFILE, *_BROKEN, errno.EACCES),
    "scandir": (errno.EMFILE, *_BROKEN, errno.EACCES),
    "mmap": (errno.ENOMEM,),
    "flock": (errno.ENOLCK,),
    "fcntl": (errno.EINVAL,),
    "sync_file_range": (*_BROKEN, errno.ENOSYS),
}
ONCE_ONLY: dict[str, tuple[int, ...]] = {"fallocate": (errno.EINTR,)}  # for ever, a signal a call, it would rightly never end
