"""As much of DNS as it takes to ask where a name leads: one question, one CNAME."""

from __future__ import annotations

import socket
import struct


def cname(line: socket.socket, server: tuple[str, int], name: str) -> str:
    """The name that `server` answers with over `line`, a UDP socket with a timeout; empty where there is none."""
    question = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"
    query = struct.pack(">HHHHHH", 7, 0, 1, 0, 0, 0) + question + struct.pack(">HH", 5, 1)
    line.sendto(query, server)
    answer = line.recv(4096)
    if struct.unpack(">H", answer[6:8])[0] == 0:
        return ""
    at = 12 + len(question) + 4 + 2 + 10
    labels = []
    while (length := answer[at]) != 0:
        if length >= 0xC0:
            at = struct.unpack(">H", answer[at : at + 2])[0] & 0x3FFF
            continue
        labels.append(answer[at + 1 : at + 1 + length].decode())
        at += 1 + length
    return ".".join(labels)
