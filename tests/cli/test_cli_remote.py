"""Chatting with members that a server has."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest


@pytest.fixture
def server():
    """An OpenAI-compatible server that says what it was asked."""
    told = SimpleNamespace(asked=[], models=["a", "b", "base"], status=200, keys=[], lists=True)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            told.keys.append(self.headers.get("Authorization"))
            if not told.lists:
                return self.send(404, {"error": "no such route"})
            return self.send(200, {"data": [{"id": name} for name in told.models]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told.asked.append((self.path, body))
            if told.status != 200:
                return self.send(told.status, {"error": {"message": "the engine is out of tea"}})
            said = f"{body['model']} heard {json.dumps(body.get('messages', body.get('prompt')))}"
            choice = {"text": said} if "prompt" in body else {"message": {"role": "assistant", "content": said}}
            return self.send(200, {"choices": [choice]})

        def send(self, status, value):
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    told.url = f"http://127.0.0.1:{listening.server_port}"
    yield told
    listening.shutdown()
    listening.server_close()


def test_a_preference_finds_the_member_and_the_server_answers_for_it(cli, run, server):
    found = cli("chat", run, "--server", server.url, "--prefer", "tone=1", "--prompt", "Do you like tea?", "--json")
    assert found.code == 0, found.err
    assert found.json()["member"] == "a"
    path, body = server.asked[0]
    assert path == "/v1/chat/completions"
    assert body["model"] == "a"
    assert body["messages"] == [{"role": "user", "content": "Do you like tea?"}]
    assert (body["max_tokens"], body["temperature"], body["seed"]) == (16, 1.0, 0)  # the run's
    assert not {"top_k", "top_p"} & set(body)


def test_settings_are_passed_on(cli, run, server):
    options = ["--temperature", "0", "--max-new-tokens", "5", "--seed", "7", "--system", "be brief"]
    assert cli("chat", run, "--server", f"{server.url}/v1/", "--member", "b", "--prompt", "x", *options).code == 0
    path, body = server.asked[0]
    assert path == "/v1/chat/completions"
    assert (body["max_tokens"], body["temperature"], body["seed"]) == (5, 0.0, 7)
    assert body["messages"][0] == {"role": "system", "content": "be brief"}


def test_no_model_is_loaded_and_the_key_goes_to_the_server_only(cli, run, server, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret")
    monkeypatch.setattr("pareto_align.policies.serving.recorded_base", lambda *_, **__: pytest.fail("loaded"))
    arguments = ["--server", server.url, "--api-key-env", "MY_KEY", "--member", "a", "--prompt", "x"]
    found = cli("chat", run, *arguments)
    assert found.code == 0
    assert server.keys == ["Bearer sk-secret"]
    assert "sk-secret" not in found.out + found.err


def test_a_run_without_a_chat_template_asks_for_plain_completions(cli, run, server):
    from pareto_align.front.storage import read_front, write_front

    record, _ = read_front(run / "front")
    record.base = {**record.base, "use_chat_template": False, "chat_template_used": False}
    adapter = {member.id: (run / "front" / member.adapter) for member in record.members}
    kept = {name: {p.name: p.read_bytes() for p in folder.iterdir()} for name, folder in adapter.items()}

    def write(name, folder):
        for file, data in kept[name].items():
            (folder / file).write_bytes(data)

    write_front(run / "front", record, write)
    assert cli("chat", run, "--server", server.url, "--member", "a", "--prompt", "Once").code == 0
    assert server.asked[0][0] == "/v1/completions"
    assert server.asked[0][1]["prompt"] == "Once"


def test_a_member_that_the_server_lacks(cli, run, server):
    found = cli("chat", run, "--server", server.url, "--member", "c", "--prompt", "x")
    assert (found.code, found.out) == (2, "")
    assert "does not have c; it has a, b." in found.err
    server.models = ["something"]
    found = cli("chat", run, "--server", server.url, "--member", "a", "--prompt", "x")
    assert "none of this front's members; it has something" in found.err
    server.lists = False  # a server that does not say is asked all the same
    assert cli("chat", run, "--server", server.url, "--member", "c", "--prompt", "x").code == 0


def test_what_goes_wrong_is_one_line(cli, run, server):
    server.status = 503
    found = cli("chat", run, "--server", server.url, "--member", "a", "--prompt", "x")
    assert found.code == 2
    assert "refuses (503)" in found.err
    assert "out of tea" in found.err
    found = cli("chat", run, "--server", "http://127.0.0.1:9", "--member", "a", "--prompt", "x")
    assert found.code == 2
    assert "No server answers at http://127.0.0.1:9/v1" in found.err
    for wrong in ("localhost:8000", "ftp://x", "http://", "http://x:port"):
        found = cli("chat", run, "--server", wrong, "--member", "a", "--prompt", "x")
        assert found.code == 2
        assert "--server must be an address" in found.err
    found = cli("chat", run, "--server", server.url, "--by", "logits", "--prompt", "x")
    assert "no mixtures" in found.err
