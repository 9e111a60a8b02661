"""Which picture files become which: inputs, folders and output names."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hiif_deploy.errors import ImageError, OptionError
from hiif_deploy.geometry.target import Larger
from hiif_deploy.images.io import READABLE, STREAM, SUFFIXES, VIDEO_SUFFIXES, format_of, readable_suffixes


@dataclass(frozen=True)
class Item:
    """One input and its output."""

    source: Path
    """Path of the file to read."""
    target: Path
    """Path of the file to write."""
    suffix: str | None = None
    """Suffix of the format, where the target's name has none: that of the standard output."""


def list_items(inputs: Sequence[Path], output: Path | None, label: str, suffix: str | None = None) -> list[Item]:
    """Pair inputs with outputs. Folders are searched recursively, and their structure is kept below `output`.

    Without `output` the result lies beside its input, `photo_x3.3.jpg`, and is not used as an input itself; for the
    standard input it is the standard output. OptionError where two inputs would have one output, an input would be
    overwritten, or `output` contradicts its name; ImageError where a folder holds no pictures.
    """
    wanted = None if suffix is None else "." + suffix.lower().lstrip(".")
    if wanted is not None and wanted not in SUFFIXES:
        raise OptionError(f"--format {suffix}: cannot be written; use one of {', '.join(s[1:] for s in SUFFIXES)}")
    as_file = output is not None and _check_output(inputs, output, wanted)
    items = []
    for root in inputs:
        for source in _pictures(root, output):
            end = wanted or (source.suffix if source.suffix.lower() in SUFFIXES else ".png")
            if as_file and output is not None:
                target = output
            elif output is not None:
                inner = (
                    source.relative_to(root) if root.is_dir() else Path("stdin" if is_stream(source) else source.name)
                )
                target = output / _named(inner, end)
            else:
                target = STREAM if is_stream(source) else _named(source, end, f"_{label}")
            items.append(Item(source, target, end if is_stream(target) else None))
    # A second run over a folder must not upscale what the first one made there.
    made = {item.target for item in items if item.target != item.source}
    items = [item for item in items if item.source not in made or is_stream(item.source)]
    check_pairs(items)
    return items


def _named(source: Path, end: str, label: str = "") -> Path:
    """Return the output's name. A file of a read-only format keeps its suffix in it: `a.gif` may lie beside `a.png`."""
    stem = source.stem if source.suffix.lower() in (*SUFFIXES, "") else source.name
    return source.with_name(f"{stem}{label}{end}")


def is_stream(path: Path) -> bool:
    """Return whether a path is `-`, the standard input or output."""
    return path == STREAM


def usual_larger(inputs: Sequence[Path]) -> Larger:
    """Return `skip` for many pictures and `error` for a single one that is named."""
    return "error" if _is_one_picture(inputs) else "skip"


def _is_one_picture(inputs: Sequence[Path]) -> bool:
    return len(inputs) == 1 and not inputs[0].is_dir()


def left_out(inputs: Sequence[Path]) -> dict[str, int]:
    """Return suffix → number of files in the folders that are videos, or pictures that cannot be read here."""
    kinds = {*VIDEO_SUFFIXES, *READABLE}.difference(readable_suffixes())
    found = (path.suffix.lower() for root in inputs if root.is_dir() for path in root.rglob("*") if path.is_file())
    return dict(sorted(Counter(suffix for suffix in found if suffix in kinds).items()))


def _pictures(root: Path, output: Path | None) -> list[Path]:
    if is_stream(root) or not root.is_dir():
        return [root]
    inside, readable = output.resolve() if output is not None else None, readable_suffixes()
    found = sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in readable
        and path.is_file()
        and (inside is None or inside not in path.resolve().parents)
    )
    if not found:
        others = ", ".join(f"{count} {suffix}" for suffix, count in left_out([root]).items())
        hint = f"; name what it holds ({others}) one by one" if others else ""
        raise ImageError(f"{root}: no pictures in this folder; expected files ending in {', '.join(READABLE)}{hint}")
    return found


def _check_output(inputs: Sequence[Path], output: Path, suffix: str | None) -> bool:
    """Return whether `output` names a file and not a folder. OptionError where it can be neither, or contradicts
    `suffix`."""
    blocked = next((part for part in output.parents if part.exists() and not part.is_dir()), None)
    if blocked is not None:
        raise OptionError(f"{output}: {blocked} is a file, not a folder; choose another output (-o)")
    if output.is_dir():
        return False
    if is_stream(output) or output.suffix.lower() in SUFFIXES:
        if not _is_one_picture(inputs):
            what = f"{inputs[0]} is a folder" if len(inputs) == 1 else f"there are {len(inputs)} inputs"
            raise OptionError(f"{output} names one file, and {what}: name a folder (-o)")
        if suffix and not is_stream(output) and format_of(output) is not format_of(Path(f"picture{suffix}")):
            raise OptionError(f"--format {suffix[1:]} and {output} name two formats: leave --format out")
        return True
    if output.exists():
        raise OptionError(f"{output} is a file, and not a picture of a known kind: choose another output (-o)")
    if output.suffix and not any(path.is_dir() for path in inputs):
        raise OptionError(
            f"{output}: cannot write pictures of type {output.suffix}; use one of {', '.join(SUFFIXES)}, or an "
            "existing folder"
        )
    return False


def check_pairs(items: Sequence[Item]) -> None:
    """Raise OptionError where two inputs would have one output, or an input would be overwritten."""
    made: dict[Path, Path] = {}
    for item in items:
        target = item.target.resolve()
        if target == item.source.resolve() and not is_stream(item.source):
            raise OptionError(f"{item.source}: the output would replace the input; choose another output (-o)")
        if target in made:
            raise OptionError(f"{made[target]} and {item.source} would both become {item.target}; run them separately")
        made[target] = item.source
