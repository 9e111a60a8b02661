"""OpenSeadragon, the page's viewer: taken from its npm package once, checked, and kept in the cache folder."""

import hashlib
import io
import tarfile
import tempfile
from pathlib import Path

from hiif_deploy.bundle.download import check_hash, download_file
from hiif_deploy.errors import DownloadError
from hiif_deploy.support.cache_dir import code_folder
from hiif_deploy.support.files import write_file

VERSION = "6.1.1"
PACKAGE = f"https://registry.npmjs.org/openseadragon/-/openseadragon-{VERSION}.tgz"
PACKAGE_SHA256 = "b4ab2942f33b90e0448e4d20fc5ed14cee049f1f3ae49d70afd4b05e9a2f92d0"
SCRIPT = "package/build/openseadragon/openseadragon.min.js"
SCRIPT_SHA256 = "14d587cd3ee7c4861f1a41077ce642029364a21029956ba635bd8fb1202cf9ad"
LICENCE = "package/LICENSE.txt"
INSTALL = "hiif-deploy serve --install-viewer"
"""Command that calls `install_viewer`."""


def viewer_script() -> bytes | None:
    """Return the installed script; None where there is none, or another than the one that was checked."""
    folder = code_folder("viewer")
    path = folder and folder / _name(SCRIPT)
    if path is None or not path.is_file():
        return None
    data = path.read_bytes()
    return data if hashlib.sha256(data).hexdigest() == SCRIPT_SHA256 else None


def install_viewer() -> Path:
    """Download the package, and return where its script now lies. DownloadError where that fails."""
    folder = code_folder("viewer")
    if folder is None:
        raise DownloadError("the viewer cannot be kept: the cache folder is not writable (see HIIF_DEPLOY_STORE)")
    with tempfile.TemporaryDirectory() as work:
        package = Path(work) / "package.tgz"
        download_file(PACKAGE, package, sha256=PACKAGE_SHA256)
        unpack_viewer(package.read_bytes(), folder)
    return folder / _name(SCRIPT)


def unpack_viewer(package: bytes, folder: Path) -> None:
    """Write the script of a package, and its licence, to a folder. DownloadError where it is another script."""
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        files = {member: archive.extractfile(member) for member in (LICENCE, SCRIPT)}
        contents = {member: file.read() for member, file in files.items() if file is not None}
    check_hash(SCRIPT, hashlib.sha256(contents[SCRIPT]).hexdigest(), SCRIPT_SHA256)
    for member, data in contents.items():
        write_file(folder / _name(member), data)


def _name(member: str) -> str:
    return f"openseadragon-{VERSION}-{member.rpartition('/')[2]}"
