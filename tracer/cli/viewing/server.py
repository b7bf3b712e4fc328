"""The server of `trace view`: HTTP on loopback, reading only, and only what the catalogue finds.

A page of another origin gets nothing: whoever does not ask for this machine by a name of its own is refused (a name of
somebody's that was made to point here, DNS rebinding), and what is sent may load nothing from elsewhere. Whoever has an
account on this machine can ask.
"""

from __future__ import annotations

import ipaddress
import re
import socketserver
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import click

from interventions.errors import InputError
from tracer.cli.viewing import pages
from tracer.cli.viewing.catalogue import NotFoundError
from tracer.cli.viewing.site import Reply, Site

FIRST_PORT, PORTS = 8321, 100
"""Where a free port is looked for, and how many are tried."""
POLICY = (
    "default-src 'none'; script-src 'self'{scripts}; style-src 'self'{styles}; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Server(ThreadingHTTPServer):
    """Serves a site on 127.0.0.1; `address` is where."""

    daemon_threads = True

    def __init__(self, site: Site, port: int) -> None:
        self.site = site
        super().__init__(("127.0.0.1", port), Handler)

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def server_bind(self) -> None:
        """As in socketserver; the name of this machine, which http.server asks the network for, is not needed."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]


def listening(site: Site, port: int | None = None) -> Server:
    """A server that listens: on this port, or the first free one from 8321 on; 0 lets the system choose.

    Raises click.UsageError where the port is taken or may not be had.
    """
    tried = range(FIRST_PORT, FIRST_PORT + PORTS) if port is None else [port]
    for number in tried:
        try:
            return Server(site, number)
        except OSError as error:
            why = error.strerror or type(error).__name__
    if port is None:
        raise click.UsageError(f"no port from {FIRST_PORT} to {tried[-1]} is free: name one with --port N")
    raise click.UsageError(f"--port {port} cannot be had ({why}): leave --port out for a free one")


class Handler(BaseHTTPRequestHandler):
    """One request: is it asked of this machine, what is asked, and what goes back."""

    server: Server
    server_version, sys_version = "trace", ""
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        """Answer with what the site has."""
        self._answer(self._reply())

    def do_HEAD(self) -> None:
        """The same without its body."""
        self._answer(self._reply(), body=False)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server refuses by itself, as a page like the others."""
        self.close_connection = True
        self._answer(_error(code, message or explain or "this cannot be asked"), body=self.command != "HEAD")

    def log_message(self, format: str, *words: object) -> None:
        """Nothing: the terminal shows the address and what goes wrong."""

    def _reply(self) -> Reply:
        if not is_ours(self.headers.get("Host", "")):
            return _error(403, "This server answers to 127.0.0.1 and localhost only.")
        asked = urlsplit(self.path)
        query = parse_qsl(asked.query, keep_blank_values=True, errors="surrogateescape", max_num_fields=100)
        return replied(lambda: self.server.site.reply(asked.path, query))

    def _answer(self, reply: Reply, *, body: bool = True) -> None:
        self.send_response(reply.status)
        scripts = "".join(f" '{each}'" for each in reply.scripts)
        policy = POLICY.format(scripts=scripts, styles=" 'unsafe-inline'" if reply.own_styles else "")
        said = {"Content-Type": reply.type, "Content-Length": str(len(reply.body)), **reply.headers}
        for name, value in {**said, **HEADERS, "Content-Security-Policy": policy}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(reply.body)


def is_ours(host: str) -> bool:
    """Whether a Host header names this machine by loopback; the port may be that of a tunnel."""
    name = re.sub(r":\d+$", "", host.strip()).strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def replied(answer: Callable[[], Reply]) -> Reply:
    """An answer, or a page with the reason why there is none."""
    try:
        return answer()
    except NotFoundError as error:
        return _error(404, str(error))
    except InputError as error:  # a damaged run, records that are not there
        return _error(500, str(error))
    except Exception as error:
        click.echo(f"Error: {type(error).__name__}: {error}", err=True)
        return _error(500, f"{type(error).__name__}: {error}")


def _error(status: int, reason: str) -> Reply:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return Reply.page(f"{status} {phrase}", pages.error(status, phrase, reason), status=status)
