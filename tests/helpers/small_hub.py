"""A small Hugging Face hub on loopback: what the real client asks for, and nothing else.

Repositories are folders under a root, OWNER/NAME. What a folder holds is its latest commit; earlier
ones that were asked for can still be had.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from messages import says

TOKEN = "hf_small"  # opens what is gated
_INFO = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/?]+))?")
_TREE = re.compile(r"/api/models/([^/]+/[^/]+)/tree/([^/?]+)(?:\?.*)?")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


class SmallHub:
    """What the hub has and what it was asked for.

    Attributes:
        root: folder of the repositories.
        tags: commits by their names.
        gated: names whose files need the token.
        fetched: files that were sent, as OWNER/NAME/FILE.
        cut: files that are sent by half, and then the connection ends.
        is_down: the server answers that it is.
        url: of the server.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tags: dict[str, str] = {}
        self.gated: set[str] = set()
        self.fetched: list[str] = []
        self.cut: set[str] = set()
        self.is_down = False
        self.url = ""
        self._commits: dict[tuple[str, str], dict[str, bytes]] = {}

    def commit(self, name: str) -> str:
        """Return the latest commit of a repository, which changes with its files."""
        files = {path.name: path.read_bytes() for path in sorted((self.root / name).iterdir())}
        hashed = hashlib.sha1(name.encode())
        for file, content in files.items():
            hashed.update(file.encode() + content)
        self._commits[name, hashed.hexdigest()] = files
        return hashed.hexdigest()

    def files(self, name: str, commit: str) -> dict[str, bytes] | None:
        """Return the files of a commit, or None if nobody has ever asked for it."""
        return self._commits.get((name, commit))


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
        tagged = self.hub.tags.get(revision, revision)
        commit = self.hub.commit(name) if revision == "main" else tagged
        files = self.hub.files(name, commit)
        if files is None:
            return self._refuse(404, "RevisionNotFound")
        if found.re is _INFO:
            return self._send_info(name, commit, files)
        if found.re is _TREE:
            return self._send_tree(files)
        return self._send_file(name, commit, found[3], files.get(found[3]))

    def _send_info(self, name, commit, files):
        info = {"id": name, "sha": commit, "siblings": [{"rfilename": file} for file in files]}
        self._send(json.dumps(info).encode(), {"Content-Type": "application/json"})

    def _send_tree(self, files):
        entries = [
            {"type": "file", "path": file, "size": len(content), "oid": _etag(content)}
            for file, content in files.items()
        ]
        self._send(json.dumps(entries).encode(), {"Content-Type": "application/json"})

    def _send_file(self, name, commit, file, content):
        if content is None:
            return self._refuse(404, "EntryNotFound")
        if self.command == "GET":
            self.hub.fetched.append(f"{name}/{file}")
        headers = {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": commit}
        return self._send(content, headers, cut=f"{name}/{file}" in self.hub.cut)

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


def _etag(content):
    return hashlib.sha1(content).hexdigest()


class Answer(NamedTuple):
    """What a process wrote."""

    stdout: str
    stderr: str


def ask(hub: SmallHub, home: Path, code: str, *arguments: str, **variables: str) -> Answer:
    """Run a program that asks this hub and has a cache of its own."""
    found = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(home)} | variables,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return Answer(found.stdout, found.stderr)


def refused(answer: Answer, message: str):
    """Check that a program ended with a message and did nothing else."""
    assert answer.stdout == ""
    assert "Traceback" not in answer.stderr
    assert re.search(says(message), answer.stderr), answer.stderr


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
