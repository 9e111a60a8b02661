"""Where the store lies, and that one that cannot be written is never given up silently."""

from __future__ import annotations

import errno
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from hiif_deploy.engine_store.store import EngineStore
from hiif_deploy.errors import EngineError
from hiif_deploy.support import cache_dir as store_root
from hiif_deploy.support.cache_dir import fallback_root, wanted_root
from sample_engine import listening


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder and a temporary folder of this test's own."""
    for variable in ("HIIF_DEPLOY_STORE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "home").mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "home"


def fallen_back(root: Path, tmp_path: Path, reason: str) -> EngineStore:
    messages: list[str] = []
    with listening(messages.append):
        store = EngineStore.open(root)
    assert store.root.parent == tmp_path / "tmp"
    assert store.read_only == root
    (message,) = messages
    assert re.fullmatch(
        f"{re.escape(str(root))}: the store cannot be written \\({reason}\\); engines are kept in {store.root} instead",
        message,
    )
    return store


def test_what_the_caller_says_comes_before_all_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIIF_DEPLOY_STORE", str(tmp_path / "variable"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert wanted_root(tmp_path / "said") == tmp_path / "said"
    assert wanted_root() == tmp_path / "variable"
    monkeypatch.setenv("HIIF_DEPLOY_STORE", "")
    assert wanted_root() == tmp_path / "xdg" / "hiif-deploy"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert wanted_root() == tmp_path / "home" / ".cache" / "hiif-deploy"


def test_a_relative_cache_folder_is_ignored_as_its_specification_says(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "somewhere")
    assert wanted_root() == home / ".cache" / "hiif-deploy"


def test_the_home_folder_may_be_written_as_a_tilde(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIIF_DEPLOY_STORE", "~/engines")
    assert wanted_root() == home / "engines"


def test_a_relative_store_stays_where_it_was_when_the_folder_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = EngineStore.open("store")
    assert store.root == tmp_path / "store"


def test_on_windows_it_is_the_local_application_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert wanted_root() == tmp_path / "local" / "hiif-deploy"
    assert fallback_root() == tmp_path / "tmp" / "hiif-deploy"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_a_new_store_is_its_users_alone(home: Path) -> None:
    store = EngineStore.open()
    assert store.root == home / ".cache" / "hiif-deploy"
    assert store.root.stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in store.root.iterdir()) == ["engines", "locks"]


def test_a_file_in_place_of_the_store_falls_back_with_a_message(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    store = fallen_back(tmp_path / "store", tmp_path, "File exists")
    assert store.entries() == []
    assert (tmp_path / "store").read_text() == "a file"


def test_a_file_in_place_of_a_parent_falls_back_with_a_message(tmp_path: Path) -> None:
    (tmp_path / "parent").write_text("a file")
    assert fallen_back(tmp_path / "parent" / "store", tmp_path, "Not a directory").entries() == []


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_folder_that_cannot_be_made_falls_back_with_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real = Path.mkdir

    def mkdir(self: Path, *args: Any, **options: Any) -> None:
        if self == tmp_path / "store":
            raise OSError(number, os.strerror(number))
        real(self, *args, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    fallen_back(tmp_path / "store", tmp_path, re.escape(os.strerror(number)))


def test_a_folder_that_exists_and_cannot_be_written_falls_back_with_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tempfile.TemporaryFile

    def refuse(**options: Any) -> Any:
        if tmp_path / "store" in Path(options["dir"]).parents:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(**options)

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    fallen_back(tmp_path / "store", tmp_path, "Permission denied")


def test_a_user_without_a_home_folder_gets_the_temporary_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    store = EngineStore.open()
    assert caplog.messages == [
        f"the store cannot be written (this user has no home folder); engines are kept in {store.root} instead"
    ]
    assert store.root.parent == tmp_path / "tmp"
    assert store.entries() == []


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720, 0o702])
def test_a_temporary_store_that_others_can_write_is_not_trusted(tmp_path: Path, mode: int) -> None:
    fallback_root().mkdir()
    fallback_root().chmod(mode)
    (tmp_path / "store").write_text("a file")
    with pytest.raises(
        EngineError, match=r"others can write there, so engines from it cannot be trusted; .* name another fol"
    ):
        EngineStore.open(tmp_path / "store")
    assert list(fallback_root().iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_a_temporary_store_of_another_user_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fallback = fallback_root()
    fallback.mkdir(mode=0o700)
    monkeypatch.setattr(store_root, "fallback_root", lambda: fallback)
    give_away(fallback, monkeypatch)
    (tmp_path / "store").write_text("a file")
    with pytest.raises(EngineError, match="others can write there"):
        EngineStore.open(tmp_path / "store")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX links")
def test_a_link_in_place_of_the_temporary_store_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    fallback_root().symlink_to(tmp_path / "elsewhere")
    (tmp_path / "store").write_text("a file")
    with pytest.raises(EngineError, match="others can write there"):
        EngineStore.open(tmp_path / "store")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_where_nothing_can_be_written_the_error_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    fallback_root().write_text("a file")
    with pytest.raises(
        EngineError, match=r"cannot be written either \(File exists\); name a folder that can be writ.*STORE"
    ):
        EngineStore.open(tmp_path / "store")


def give_away(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a folder that of another user, who is not the administrator."""
    if os.getuid() == 0:
        os.chown(folder, 12345, -1)
    else:
        monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
@pytest.mark.parametrize("inner", ["", "engines"])
def test_a_named_store_that_others_can_write_is_not_trusted(tmp_path: Path, inner: str, mode: int) -> None:
    store = tmp_path / "store"
    (store / "engines").mkdir(parents=True)
    store.chmod(0o755)
    (store / inner).chmod(mode)
    with pytest.raises(EngineError, match=rf"^{re.escape(str(store / inner))}: others can write there, so engines"):
        EngineStore.open(store)
    assert not (store / "locks").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
@pytest.mark.parametrize("inner", ["", "engines"])
def test_a_named_store_of_another_user_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inner: str
) -> None:
    (tmp_path / "store" / "engines").mkdir(parents=True)
    give_away(tmp_path / "store" / inner, monkeypatch)
    with pytest.raises(EngineError, match="others can write there"):
        EngineStore.open(tmp_path / "store")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_a_store_that_only_another_user_can_write_is_not_read_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "store" / "engines").mkdir(parents=True)
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    give_away(tmp_path / "store" / "engines", monkeypatch)
    with pytest.raises(EngineError, match="others can write there"):
        EngineStore.open(tmp_path / "store")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_folders_that_a_umask_opens_do_not_matter_where_nobody_can_enter(tmp_path: Path) -> None:
    store = EngineStore.open(tmp_path / "store")
    (store.root / "engines").chmod(0o775)
    assert EngineStore.open(store.root).root == store.root
