"""`trace view`: what the server hands out is what the stores hold, and it hands out nothing else to nobody else."""

import http.client
import io
import json
import shutil
import signal
import socket
import threading
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import zarr
from PIL import Image

from tests.builders import runs_by_hand
from tests.builders.runs_by_hand import python
from tests.builders.typed import trace
from tracer.cli.viewing.catalogue import Catalogue
from tracer.cli.viewing.server import FIRST_PORT, is_ours, listening
from tracer.cli.viewing.site import Site

OLD = Path(__file__).parents[1] / "data" / "run-v1"
"""A run of 2 samples x 4 steps with pictures, made by version 1."""
HOSTILE = "a <img src=x onerror=alert(1)> & b"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with runs: two alike, one deeper, one of a hostile name, one damaged, and a link that leads out."""
    folder = tmp_path_factory.mktemp("served")
    for name in ("one", "two", "study/T50", HOSTILE, "broken"):
        shutil.copytree(OLD, folder / "runs" / name)
    (folder / "runs" / "broken" / "trace.zarr" / "zarr.json").write_text("{")
    shutil.copytree(OLD, folder / "outside" / "secret")
    (folder / "runs" / "link").symlink_to(folder / "outside" / "secret")
    return folder / "runs"


@pytest.fixture(scope="module")
def served(root):
    """Its server; `get(address, **headers)` gives status, headers and body."""
    with serving([root]) as get:
        yield get


@contextmanager
def serving(places):
    """A server of these places in a thread, on a port of the system's choice."""
    server = listening(Site(Catalogue(places), "runs"), 0)
    thread = threading.Thread(target=server.serve_forever, args=[0.02])
    thread.start()

    def get(address, method="GET", **headers):
        connection = http.client.HTTPConnection(*server.server_address, timeout=60)
        connection.request(method, address, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders()), body

    try:
        yield get
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def text(get, address, **headers):
    status, _, body = get(address, **headers)
    return status, body.decode()


def payload(get, name, more=""):
    status, body = text(get, f"/payload?run={quote(name)}{more}")
    assert status == 200, body
    return json.loads(body)


# --- the list ---


def test_the_list_names_every_run_with_a_link_and_works_without_scripts(served):
    status, page = text(served, "/")
    assert status == 200
    for name in ("one", "two", "study/T50", HOSTILE):
        assert f'href="/view?run={quote(name, safe="").replace("%20", "+")}"' in page
    assert "R2S8" in page
    assert "4 ddpm steps" in page
    assert 'name="run" value="one"' in page  # the form compares what is ticked
    assert page.count("<script") == 1  # the filter's


def test_a_damaged_run_is_named_with_the_reason_and_hides_no_other(served):
    _, page = text(served, "/")
    assert "trace.zarr/zarr.json is missing or damaged" in page
    status, said = text(served, "/view?run=broken")
    assert status == 500
    assert "broken cannot be read" in said


def test_names_are_texts_and_never_markup(served):
    for address in ("/", f"/view?run={quote(HOSTILE)}", f"/view?run={quote('<script>alert(1)</script>')}"):
        _, page = text(served, address)
        assert "<img src=x" not in page
        assert "<script>alert" not in page
        assert "&lt;" in page


def test_new_runs_are_there_when_the_page_is_loaded_again_newest_first(tmp_path):
    with serving([tmp_path]) as get:
        assert "There is no run under runs" in text(get, "/")[1]
        shutil.copytree(OLD, tmp_path / "old")
        runs_by_hand.create(tmp_path / "new")  # made now, the other on the day of version 1
        _, page = text(get, "/")
    assert page.index("run=new") < page.index("run=old")
    assert "0/5" in page


# --- a run ---


def test_a_view_holds_what_its_script_needs_and_a_way_back(served):
    status, page = text(served, "/view?run=one&run=study%2FT50")
    assert status == 200
    assert 'data-payload="/payload?run=one&amp;run=study%2FT50&amp;from=0"' in page
    assert '<a href="/">' in page
    assert 'href="/report?run=one"' in page
    for script in ("/view.js", "/viewer.js", "/viewer.css", "/list.js", "/pages.css"):
        assert served(script)[0] == 200


def test_the_payload_is_of_the_runs_that_were_named_with_their_commands(served):
    runs = payload(served, "one", "&run=study/T50")["runs"]
    assert [run["name"] for run in runs] == ["one", "study/T50"]
    assert runs[0]["command"].startswith("trace run --model dit --mask R2S8")
    assert [sample["id"] for sample in runs[0]["samples"]] == [0, 1]
    assert runs[0]["arms"][0]["name"] == "clean"


def test_a_strip_is_the_picture_in_the_store_pixel_by_pixel(served):
    run = payload(served, "one")["runs"][0]
    stored = zarr.open_group(OLD / "trace.zarr", mode="r")
    arms = stored["arm"][:].tolist()
    for arm in (each["name"] for each in run["arms"]):
        for place, sample in enumerate(run["samples"]):
            status, headers, body = served(run["pictures"]["strips"][arm][place])
            assert (status, headers["Content-Type"]) == (200, "image/webp")
            assert "immutable" in headers["Cache-Control"]
            shown = np.asarray(Image.open(io.BytesIO(body)).convert("RGB"))
            np.testing.assert_array_equal(shown, stored["images/image"][arms.index(arm), sample["id"]])


def test_a_run_that_grows_is_read_again(tmp_path):
    runs_by_hand.create(tmp_path / "run")
    runs_by_hand.run_units(tmp_path / "run", [0])
    catalogue = Catalogue([tmp_path])
    catalogue.lines()
    before = catalogue.open("run")
    assert catalogue.open("run") is before
    runs_by_hand.run_units(tmp_path / "run", [1])
    after = catalogue.open("run")
    assert after.version != before.version
    complete = [(np.asarray(each.tree["status"]) == 1).all(0).sum() for each in (before, after)]
    assert complete == [2, 4]


