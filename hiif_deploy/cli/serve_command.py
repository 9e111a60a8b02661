"""The command `serve`: an image server and an upscaling service."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hiif_deploy.bundle.loader import DEFAULT_MODEL, PHOTO_MODEL, VIDEO_MODEL
from hiif_deploy.cli.options import (
    CLUSTER,
    MODEL,
    EngineOption,
    MemoryOption,
    PrecisionOption,
    RayOption,
    ThreadsOption,
    engine_options,
    in_panel,
)
from hiif_deploy.errors import OptionError

if TYPE_CHECKING:
    from hiif_deploy.backends.options import EngineOptions
    from hiif_deploy.server.options import ServeOptions
    from hiif_deploy.upscaler import RenderOptions

logger = logging.getLogger(__name__)

_address, _limits, _model, _cluster = map(in_panel, ("Address", "Limits", MODEL, CLUSTER))
MAX_LEVEL_PIXELS = 1 << 44
"""Pixels of a whole picture at the largest zoom, of which a request renders a small part."""
SourcesArgument = Annotated[
    list[Path] | None, typer.Argument(metavar="[PICTURES]...", help="Pictures and folders; default: samples.")
]
BundlesOption = Annotated[
    list[str] | None,
    _model(
        "Bundle folder, or name of a model; may be repeated. A picture has the first one that was trained for its "
        "compression and noise, else the first; a clip has hiif-video, else the first.",
        "--bundle", "-b", show_default=f"{DEFAULT_MODEL}, {PHOTO_MODEL}, {VIDEO_MODEL}",
    ),
]  # fmt: skip
HostOption = Annotated[str, _address("Address to listen on; any but loopback needs a token.")]
PortOption = Annotated[int, _address("Port; 0 takes a free one.")]
TokenOption = Annotated[str | None, _address("What clients must send; other users of this machine can see it.")]
TokenFileOption = Annotated[Path | None, _address("File that holds the token.")]
CorsOption = Annotated[
    list[str] | None, _address("Origin whose pages may use this server; may be repeated; * for all.")
]
CacheOption = Annotated[
    Path | None,
    _limits("Folder that keeps tiles, uploads and clips for the next run, and for other replicas of this machine."),
]
CacheSizeOption = Annotated[int, _limits("Tiles on the disk, in MiB.")]
ClipsSizeOption = Annotated[int, _limits("Clips on the disk with their results, in MiB.")]
FeaturesOption = Annotated[int, _limits("Features in memory, in MiB: 190 per megapixel.")]
PixelsOption = Annotated[int, _limits("Pixels of a picture, and of a response.")]
UploadOption = Annotated[int | None, _limits("One upload, in MiB.", show_default="256 for pictures, 2048 for clips")]
ViewerOption = Annotated[
    bool, _address("Download the page's viewer (OpenSeadragon, BSD-3) from npm, and end.", "--install-viewer")
]
ReplicasOption = Annotated[int, _cluster("With --ray: most copies of the models; 0 uses the whole cluster.")]
StopOption = Annotated[bool, _cluster("With --ray: end the server that runs on the cluster.", "--stop")]
TimeOption = Annotated[float, _limits("Seconds that a request may compute.")]


def serve(
    pictures: SourcesArgument = None,
    bundle: BundlesOption = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
    cors: CorsOption = None,
    cache: CacheOption = None,
    cache_size: CacheSizeOption = 1024,
    clips_size: ClipsSizeOption = 8192,
    features_memory: FeaturesOption = 1024,
    max_pixels: PixelsOption = 1 << 26,
    max_upload: UploadOption = None,
    timeout: TimeOption = 300,
    memory: MemoryOption = 1024,
    threads: ThreadsOption = 0,
    engine: EngineOption = None,
    precision: PrecisionOption = None,
    ray: RayOption = None,
    replicas: ReplicasOption = 0,
    stop: StopOption = False,
    install_viewer: ViewerOption = False,
) -> None:
    """Serve a page where pictures zoom without end, IIIF, and upscaling over HTTP.

    \b
    hiif-deploy serve holidays/
    curl http://127.0.0.1:8000/iiif/coffee@8x/512,512,512,512/max/0/default.png -o part.png
    """
    from hiif_deploy.server import viewer
    from hiif_deploy.server.cluster.deploy import stop_on_cluster
    from hiif_deploy.server.options import MIB, Limits, ServeOptions
    from hiif_deploy.support.extras import require_extra
    from hiif_deploy.upscaler import RenderOptions

    if install_viewer:
        logger.info("%s", viewer.install_viewer())
        return
    if (replicas or stop) and ray is None:
        raise OptionError("--replicas and --stop are for a cluster: add --ray local, auto or HOST:PORT")
    if ray is not None and stop:
        stop_on_cluster(ray)
        return
    require_extra("serve")
    bounds = {"cache size": cache_size, "features memory": features_memory, "max pixels": max_pixels}
    bounds |= {"clips size": clips_size}
    for name, value in {**bounds, "max upload": max_upload, "timeout": timeout}.items():
        if value is not None and value <= 0:
            raise OptionError(f"--{name.replace(' ', '-')} {value}: expected more than 0")
    limits = Limits(
        input_pixels=max_pixels, output_pixels=max_pixels, seconds=timeout,
        upload_bytes=(max_upload or 256) * MIB, clip_upload_bytes=(max_upload or 2048) * MIB,
        features_bytes=features_memory * MIB, tiles_bytes=cache_size * MIB, clips_bytes=clips_size * MIB,
    )  # fmt: skip
    options = ServeOptions(host, port, read_token(token, token_file), tuple(cors or ()), cache, limits)
    chosen = engine_options(engine, precision, threads)
    render = RenderOptions(memory=memory * MIB, max_output_pixels=MAX_LEVEL_PIXELS)
    _run(ray, replicas, bundle or [DEFAULT_MODEL, PHOTO_MODEL, VIDEO_MODEL], chosen, render, pictures or [], options)


def _run(
    ray: str | None, replicas: int, names: list[str], engine: EngineOptions, render: RenderOptions,
    pictures: list[Path], options: ServeOptions,
) -> None:  # fmt: skip
    """Serve here, or on a cluster."""
    from hiif_deploy.bundle.loader import open_bundle
    from hiif_deploy.server.app import serve as run
    from hiif_deploy.server.cluster.deploy import serve_on_cluster
    from hiif_deploy.server.cluster.replica import ReplicaSettings
    from hiif_deploy.server.models import opened_upscalers

    opened = [open_bundle(name) for name in names]
    bundles = {bundle.contract.name: bundle for bundle in opened}
    if len(bundles) < len(opened):
        raise OptionError("--bundle: two of the models have one name; name each once")
    if ray is not None:
        options = replace(options, cache=options.cache and options.cache.absolute())
        settings = ReplicaSettings(bundles, engine, render, tuple(path.absolute() for path in pictures), options)
        serve_on_cluster(ray, replicas, settings)
        return
    with opened_upscalers(bundles, engine, render) as models:
        run(models, pictures, options)


def read_token(token: str | None, file: Path | None) -> str | None:
    """Return the token that was given on the command line or in a file. OptionError for both, or an unreadable file."""
    if token is not None and file is not None:
        raise OptionError("--token and --token-file: give one of them")
    if file is None:
        return token
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise OptionError(f"--token-file {file}: cannot be read ({error})") from error
