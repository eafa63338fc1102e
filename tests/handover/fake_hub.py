"""The few routes of the Hugging Face Hub that pushing and fetching a repository take, on 127.0.0.1, in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeHub:
    """A hub with repositories of plain files.

    Attributes:
        repos: Files by repository and path.
        private: The repositories that were made private.
        tokens: Every token that came with a request.
        refuse: A status that every request is answered with, or None.
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.tokens: set[str] = set()
        self.refuse: int | None = None
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                hub.answer(self)

            do_POST = do_HEAD = do_GET

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def commit_of(self, repo: str) -> str:
        listed = json.dumps({k: hashlib.sha1(v).hexdigest() for k, v in sorted(self.repos[repo].items())})
        return hashlib.sha1(listed.encode()).hexdigest()

    def answer(self, request: Any) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if token := request.headers.get("Authorization"):
            self.tokens.add(token)
        parts = urllib.parse.unquote(urllib.parse.urlsplit(request.path).path).strip("/").split("/")
        if self.refuse is not None:
            return self.send(request, self.refuse, {"error": "not today"})
        if parts[:3] == ["api", "repos", "create"]:
            asked = json.loads(body)
            repo = "/".join(filter(None, [asked.get("organization"), asked["name"]]))
            self.repos.setdefault(repo, {})
            if asked.get("visibility") == "private" or asked.get("private"):
                self.private.add(repo)
            return self.send(request, 200, {"url": f"{self.address}/{repo}", "name": repo})
        if parts[:2] == ["api", "validate-yaml"]:
            return self.send(request, 200, {"errors": [], "warnings": []})
        if parts[:2] == ["api", "models"]:
            return self.models(request, "/".join(parts[2:4]), parts[4:], body)
        if len(parts) > 3 and parts[2] == "resolve":
            return self.resolve(request, "/".join(parts[:2]), "/".join(parts[4:]))
        return self.send(request, 404, {"error": f"no route {request.path}"})

    def models(self, request: Any, repo: str, rest: list[str], body: bytes) -> None:
        if repo not in self.repos:
            request.send_response(404)
            request.send_header("X-Error-Code", "RepoNotFound")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return None
        files = self.repos[repo]
        if rest[:1] == ["preupload"]:
            told = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self.send(request, 200, {"files": told})
        if rest[:1] == ["commit"]:
            for line in filter(None, body.splitlines()):
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "deletedFile":
                    files.pop(value["path"], None)
            oid = self.commit_of(repo)
            return self.send(
                request, 200, {"success": True, "commitUrl": f"{self.address}/{repo}/commit/{oid}", "commitOid": oid}
            )
        if rest[:1] == ["tree"]:
            return self.send(
                request,
                200,
                [
                    {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for path, data in sorted(files.items())
                ],
            )
        return self.send(
            request,
            200,
            {
                "id": repo,
                "sha": self.commit_of(repo),
                "private": repo in self.private,
                "siblings": [{"rfilename": path} for path in sorted(files)],
            },
        )

    def resolve(self, request: Any, repo: str, path: str) -> None:
        data = self.repos.get(repo, {}).get(path)
        request.send_response(200 if data is not None else 404)
        if data is None:
            request.send_header("X-Error-Code", "EntryNotFound")
            data = b""
        else:
            request.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        if repo in self.repos:
            request.send_header("X-Repo-Commit", self.commit_of(repo))
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(data)

    def send(self, request: Any, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(data)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
