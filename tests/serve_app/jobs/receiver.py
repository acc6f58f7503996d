"""A receiver of webhooks on a port of this machine, which verifies what it gets."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError


class Receiver:
    """Answers with ``script``, one entry a request, then 204 for ever.

    An entry is a status with headers, or None: the connection is closed without an answer.
    """

    def __init__(self, secret: str) -> None:
        self.script: list[tuple[int, dict[str, str]] | None] = []
        self.payloads: list[dict[str, Any]] = []  # of all requests that verified
        self.ids: list[str] = []
        self.refused = 0
        self._webhook = Webhook(secret)
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.take(self)

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128  # with 5, a burst of messages is reset by the kernel

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/hook"

    def take(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("content-length", 0)))
        try:
            payload = self._webhook.verify(body, dict(request.headers))
        except WebhookVerificationError:
            self.refused += 1
            request.send_response(401)
            request.end_headers()
            return
        self.payloads.append(payload)
        self.ids.append(request.headers["webhook-id"])
        answer = self.script.pop(0) if self.script else (204, {})
        if answer is None:
            request.close_connection = True
            return
        request.send_response(answer[0])
        for name, value in answer[1].items():
            request.send_header(name, value)
        request.end_headers()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
