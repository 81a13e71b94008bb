"""A small server of OpenAI's completions on loopback that behaves as it is told, request by request."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class CompletionsServer:
    """Answers each request by the next word of `behaviour`, and well once there is none left.

    Attributes:
        behaviour: of `well`, `slow`, a status as `429`, `closes`, `few`, `junk`; for echoes also `bare`, `short`, `null`, `nan`.
        asked: the requests' bodies.
    """

    def __init__(self, behaviour=(), answer=lambda asked, number: f"answer {number} to {len(asked['prompt'])} tokens", weights=None,
                 models=("base",), reads=None):
        """Args: weights: a folder of a model, whose tokens are written and echoed; models: names it is served by; reads: tokens at most."""
        self.behaviour, self.answer, self.asked, self._lock = list(behaviour), answer, [], threading.Lock()
        self.weights, self.models, self.reads = Weights(weights) if weights else None, models, reads
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                length = {"max_model_len": server.reads} if server.reads else {}
                listed = [{"id": name, "object": "model", **length} for name in server.models]
                server._send(self, 200, json.dumps({"object": "list", "data": listed}).encode())

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
        told = {"choices": self._choices(asked)} if status == 200 else {"error": f"told to answer {status}"}
        if mood == "few":
            del told["choices"][-1]
        if mood in ("bare", "short", "null", "nan"):
            spoil(told["choices"][-1], mood)
        body = b"<html>" if mood == "junk" else json.dumps(told).encode()
        self._send(handler, status, body, len(body) // 2 if mood == "closes" else None)

    def _choices(self, asked):
        if self.weights is None:
            return [{"index": index, "text": self.answer(asked, index)} for index in range(asked["n"])]
        with self._lock:
            return [{"index": index, **(self.weights.echo(ids) if asked.get("echo") else self.weights.write(ids, asked["max_tokens"]))}
                    for index, ids in reversed(list(enumerate(asked["prompt"])))]  # in no order: their index tells

    def _send(self, handler, status, body, whole=None):
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        if status == 429:
            handler.send_header("Retry-After", "0")
        handler.end_headers()
        with contextlib.suppress(OSError):  # a client that did not wait
            handler.wfile.write(body[:whole])
        handler.close_connection = True

    def close(self):
        self._server.shutdown()
        self._server.server_close()


def spoil(choice, mood):
    """Make an echo wrong: no log-probabilities, one too few, one that is null or NaN."""
    if mood == "bare":
        choice["logprobs"] = None
    elif mood == "short":
        del choice["logprobs"]["token_logprobs"][-1]
    else:
        choice["logprobs"]["token_logprobs"][-2] = None if mood == "null" else float("nan")


class Weights:
    """A model that echoes a prompt with its log-probabilities and writes greedily, one prompt at a time, in fp32."""

    def __init__(self, folder):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def _next(self, ids):
        import torch

        with torch.inference_mode():
            return self.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)

    def echo(self, ids):
        """As vLLM answers `echo` with `max_tokens: 1`: the first token has no log-probability, and one token is written."""
        found = self._next(ids)
        best = found.argmax(-1).tolist()
        values, likeliest, said = [None], [None], [*ids, best[-1]]
        for place, token in enumerate(said[1:]):
            values.append(found[place, token].item())
            likeliest.append({str(token): values[-1], str(best[place]): found[place, best[place]].item()})
        tokens = self.tokenizer.convert_ids_to_tokens(said)
        return {"text": self.tokenizer.decode(said), "logprobs": {"tokens": tokens, "token_logprobs": values, "top_logprobs": likeliest}}

    def write(self, ids, most):
        """Some tokens, the likeliest each time."""
        said = list(ids)
        for _ in range(most):
            said.append(int(self._next(said)[-1].argmax()))
        return {"text": self.tokenizer.decode(said[len(ids) :])}
