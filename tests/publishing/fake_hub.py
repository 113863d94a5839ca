"""A Hub on loopback: the requests that huggingface_hub makes to create a repository, commit to it and fetch it."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


class FakeHub:
    """Repositories in memory: ``repos[name][path]`` is content; ``private[name]`` says who sees it.

    ``token``: the one that may write. ``requests``: method and path of each, in order.
    """

    def __init__(self, token: str = "hf_good") -> None:
        self.token = token
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.requests: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def answer(self, code: int, content: bytes = b"", **headers: str) -> None:
                self.send_response(code)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                if "Content_Length" not in headers:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def json(self, code: int, document: Any, **headers: str) -> None:
                self.answer(
                    code, json.dumps(document).encode(), Content_Type="application/json", **headers
                )

            def body(self) -> bytes:
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))

            def route(self) -> None:
                path = unquote(urlsplit(self.path).path)
                hub.requests.append(f"{self.command} {path}")
                sent = self.body()
                if (
                    self.command == "POST"
                    and self.headers.get("Authorization") != f"Bearer {hub.token}"
                ):
                    return self.json(
                        401, {"error": "Invalid credentials"}, X_Error_Message="Invalid credentials"
                    )
                if path == "/api/repos/create":
                    asked = json.loads(sent)
                    name = f"{asked.get('organization') or 'me'}/{asked['name']}"
                    hub.repos[name] = {".gitattributes": b""}
                    hub.private[name] = asked.get("private") or asked.get("visibility") == "private"
                    return self.json(200, {"url": f"{hub.url}/{name}", "name": name})
                if path == "/api/validate-yaml":
                    return self.json(200, {"errors": [], "warnings": []})
                if path.startswith("/api/models/"):
                    return self.api(path.removeprefix("/api/models/"), sent)
                if "/resolve/" in path:
                    return self.resolve(path.lstrip("/"))
                return self.json(404, {"error": "unknown route"})

            def api(self, rest: str, sent: bytes) -> None:
                name = "/".join(rest.split("/")[:2])
                if name not in hub.repos:
                    return self.json(
                        404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound"
                    )
                action = rest.split("/")[2:]
                if action[:1] == ["tree"]:
                    return self.json(200, [
                        {"type": "file", "path": one, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                        for one, content in hub.repos[name].items()
                    ])  # fmt: skip
                if action[:1] == ["preupload"]:
                    files = [
                        {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for one in json.loads(sent)["files"]
                    ]
                    return self.json(200, {"files": files})
                if action[:1] == ["commit"]:
                    for line in sent.splitlines():
                        entry = json.loads(line)
                        if entry["key"] == "deletedFile":
                            del hub.repos[name][entry["value"]["path"]]
                        if entry["key"] == "file":
                            value = entry["value"]
                            hub.repos[name][value["path"]] = base64.b64decode(value["content"])
                    return self.json(
                        200,
                        {
                            "commitUrl": f"{hub.url}/{name}/commit/{hub.revision(name)}",
                            "commitOid": hub.revision(name),
                            "success": True,
                        },
                    )
                return self.json(200, {
                    "id": name, "modelId": name, "sha": hub.revision(name), "private": hub.private[name], "tags": [],
                    "siblings": [{"rfilename": one} for one in hub.repos[name]],
                })  # fmt: skip

            def resolve(self, path: str) -> None:
                owner, repo, _, _, *file = path.split("/")
                name, wanted = f"{owner}/{repo}", "/".join(file)
                content = hub.repos.get(name, {}).get(wanted)
                if content is None:
                    return self.json(
                        404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound"
                    )
                self.answer(
                    200, content, X_Repo_Commit=hub.revision(name), ETag=f'"{hashlib.sha1(content).hexdigest()}"',
                    Content_Length=str(len(content)),
                )  # fmt: skip

            do_GET = do_POST = do_HEAD = do_PUT = route

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def revision(self, name: str) -> str:
        """Of a repository, 40 hex digits that change with its files."""
        content = b"".join(k.encode() + v for k, v in sorted(self.repos[name].items()))
        return hashlib.sha1(content).hexdigest()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
