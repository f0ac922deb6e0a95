"""Certificates made by the test that needs them: an authority, and a worker's key signed by it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import trustme

from torchctl.server import WorkerServer


class Certificates(NamedTuple):
    """Paths of PEM files: the authority's certificate, a worker's with its chain, and the worker's key."""

    ca: str
    cert: str
    key: str

    def server(self, host: str = "127.0.0.1") -> WorkerServer:
        """Start a server that speaks TLS with them, on a free port."""
        return WorkerServer(host, 0, tls_cert=self.cert, tls_key=self.key)


def certificates(folder: Path, *names: str) -> Certificates:
    """Make an authority of its own and a certificate for these host names and addresses."""
    folder.mkdir(exist_ok=True)
    ca = trustme.CA()
    leaf = ca.issue_cert(*names)
    paths = Certificates(str(folder / "ca.pem"), str(folder / "cert.pem"), str(folder / "key.pem"))
    ca.cert_pem.write_to_path(paths.ca)
    for blob in leaf.cert_chain_pems:
        blob.write_to_path(paths.cert, append=True)
    leaf.private_key_pem.write_to_path(paths.key)
    Path(paths.key).chmod(0o600)
    return paths
