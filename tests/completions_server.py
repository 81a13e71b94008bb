"""A small server of OpenAI's completions on loopback that behaves as it is told, request by request."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class CompletionsServer:
    """Answers each request by the next word of `behaviour`, and well once there is none left.

    Attributes:
        behaviour: of `well`, `slow`, `429`, `500`, `404`, `closes`, `few`, `junk`.
        asked: the requests' bodies.
    """

    def __init__(self, behaviour=(), answer=lambda asked, number: f"answer {number} to {len(asked['prompt'])} tokens"):
        self.behaviour, self.answer, self.asked, self._lock = list(behaviour), answer, [], threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server._lock:
                    server.asked.append((self.path, asked))
                    mood = server.behaviour.pop(0) if server.behaviour else "well"
                server._reply(self, asked, mood)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def _reply(self, handler, asked, mood):
        if mood == "slow":
            time.sleep(1.0)
        status = int(mood) if mood.isdigit() else 200
        number = asked["n"] - (mood == "few")
        told = {"choices": [{"index": index, "text": self.answer(asked, index)} for index in range(number)]} if status == 200 else {
            "error": f"told to answer {status}"}
        body = b"<html>" if mood == "junk" else json.dumps(told).encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        if status == 429:
            handler.send_header("Retry-After", "0")
        handler.end_headers()
        with contextlib.suppress(OSError):  # a client that did not wait
            handler.wfile.write(body[: len(body) // 2] if mood == "closes" else body)
        handler.close_connection = True

    def close(self):
        self._server.shutdown()
        self._server.server_close()
