"""An upstream that is neither ours nor a model: it notes what reached it, byte by byte."""

from __future__ import annotations

import json
import socketserver
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler

ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "recorded",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "noted"}, "finish_reason": "stop", "logprobs": None}
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}
CHUNKS = [
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "noted"}, "finish_reason": None}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {"choices": [], "usage": ANSWER["usage"]},
]


@dataclass(frozen=True)
class Recorded:
    """One request as it arrived; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Recorder:
    """Answers health checks like llama-server and chat like OpenAI, and keeps every request."""

    def __init__(self) -> None:
        self._requests: list[Recorded] = []
        self._lock = threading.Lock()
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                recorder._note(self, b"")
                known = {"/health": {"status": "ok"}, "/props": {"total_slots": 4}, "/slots": []}
                path = self.path.split("?")[0]
                if path == "/v1/models":
                    self._reply(200, {"object": "list", "data": [{"id": "recorded", "object": "model"}]})
                else:
                    self._reply(200 if path in known else 404, known.get(path, {"error": {"message": "unknown"}}))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                recorder._note(self, body)
                if json.loads(body).get("stream"):
                    frame = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "recorded"}
                    events = [f"data: {json.dumps({**frame, **chunk})}\n\n" for chunk in CHUNKS]
                    self._send(200, "text/event-stream", "".join([*events, "data: [DONE]\n\n"]).encode())
                else:
                    self._reply(200, ANSWER)

            def _reply(self, status: int, body: object) -> None:
                self._send(status, "application/json", json.dumps(body).encode())

            def _send(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nothing: the requests are kept."""

        class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
            # Not http.server.HTTPServer: that one looks its own name up, which can take seconds.
            daemon_threads = True
            allow_reuse_address = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def posts(self) -> list[Recorded]:
        """The inference requests, oldest first."""
        with self._lock:
            return [request for request in self._requests if request.method == "POST"]

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()

    def _note(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        headers = {name.lower(): value for name, value in handler.headers.items()}
        with self._lock:
            self._requests.append(Recorded(handler.command, handler.path, headers, body))
