"""A stand-in of the Hugging Face Hub's API, on a socket: what uploading a model asks of it."""

from __future__ import annotations

import base64
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_aSecretOfTheTests"


class Hub:
    """Models by name: their visibility and their files. Only `TOKEN` may write, and to `me/`."""

    def __init__(self) -> None:
        self.visibility: dict[str, str] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.messages: list[str] = []
        self._large: dict[str, bytes] = {}
        self.url = ""

    @contextmanager
    def serving(self):
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self._answer("GET")

            def do_POST(self):
                self._answer("POST")

            def do_PUT(self):
                self._answer("PUT")

            def _answer(self, method):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = self.path.partition("?")[0]
                allowed = method == "PUT" or self.headers.get("Authorization") == f"Bearer {TOKEN}"
                status, answer = (
                    hub.answer(method, path, body)
                    if allowed
                    else (401, {"error": "Invalid username or password."})
                )
                text = json.dumps(answer).encode()
                self.send_response(status)
                if status == 404:
                    self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *arguments):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict | list]:
        if path == "/api/whoami-v2":
            return 200, {"name": "me", "type": "user"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if found := re.fullmatch(r"/large/(\w+)", path):
            self._large[found[1]] = body
            return 200, {}
        if found := re.fullmatch(r"/([\w-]+/[\w-]+)\.git/info/lfs/objects/batch", path):
            objects = json.loads(body)["objects"]
            return 200, {"transfer": "basic", "objects": [self._place(one) for one in objects]}
        found = re.fullmatch(r"/api/models/([\w-]+/[\w-]+)(?:/(\w+)/main.*)?", path)
        if not found or found[1] not in self.files:
            return 404, {"error": "Repository not found"}
        name, what = found.groups()
        if what is None:
            private = self.visibility[name] == "private"
            siblings = [{"rfilename": file} for file in self.files[name]]
            return 200, {"id": name, "private": private, "siblings": siblings, "tags": []}
        if what == "tree":
            return 200, [{"type": "file", "path": file, "size": len(content), "oid": "0"}
                         for file, content in self.files[name].items()]  # fmt: skip
        if what == "preupload":
            large = (".safetensors", ".gguf")
            return 200, {"files": [
                {"path": file["path"], "shouldIgnore": False,
                 "uploadMode": "lfs" if file["path"].endswith(large) else "regular"}
                for file in json.loads(body)["files"]
            ]}  # fmt: skip
        assert what == "commit", path
        return self._commit(name, [json.loads(line) for line in body.splitlines()])

    def _create(self, asked: dict) -> tuple[int, dict]:
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != "me":
            return 403, {"error": "You don't have the rights to create a model there"}
        if name in self.files:
            return 409, {"error": "You already created this model", "url": f"{self.url}/{name}"}
        self.files[name], self.visibility[name] = {}, asked.get("visibility", "public")
        return 200, {"url": f"{self.url}/{name}", "name": name}

    def _place(self, one: dict) -> dict:
        upload = {"href": f"{self.url}/large/{one['oid']}"}
        return {"oid": one["oid"], "size": one["size"], "actions": {"upload": upload}}

    def _commit(self, name: str, lines: list[dict]) -> tuple[int, dict]:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.messages.append(value["summary"])
            elif line["key"] == "file":
                self.files[name][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[name][value["path"]] = self._large[value["oid"]]
            elif line["key"] == "deletedFile":
                del self.files[name][value["path"]]
        return 200, {"commitUrl": f"{self.url}/{name}/commit/1", "commitOid": "1"}
