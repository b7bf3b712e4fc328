"""Numbered folders: the free one, the latest one, and one that nobody else can have got."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tracer.store import free_folder, latest_folder, make_free_folder


def test_the_first_number_that_is_free_and_the_last_before_it(tmp_path):
    path = tmp_path / "runs" / "dit-R4S32"
    assert (free_folder(path), latest_folder(path)) == (path, None)
    path.mkdir(parents=True)
    assert (free_folder(path), latest_folder(path)) == (Path(f"{path}-2"), path)
    Path(f"{path}-2").mkdir()
    Path(f"{path}-4").mkdir()
    assert (free_folder(path), latest_folder(path)) == (Path(f"{path}-3"), Path(f"{path}-2"))


def test_many_who_ask_at_once_get_folders_of_their_own(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        folders = list(pool.map(lambda _: make_free_folder(tmp_path / "a" / "run"), range(40)))
    assert sorted(folders) == sorted((tmp_path / "a").iterdir())
    assert {folder.name for folder in folders} == {"run", *(f"run-{n}" for n in range(2, 41))}
