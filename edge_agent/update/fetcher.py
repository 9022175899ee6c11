"""Lets TUF's client read the metadata in a folder; that client then believes what is signed."""

from __future__ import annotations

from collections.abc import Iterator

from tuf.api.exceptions import DownloadHTTPError, DownloadLengthMismatchError
from tuf.ngclient import FetcherInterface

from edge_agent.update.source import METADATA, SourceFolder, TooLong


class SourceFetcher(FetcherInterface):
    """Reads metadata for TUF's client, and remembers what it read."""

    def __init__(self, source: SourceFolder) -> None:
        """Read from a folder."""
        self._source = source
        self.files: dict[str, bytes] = {}
        """By name, in the order in which they were read."""

    def _fetch(self, url: str) -> Iterator[bytes]:
        raise DownloadHTTPError(f"{url} is never streamed", 404)

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """Return a metadata file. Raises DownloadHTTPError (404), DownloadLengthMismatchError."""
        name = url.rpartition("/")[2]
        try:
            raw = self._source.read(METADATA, name, max_length)
        except TooLong:
            raise DownloadLengthMismatchError(f"{METADATA}/{name} has more than {max_length} bytes") from None
        if raw is None:
            raise DownloadHTTPError(f"{METADATA}/{name} is missing", 404)
        self.files[name] = raw
        return raw
