"""The prototype's child: reads texts from a socketpair, answers with scores. Started by server.py.

A message is a 4-byte little-endian length and msgpack: [number, text] in, [number, scores] out.
"""

from __future__ import annotations

import socket
import struct
import sys
from pathlib import Path

import msgspec

from benchmarks.bare.encoder import Encoder

LENGTH = struct.Struct("<I")


def main(descriptor: int, folder: Path) -> None:
    """Answer until the server is gone."""
    encoder = Encoder(folder)
    decoder, encode = msgspec.msgpack.Decoder(tuple[int, str]), msgspec.msgpack.Encoder().encode
    buffer = b""
    with socket.socket(fileno=descriptor) as sock:
        sock.sendall(LENGTH.pack(0))  # ready
        while data := sock.recv(1 << 20):
            buffer += data
            while len(buffer) >= LENGTH.size:
                end = LENGTH.size + LENGTH.unpack_from(buffer)[0]
                if len(buffer) < end:
                    break
                number, text = decoder.decode(buffer[LENGTH.size : end])
                buffer = buffer[end:]
                body = encode((number, encoder.classify(text)))
                sock.sendall(LENGTH.pack(len(body)) + body)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