def test_samples_beyond_the_first_are_reached_by_number(served, monkeypatch):
    monkeypatch.setattr("tracer.cli.viewing.pages.AT_ONCE", 1)
    _, page = text(served, "/view?run=one")
    assert "/view?run=one&amp;from=1" in page
    assert [sample["id"] for sample in payload(served, "one", "&from=1")["runs"][0]["samples"]] == [1]
    status, headers, _ = served("/view?run=one&sample=1")
    assert (status, headers["Location"]) == (303, "/view?run=one&from=1#sample=1")
    for wrong in ("2", "-1", "x", ""):
        status, said = text(served, f"/view?run=one&sample={wrong}")
        assert status == 404
        assert "from 0 to 1" in said


# --- who may ask, and for what ---


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8321", "127.0.0.1.evil.example", "10.0.0.1", ""])
def test_another_hosts_name_is_refused_whatever_is_asked(served, host):
    for address in ("/", "/payload?run=one", "/viewer.js"):
        status, _, body = served(address, Host=host)
        assert status == 403
        assert b"one" not in body.replace(b"only", b"")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9000", "LOCALHOST", "[::1]:8321"])
def test_this_machine_is_answered_through_a_tunnel_too(host):
    assert is_ours(host)


@pytest.mark.parametrize(
    "address",
    [
        "/view?run=../outside/secret", "/payload?run=..%2Foutside%2Fsecret", "/view?run=%2Fetc", "/view?run=one/../one",
        "/view?run=one%00", "/../../etc/passwd", "/..%2f..%2fetc%2fpasswd", "/viewer.js/../view.py", "/pages.py",
        "/strip?run=one&kind=../../units&arm=clean&sample=0", "/strip?run=one&kind=pictures&arm=..&sample=0",
        "/view", "/nothing",
    ],
)  # fmt: skip
def test_only_what_the_list_finds_can_be_had(served, address):
    status, page = text(served, address)
    assert status == 404, page
    assert "root:" not in page


def test_a_link_that_leads_out_is_listed_and_not_followed(served, root):
    status, page = text(served, "/view?run=link")
    assert status == 500
    assert "a link leads out" in page
    assert str(root.parent / "outside" / "secret") in page  # what to name instead


def test_every_answer_forbids_what_is_not_of_this_server(served):
    for address in ("/", "/view?run=one", "/payload?run=one", "/viewer.js", "/nothing"):
        _, headers, _ = served(address)
        policy = dict(each.strip().split(" ", 1) for each in headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["connect-src"] == policy["style-src"] == "'self'"
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_nothing_but_reading_is_answered(served):
    for method in ("POST", "PUT", "DELETE"):
        status, headers, _ = served("/", method)
        assert status == 501
        assert "Content-Security-Policy" in headers
    status, headers, body = served("/", "HEAD")
    assert (status, body) == (200, b"")


# --- the command ---


def test_it_says_where_it_is_and_ends_with_ctrl_c(root):
    command = ["-m", "tracer.cli.main", "view", root / "one", "--port", 0, "--no-browser", "--json"]
    with python(*command, stderr=-1) as process:
        said = json.loads(process.stdout.readline())
        address = said["address"].removeprefix("http://").rstrip("/")
        connection = http.client.HTTPConnection(address, timeout=60)
        connection.request("GET", "/view?run=one")
        assert connection.getresponse().status == 200
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in errors
    assert said["runs"] == 1
    assert address.startswith("127.0.0.1:")


def test_a_free_port_is_found_and_a_taken_one_refused(root):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        done = trace("view", root, "--port", number, "--no-browser")
    assert done.exit_code == 2
    assert f"--port {number} cannot be had" in done.output
    with listening(Site(Catalogue([root]), "runs")) as first, listening(Site(Catalogue([root]), "runs")) as second:
        assert FIRST_PORT <= first.server_address[1] < second.server_address[1]


def test_no_such_folder_is_said_before_anything_is_served(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = trace("view", "--no-browser")
    assert done.exit_code == 2
    assert "there is no folder runs" in done.output
    assert "trace run" in done.output


# --- the bundle ---


def test_a_bundle_is_a_list_and_a_page_a_run_that_need_no_server(root, tmp_path, monkeypatch):
    monkeypatch.setattr("analysis.page.on_page", list)
    done = trace("view", root, "--bundle", tmp_path / "public", "--json")
    assert done.exit_code == 0, done.output
    files = {path.name for path in (tmp_path / "public").iterdir()}
    assert files == {"index.html", "one.html", "two.html", "study-T50.html", "a-img-src-x-onerror-alert-1-b.html"}
    assert len(json.loads(done.stdout)["pages"]) == len(files)
    index = (tmp_path / "public" / "index.html").read_text()
    assert 'href="study-T50.html"' in index
    assert "cannot be read" in index
    assert "<img src=x" not in index
    for page in (index, (tmp_path / "public" / "one.html").read_text()):
        assert "http://" not in page.replace("http://www.w3.org", "")
        assert 'src="/' not in page
    again = trace("view", root, "--bundle", tmp_path / "public")
    assert again.exit_code == 2
    assert "not empty" in again.output


def test_runs_whose_names_come_to_the_same_have_pages_of_their_own():
    from types import SimpleNamespace

    from tracer.cli.viewing.bundle import page_names

    names = ["a/b", "a-b", "a b", "index", "../..", "☃"]
    files = page_names([SimpleNamespace(name=name) for name in names])
    assert list(files) == names
    assert len(set(files.values())) == len(names)
    assert all("/" not in file and not file.startswith(".") for file in files.values())
    assert "index.html" not in files.values()
