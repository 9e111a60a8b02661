"""Warns of pictures with degradations that the model was not trained for: they stay, or the model amplifies them."""

from collections.abc import Collection, Mapping
from contextlib import suppress

from hiif_deploy.bundle.contract import TrainedFor
from hiif_deploy.bundle.loader import added_models, read_contract, shipped_models
from hiif_deploy.errors import BundleError
from hiif_deploy.images.degradation import CLEAN_JPEG, Degradation


def untrained(found: Degradation, trained: TrainedFor) -> Degradation | None:
    """Return those degradations of a picture that a model was not trained for; None where it was trained for all."""
    jpeg = None if found.jpeg is None or (trained.jpeg and found.jpeg >= trained.jpeg[0]) else found.jpeg
    noise = None if found.noise is None or (trained.noise and found.noise <= trained.noise[1]) else found.noise
    return None if jpeg is None and noise is None else Degradation(jpeg, noise)


def warning(found: Mapping[str, Degradation], total: int, name: str, trained: TrainedFor) -> str:
    """Return one sentence on the pictures, of `total`, with degradations that the model `name` was not trained for.

    `found` maps their paths, at least one, to what `untrained` returned.
    """
    first, worst = next(iter(found)), _worst(found.values())
    what = f"{first}: {_described(worst)}"
    if len(found) > 1:
        what = f"{len(found)} of {total} pictures: {_counted(found.values(), worst)}, the first {first}"
    kept = [word for word, value in (("artefacts", worst.jpeg), ("noise", worst.noise)) if value is not None]
    suited = _suited_model(worst)
    return (
        f"{what}; {name} was trained on {_inputs(trained)}, so {' and '.join(kept)} may stay or "
        f"be amplified{f'; --bundle {suited} is trained for this' if suited else ''}"
    )


def _worst(found: Collection[Degradation]) -> Degradation:
    return Degradation(
        min((one.jpeg for one in found if one.jpeg is not None), default=None),
        max((one.noise for one in found if one.noise is not None), default=None),
    )


def _described(found: Degradation) -> str:
    jpeg = [] if found.jpeg is None else [f"JPEG of quality {found.jpeg}"]
    noise = [] if found.noise is None else [f"noise of about σ {found.noise:.0f}"]
    return " with ".join(jpeg + noise)


def _counted(found: Collection[Degradation], worst: Degradation) -> str:
    jpegs, noisy = sum(one.jpeg is not None for one in found), sum(one.noise is not None for one in found)
    jpeg = [f"{jpegs} JPEG below quality {CLEAN_JPEG} (lowest {worst.jpeg})"] if jpegs else []
    noise = [f"{noisy} noisy (up to about σ {worst.noise:.0f})"] if noisy else []
    return ", ".join(jpeg + noise)


def _inputs(trained: TrainedFor) -> str:
    jpeg = [] if trained.jpeg is None else [f"JPEG of quality {trained.jpeg[0]:g} or more"]
    noise = [] if trained.noise is None else [f"noise up to σ {trained.noise[1]:g}"]
    return " and ".join(["clean pictures", *jpeg, *noise])


def _suited_model(found: Degradation) -> str | None:
    """Return the name of a shipped or added model that was trained for all of it; None where there is none."""
    for name, folder in {**shipped_models(), **added_models()}.items():
        with suppress(BundleError):
            if untrained(found, read_contract(folder).trained_for) is None:
                return name
    return None
