"""A small Hugging Face Hub on this machine, with a CDN on a port of its own, and faults to order. No test by itself."""
import collections
import hashlib
import http.server
import json
import ssl
import threading
import time
import urllib.parse

LFS = (".safetensors", "tokenizer.json", ".jsonl")  # of these the Hub redirects to the CDN, and the ETag is the SHA-256
PIECE = 1 << 12


def git_hash(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Repo:
    """Commits of one repository: {commit: {file: bytes}}, and which of them its branches are at."""

    def __init__(self, gated=False, private=False):
        self.gated, self.private = gated, private
        self.members = set()  # tokens that a gated repository is open to
        self.commits, self.branches = {}, {}

    def commit(self, files, branch="main"):
        text = json.dumps([(name, git_hash(data)) for name, data in sorted(files.items())]) + branch
        commit = hashlib.sha1(text.encode()).hexdigest()
        self.commits[commit], self.branches[branch] = dict(files), commit
        return commit


class Hub:
    """Serves `repos` {"models/owner/name": Repo}. `faults` {file: [fault, ...]}: the next answers with its bytes are
    "cut" (half of them come), "wrong" (one bit is another), "busy" (503), "whole" (as if it knew no ranges) or "hang"."""

    def __init__(self, certificate=None):
        self.repos, self.tokens, self.requests, self.blobs = {}, set(), [], {}
        self.faults = collections.defaultdict(list)
        self.refusal = None  # (status, code, message): what every question is answered with
        self.slow = 0.0      # seconds between two pieces of a file
        self.cdn = self.serve(Cdn, None)
        self.hub = self.serve(Pages, certificate)
        scheme = "https" if certificate else "http"
        self.endpoint = f"{scheme}://localhost:{self.hub.server_port}"
        self.cdn_url = f"http://localhost:{self.cdn.server_port}"

    def serve(self, pages, certificate):
        server = http.server.ThreadingHTTPServer(("localhost", 0), pages)
        server.state, server.daemon_threads = self, True
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def close(self):
        for server in (self.cdn, self.hub):
            server.shutdown()
            server.server_close()

    def asked(self, method=None, server=None):
        return [r for r in self.requests if method in (None, r["method"]) and server in (None, r["server"])]


class Pages(http.server.BaseHTTPRequestHandler):
    """The Hub itself."""
    protocol_version = "HTTP/1.1"
    name = "hub"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        self.state = self.server.state
        self.state.requests.append({"server": self.name, "method": self.command, "path": self.path,
                                    "token": self.headers.get("Authorization"), "range": self.headers.get("Range")})
        try:
            self.route(urllib.parse.urlsplit(self.path).path.split("/")[1:])
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def send(self, status, headers=(), body=b""):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, str(value))
        if "Content-Length" not in dict(headers):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code="", message=""):
        self.send(status, {"X-Error-Code": code, "X-Error-Message": message})

    def route(self, parts):
        if self.state.refusal:
            return self.refuse(*self.state.refusal)
        kind = "models"
        if parts[0] == "api":
            kind, parts = parts[1], parts[2:]
        elif parts[0] == "datasets":
            kind, parts = parts[0], parts[1:]
        repo = self.state.repos.get("/".join([kind, *parts[:2]]))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.state.tokens:
            return self.refuse(401, "", "Invalid credentials in Authorization header")
        if repo is None or (repo.private and not token):
            return self.refuse(401 if not token else 404, "RepoNotFound")
        revision = urllib.parse.unquote(parts[3])
        commit = repo.branches.get(revision, revision)
        if commit not in repo.commits:
            return self.refuse(404, "RevisionNotFound")
        files = repo.commits[commit]
        if self.path.startswith("/api/"):
            return self.send_json(self.listing("/".join(parts[:2]), commit, files) if parts[2] == "revision"
                                  else self.tree(files))
        if repo.gated and token not in repo.members:
            return self.refuse(403 if token else 401, "GatedRepo")
        return self.resolve(commit, files, "/".join(urllib.parse.unquote(part) for part in parts[4:]))

    def send_json(self, value):
        body = json.dumps(value).encode()
        self.send(200, {"Content-Type": "application/json"}, body)

    @staticmethod
    def listing(name, commit, files):
        return {"id": name, "sha": commit, "private": False, "tags": [], "downloads": 0, "likes": 0,
                "siblings": [{"rfilename": file} for file in files]}

    @staticmethod
    def tree(files):
        entries = []
        for name, data in files.items():
            entry = {"type": "file", "path": name, "size": len(data), "oid": git_hash(data)}
            if name.endswith(LFS):
                entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            entries.append(entry)
        return entries

    def resolve(self, commit, files, name):
        if name not in files:
            return self.refuse(404, "EntryNotFound")
        data = files[name]
        head = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if name.endswith(LFS):
            key = hashlib.sha256(data).hexdigest()
            self.state.blobs[key] = (name, data)
            location = f"{self.state.cdn_url}/{key}?Signature=secret"
            return self.send(302, head | {"X-Linked-Etag": f'"{key}"', "X-Linked-Size": len(data), "ETag": '"other"',
                                          "Location": location})
        if "redirected" not in self.path and name == "generation_config.json":  # relative: to be followed
            return self.send(307, {"Location": self.path + "?redirected"})
        return self.send_file(name, data, head | {"ETag": f'W/"{git_hash(data)}"'})

    def send_file(self, name, data, head):
        faults = self.state.faults[name]
        fault = faults.pop(0) if faults and self.command == "GET" else ""
        if fault == "busy":
            return self.send(503, {"Content-Type": "text/html"}, b"<p>busy</p>" * 20000)
        if fault == "wrong":
            data = data[:-1] + bytes([data[-1] ^ 1])
        begin, status, length = 0, 200, len(data)
        if self.headers.get("Range") and fault != "whole":
            begin, status = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-")), 206
            if begin >= length:
                return self.refuse(416)
            head = head | {"Content-Range": f"bytes {begin}-{length - 1}/{length}"}
        body = data[begin:]
        self.send(status, head | {"Content-Length": len(body)}, b"")
        if self.command == "HEAD":
            return None
        end = len(body) // 2 if fault in ("cut", "hang") else len(body)
        for at in range(0, end, PIECE):
            self.wfile.write(body[at:min(at + PIECE, end)])
            time.sleep(self.state.slow)
        if fault == "hang":
            time.sleep(5)
        self.close_connection = self.close_connection or bool(fault)
        return None


class Cdn(Pages):
    """Where large files lie: it knows no token, and must not be shown one."""
    name = "cdn"

    def route(self, parts):
        name, data = self.state.blobs[parts[0]]
        self.send_file(name, data, {"ETag": '"of the cdn"'})
