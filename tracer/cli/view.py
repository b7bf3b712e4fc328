"""`trace view`: look at runs in a browser, from their stores; or write the pages of all of them to publish.

The server is `tracer.cli.viewing.server`. Nothing is written into a run.
"""

from __future__ import annotations

import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tracer.cli.errors import answered
from tracer.cli.help import Command
from tracer.cli.options import OUT, STORE, as_json
from tracer.cli.terminal import print_json

if TYPE_CHECKING:
    from tracer.cli.viewing.catalogue import Catalogue


@click.command(
    cls=Command,
    examples=(
        "trace view  # every run under ./runs",
        "trace view runs/dit-R4S32 runs/dit-R0S63 --port 9000 --no-browser",
        "trace view runs --bundle public  # pages to publish",
    ),
)
@click.argument("places", nargs=-1, type=STORE, metavar="[ROOT|RUN]...")
@click.option("--port", type=click.IntRange(0, 65535), metavar="N", help="Default: the first free one from 8321 on.")
@click.option("--browser/--no-browser", default=True, help="Open a browser; the address is printed anyway.")
@click.option("--bundle", type=OUT, metavar="DIR", help="Serve nothing: write a list and a page a run, to publish.")
@as_json
def view(places: tuple[Path, ...], port: int | None, browser: bool, bundle: Path | None, as_json: bool) -> None:
    """Look at runs in a browser: every run of a folder, on this machine's loopback address.

    ROOT is a folder of runs, ./runs by default; RUN is one of them. Runs that are made or grow meanwhile are there when
    the page is loaded again. Ctrl-C ends it. On a machine far away: ssh -L 8321:127.0.0.1:8321 MACHINE
    """
    with answered():
        from tracer.cli.viewing.catalogue import Catalogue

        catalogue = Catalogue(found_places(places or (Path("runs"),)))
        where = ", ".join(map(str, places)) or "runs"
        if bundle is not None:
            from tracer.cli.viewing.bundle import write

            written = write(catalogue, bundle, where, lambda text: click.echo(text, err=True))
            return print_json({"bundle": bundle, "pages": written}) if as_json else click.echo(f"bundle: {written[0]}")
        serve(catalogue, where, port, browser=browser, as_json=as_json)


def found_places(places: Sequence[Path]) -> list[Path]:
    """Folders and runs, as absolute paths. Raises RunError for what is neither."""
    from tracer import store
    from tracer.store.places import holds_store

    found = []
    for place in places:
        if place.name == store.RUN.folder or holds_store(place):
            found.append(store.locate(place).absolute())
        elif place.is_dir():
            found.append(place.absolute())
        else:
            raise store.RunError(
                f"there is no folder {place}: name a run or a folder of runs, or make a run with "
                "`trace run --model dit --mask R4S32`"
            )
    return found


def serve(catalogue: Catalogue, where: str, port: int | None, *, browser: bool, as_json: bool) -> None:
    """Serve until Ctrl-C or a signal to end."""
    from tracer.cli.viewing.pages import counted
    from tracer.cli.viewing.server import listening
    from tracer.cli.viewing.site import Site

    lines = catalogue.lines()
    with listening(Site(catalogue, where), port) as server:
        address = server.address
        if as_json:
            print_json({"address": address, "runs": len(lines)})
        else:
            click.echo(f"{counted(lines)} under {where}: {address}\nCtrl-C ends it.")
        if browser:  # a browser in a terminal would keep this from serving
            threading.Thread(target=webbrowser.open, args=[address], daemon=True).start()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            click.echo("\nended", err=True)
