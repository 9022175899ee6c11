"""The content of a folder after a power cut at any point, replayed from a trace of a process's calls there.

cut = PowerCut(folder)                          # all that is there now is on the disk
run(*TRACER, "-o", str(log))
for _ in cut.replay(log):
    cut.lay(elsewhere, names_first=False)        # what is on the disk if the power goes now

The disk has the bytes of a file as they were at its last fsync, and the names in a folder as they were at the folder's
last fsync. With `names_first` every name is on the disk at once, and the bytes still only when they are synced: as on a
file system whose journal gets there before the bytes do. Symbolic links are lost.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.strace import strace

CALLS = "openat,write,pwrite64,fsync,fdatasync,ftruncate,fallocate,rename,unlink,unlinkat,mkdir,rmdir"
TRACER = (*strace(f"trace={CALLS}"), "-y", "-s", "1000000")
TRACES_MAX = 5
"""So often a change is traced until no two threads wrote at a time."""
_UNORDERED = "<unfinished"
_LINE = re.compile(r"^(?:\d+ +)?(\w+)\((.*)\) += (\d+)(?:<(.*)>)?$")
_DESCRIPTOR = re.compile(r"^(\d+|AT_FDCWD)<([^>]*)>")
_TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')


def is_ordered(log: Path) -> bool:
    """Return whether the order of all calls is known: no call began before that of another thread ended."""
    return _UNORDERED not in log.read_text()


class _File:
    """A file, whatever its name: its bytes as a reader sees them, and as they are on the disk."""

    def __init__(self, content: bytes = b"") -> None:
        self.content, self.synced = bytearray(content), content

    def put(self, content: bytes, offset: int) -> None:
        self.resize(max(len(self.content), offset + len(content)))
        self.content[offset : offset + len(content)] = content

    def resize(self, size: int) -> None:
        del self.content[size:]
        self.content.extend(bytes(size - len(self.content)))


class PowerCut:
    """See the module."""

    def __init__(self, folder: Path) -> None:
        """Read what is there."""
        self._folder = folder
        self._names = {path: _File(b"" if path.is_dir() else path.read_bytes()) for path in folder.rglob("*")}
        self._folders = {folder, *(path for path in self._names if path.is_dir())}
        self._synced = dict(self._names)
        self._offsets: dict[str, int] = {}

    def replay(self, log: Path) -> Iterator[str]:
        """Replay the trace; yield each call after which a power cut has a different result than before."""
        for line in log.read_text().splitlines():
            assert _UNORDERED not in line, "two threads wrote at a time: the order is not known"
            match = _LINE.match(line)
            if match and self._do(*match.groups()):
                yield line[:200]

    def lay(self, place: Path, *, names_first: bool) -> None:
        """Write the content that a power cut at this point leaves."""
        place.mkdir()
        for path, file in sorted((self._names if names_first else self._synced).items()):
            target = place / path.relative_to(self._folder)
            if not target.parent.is_dir() or path.name.endswith("-shm"):
                continue  # a folder without a name; SQLite's shared memory, which it makes anew
            if path in self._folders:
                target.mkdir()
            else:
                target.write_bytes(file.synced)

    def _do(self, call: str, arguments: str, descriptor: str, opened: str | None) -> bool:
        texts = [ast.literal_eval(f'b"{text}"') for text in _TEXT.findall(arguments)]
        numbers = [int(each) for each in _TEXT.sub("", arguments).split(", ") if each.isdigit()]
        at = _DESCRIPTOR.match(arguments)
        if call == "openat":
            self._offsets[descriptor] = 0
            return self._open(Path(opened or ""), arguments)
        if at and call != "unlinkat":
            return self._change(call, at, b"".join(texts), numbers)
        return self._name(call, [Path(at[2] if at else "", text.decode()) for text in texts])

    def _open(self, path: Path, flags: str) -> bool:
        if not path.is_relative_to(self._folder) or "O_CREAT" not in flags:
            return False
        if "O_TRUNC" in flags and path in self._names:
            self._names[path].resize(0)
        return self._names.setdefault(path, _File()) is not self._synced.get(path)

    def _change(self, call: str, at: re.Match[str], content: bytes, numbers: list[int]) -> bool:
        """Change a file by its descriptor, or sync it or a folder."""
        descriptor, path = at[1], Path(at[2])
        syncs = call in ("fsync", "fdatasync")
        if path in self._folders and syncs:
            rest = {each: file for each, file in self._synced.items() if each.parent != path}
            self._synced = rest | {each: file for each, file in self._names.items() if each.parent == path}
        elif (file := self._names.get(path)) is None:
            return call == "write"  # outside: said to somebody, who may rely on it when the power goes
        elif syncs:
            file.synced = bytes(file.content)
        elif call == "write":
            file.put(content, self._offsets[descriptor])
            self._offsets[descriptor] += len(content)
        elif call == "pwrite64":
            file.put(content, numbers[-1])
        else:
            file.resize(numbers[-1] if call == "ftruncate" else max(len(file.content), sum(numbers[-2:])))
        return syncs

    def _name(self, call: str, paths: list[Path]) -> bool:
        """Make, move or remove a name."""
        if not paths[-1].is_relative_to(self._folder):
            return False
        moved = self._names.pop(paths[0], None) if call != "mkdir" else None
        file = _File() if call == "mkdir" else moved
        if file is not None and call in ("mkdir", "rename"):
            self._names[paths[-1]] = file
        if call == "mkdir":
            self._folders.add(paths[0])
        return True
