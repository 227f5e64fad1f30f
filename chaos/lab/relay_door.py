"""Knocking at a router's relay: which certificate it shows, and whom it lets in."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from .fleet import RELAY, Router

if TYPE_CHECKING:
    from .stage import Stage


def knock(stage: Stage, router: Router, identity: Path) -> bytes:
    """The certificate the router shows to somebody with this one (without suffix); raises where it is refused."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # Who is trusted is not the question here: the certificate itself is looked at.
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(identity.with_name(f"{identity.name}.pem"), identity.with_name(f"{identity.name}.key"))
    context.set_alpn_protocols(["h2"])
    line = stage.ground.socket(router.place, socket.SOCK_STREAM)
    line.settimeout(5)
    line.connect((router.host, RELAY))
    with context.wrap_socket(line) as wrapped:
        shown = wrapped.getpeercert(binary_form=True) or b""
        # TLS 1.3 tells a refused client only with its first read: HTTP/2 begins with the server's settings.
        wrapped.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        if not wrapped.recv(9):
            message = "closed without a word"
            raise ConnectionError(message)
    return shown


def serial_number(stage: Stage, router: Router) -> bytes:
    """What tells the certificate a router shows from any other: all of it."""
    other = next(peer for peer in stage.routers if peer is not router)
    return knock(stage, router, stage.fleet.certificates / other.name)


def strangers_are_refused(stage: Stage, router: Router, identity: Path) -> bool:
    """Whether somebody with this certificate is not let in."""
    try:
        knock(stage, router, identity)
    except (ssl.SSLError, ConnectionError):
        return True
    return False
