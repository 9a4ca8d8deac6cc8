"""A reference of real cells, and a server that stands in for the hub and for any other."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from conftest import QUIET

import scalex_scvi as sx

ABOUT = {"organism": "human", "tissue": "pancreas", "citation": "Baron et al., 2016"}


def pancreas_without_ductal_cells() -> tuple[AnnData, AnnData]:
    """Four technologies without ductal cells, and a fifth that has some."""
    adata = sx.datasets.pancreas()
    is_query = (adata.obs["batch"] == "Smart-seq2").to_numpy()
    is_ductal = (adata.obs["celltype"] == "ductal").to_numpy()
    return adata[~is_query & ~is_ductal].copy(), adata[is_query].copy()


@pytest.fixture(scope="session")
def pancreas_model() -> sx.SCALEXModel:
    adata, _ = pancreas_without_ductal_cells()
    adata.obs_names = [f"BARCODE-{name}" for name in adata.obs_names]
    adata.obs["donor"] = [f"DONOR-{i % 7}" for i in range(adata.n_obs)]
    adata.obs["phase"] = [f"PHASE-{i % 3}" for i in range(adata.n_obs)]
    adata.uns["note"] = "NOTE-OF-THE-USER"
    adata.layers["counts"] = adata.X.copy()
    sx.SCALEXModel.setup_anndata(
        adata, layer="counts", batch_key="batch", labels_key="donor", n_top_features=300
    )
    model = sx.SCALEXModel(adata, n_hidden=64)
    model.train(max_steps=150, **QUIET)
    adata.obsm["X_umap"] = model.get_latent_representation()[:, :2].astype(np.float64)
    adata.obsm["X_other"] = adata.obsm["X_umap"] + 1
    return model


@pytest.fixture(scope="session")
def pancreas_folder(
    pancreas_model: sx.SCALEXModel, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("references") / "pancreas"
    return sx.references.save(pancreas_model, folder, "celltype", license="cc-by-4.0", about=ABOUT)


@pytest.fixture
def query() -> AnnData:
    query = pancreas_without_ductal_cells()[1]
    query.obs["batch"] = query.obs["batch"].astype(str)
    return query


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SCALEX_SCVI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, *args: Any) -> None:
        """Say nothing of clients that hang up."""


class Server:
    """Files by path, and the repositories of a hub: ``{name: {file: content}}``."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.commits: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.tokens: set[str] = set()
        self.takes_license = True
        self.busy = self.stopped = False
        self.http = _Quiet(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self.stopped = True  # for connections that are open
        self.http.shutdown()
        self.http.server_close()

    def serve_folder(self, folder: Path, path: str) -> str:
        """Put a folder's files at a path, and return its address."""
        for file in folder.iterdir():
            self.files[f"{path}/{file.name}"] = file.read_bytes()
        return self.url + path

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content."""
        path = path.partition("?")[0]
        if self.busy:
            return 503, {}, b"busy"
        if path in self.files:
            return 200, {}, self.files[path]
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            self.repositories.setdefault(name, {})
            return 200, {}, json.dumps({"url": f"{self.url}/{name}"}).encode()
        if path == "/api/validate-yaml":
            errors = [{"message": '"license" must be one of'}] * (not self.takes_license)
            answer = {"errors": errors, "warnings": []}
            return (400 if errors else 200), {}, json.dumps(answer).encode()
        found = re.fullmatch(r"/(api/models/)?([\w.-]+/[\w.-]+)(?:/(\w+)/([\w.-]+)(/.*)?)?", path)
        if found is None or found[2] not in self.repositories:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        return self._of_repository(found[2], found[3], (found[5] or "")[1:], body)

    def _of_repository(
        self, name: str, action: str | None, file: str, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        repository = self.repositories[name]
        content = b"".join(repository[key] for key in sorted(repository))
        commit = hashlib.sha1(content).hexdigest()
        if action == "preupload":
            asked = [one["path"] for one in json.loads(body)["files"]]
            modes = [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in asked]
            return 200, {}, json.dumps({"files": modes}).encode()
        if action == "commit":
            lines = [json.loads(line) for line in body.splitlines()]
            new = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            self.commits.append(new)
            repository |= new
            answer = {
                "success": True,
                "commitOid": commit,
                "commitUrl": f"{self.url}/{name}/commit/{commit}",
            }
            return 200, {}, json.dumps(answer).encode()
        if action == "resolve":
            if file not in repository:
                return 404, {"X-Error-Code": "EntryNotFound"}, b"{}"
            etag = hashlib.sha1(repository[file]).hexdigest()
            return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": commit}, repository[file]
        facts = {"_id": "1", "id": name, "modelId": name, "sha": commit, "private": False}
        facts |= {"siblings": [{"rfilename": file} for file in repository], "tags": []}
        return 200, {}, json.dumps(facts).encode()

    def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                if server.stopped:
                    self.close_connection = True
                    return
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                server.asked.append(f"{self.command} {self.path}")
                server.tokens.add(self.headers.get("Authorization") or "")
                status, headers, content = server.answer(self.command, self.path, body)
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_HEAD = do_POST = _serve

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        return Handler


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield server
    server.stop()
