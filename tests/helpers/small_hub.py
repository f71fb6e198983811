"""A small Hugging Face hub on loopback: what the real client asks for, and nothing else.

Repositories are folders under a root, OWNER/NAME, each with one commit.
"""

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TOKEN = "hf_small"  # opens what is gated
_INFO = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/?]+))?")
_TREE = re.compile(r"/api/models/([^/]+/[^/]+)/tree/([^/?]+)(?:\?.*)?")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


class SmallHub:
    """What the hub has and what it was asked for.

    Attributes:
        root: folder of the repositories.
        gated: names whose files need the token.
        fetched: files that were sent, as OWNER/NAME/FILE.
        cut: files that are sent by half, and then the connection ends.
        is_down: the server answers that it is.
        url: of the server.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.gated: set[str] = set()
        self.fetched: list[str] = []
        self.cut: set[str] = set()
        self.is_down = False
        self.url = ""

    def commit(self, name: str) -> str:
        """Return the one commit of a repository: it changes with its files."""
        hashed = hashlib.sha1(name.encode())
        for path in sorted((self.root / name).iterdir()):
            hashed.update(path.name.encode() + path.read_bytes())
        return hashed.hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: SmallHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def _answer(self):
        found = _FILE.fullmatch(self.path) or _TREE.fullmatch(self.path)
        found = found or _INFO.fullmatch(self.path)
        if self.hub.is_down:
            return self._refuse(503, None)
        if found is None:
            return self._refuse(400, None)
        name, revision = found[1], found[2] or "main"
        if not (self.hub.root / name).is_dir():
            return self._refuse(404, "RepoNotFound")
        is_closed = found.re is _FILE and name in self.hub.gated
        if is_closed and self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self._refuse(403, "GatedRepo")
        if revision not in ("main", self.hub.commit(name)):
            return self._refuse(404, "RevisionNotFound")
        if found.re is _INFO:
            return self._send_info(name)
        if found.re is _TREE:
            return self._send_tree(name)
        return self._send_file(name, found[3])

    def _send_info(self, name):
        files = sorted(path.name for path in (self.hub.root / name).iterdir())
        info = {
            "id": name,
            "sha": self.hub.commit(name),
            "siblings": [{"rfilename": file} for file in files],
        }
        self._send(json.dumps(info).encode(), {"Content-Type": "application/json"})

    def _send_tree(self, name):
        files = [
            {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": _etag(path)}
            for path in sorted((self.hub.root / name).iterdir())
        ]
        self._send(json.dumps(files).encode(), {"Content-Type": "application/json"})

    def _send_file(self, name, file):
        path = self.hub.root / name / file
        if not path.is_file():
            return self._refuse(404, "EntryNotFound")
        if self.command == "GET":
            self.hub.fetched.append(f"{name}/{file}")
        headers = {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": self.hub.commit(name)}
        return self._send(path.read_bytes(), headers, cut=f"{name}/{file}" in self.hub.cut)

    def _send(self, content, headers, *, cut=False):
        start = 0
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            start = int(asked[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.send_response(206 if asked else 200)
        for key, value in (headers | {"Content-Length": len(content) - start}).items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(content[start : len(content) // 2] if cut else content[start:])
        self.close_connection = cut

    def _refuse(self, status, code):
        self.send_response(status)
        if code is not None:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _etag(path):
    return hashlib.sha1(path.read_bytes()).hexdigest()


@contextmanager
def small_hub(root: Path):
    """Serve the repositories under a folder."""
    hub = SmallHub(root)
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
