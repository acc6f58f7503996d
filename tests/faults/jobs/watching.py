"""A client that watches a job over server-sent events and comes back whenever it is cut off."""

from __future__ import annotations

import contextlib
import threading
import time

import httpx2

LAST = ("result", "failed", "cancelled")


class Watcher(threading.Thread):
    """Collects the ids of a job's events, with ``Last-Event-ID`` after every interruption."""

    def __init__(self, port: int, job: str, within_s: float = 180) -> None:
        super().__init__(daemon=True)
        self.job = job
        self.ids: list[int] = []
        self.connections = 0
        self._address = f"http://127.0.0.1:{port}/jobs/{job}/events"
        self._deadline = time.monotonic() + within_s
        self._over = False
        self.start()

    def run(self) -> None:
        while not self._over and time.monotonic() < self._deadline:
            with contextlib.suppress(httpx2.HTTPError):
                self._watch()
            time.sleep(0.2)

    def _watch(self) -> None:
        after = {"Last-Event-ID": str(self.ids[-1])} if self.ids else {}
        with httpx2.stream("GET", self._address, headers=after, timeout=20) as stream:
            if stream.status_code != 200:
                return
            self.connections += 1
            event, kind = 0, ""
            for line in stream.iter_lines():
                if line.startswith("id:"):
                    event = int(line.removeprefix("id:"))
                elif line.startswith("event:"):
                    kind = line.removeprefix("event:").strip()
                elif not line and event:  # the event is whole
                    self.ids.append(event)
                    self._over = kind in LAST
                    event = 0
