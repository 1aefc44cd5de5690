"""``/metrics``, ``/livez`` and ``/readyz`` of one process.

/livez    200 while the polling loop of every worker runs; 503 names the worker that hangs: restart the process
/readyz   200 while every flow can be replicated, with the problems of background jobs; 503 says why not: wait, or
          check the named cluster
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from replicator.config import HttpSettings
from replicator.errors import ConfigError
from replicator.worker.worker import FlowWorker

PORTS_TRIED = 11


class HealthServer:
    """Serves the probes and the metrics in a thread of its own.

    Args:
        settings: address; a taken port is replaced by the next free one of the ten after it.

    Raises:
        ConfigError: none of the ports is free.
    """

    def __init__(self, settings: HttpSettings, registry: CollectorRegistry, workers: Mapping[str, FlowWorker]) -> None:
        self._server = _bind(settings, _handler(registry, workers))
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(2.0)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True


def _bind(settings: HttpSettings, handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    last = settings.port if settings.port == 0 else min(65_535, settings.port + PORTS_TRIED - 1)
    problem = ""
    for port in range(settings.port, last + 1):
        try:
            return _Server((settings.host, port), handler)
        except OSError as error:
            problem = error.strerror or str(error)
    raise ConfigError("http", f"no free port from {settings.port} to {last} on {settings.host}: {problem}")


def _handler(registry: CollectorRegistry, workers: Mapping[str, FlowWorker]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            path = self.path.split("?", 1)[0]
            if path == "/metrics":
                self._answer(200, generate_latest(registry), CONTENT_TYPE_LATEST)
            elif path == "/livez":
                dead = [
                    f"{name}: the worker hangs or has ended" for name, w in workers.items() if not w.is_alive_inside()
                ]
                self._probe(dead)
            elif path == "/readyz":
                notes = [f"{name}: {note}" for name, w in workers.items() for note in w.notes()]
                self._probe([f"{name}: {why}" for name, w in workers.items() if (why := w.not_ready())], notes)
            else:
                self._answer(404, b"there are /metrics, /livez and /readyz\n", "text/plain; charset=utf-8")

        def _probe(self, problems: list[str], notes: Sequence[str] = ()) -> None:
            body = "\n".join([*(problems or ["ok"]), *notes]) + "\n"
            self._answer(503 if problems else 200, body.encode(), "text/plain; charset=utf-8")

        def _answer(self, status: int, body: bytes, content_type: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Probes are not logged."""

    return Handler
