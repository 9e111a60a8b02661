"""The OpenAPI document of the routes for programs."""

from typing import Any

from hiif_deploy.support.version import __version__

TEXT, NUMBER = {"type": "string"}, {"type": "integer", "minimum": 1}
ORDER: dict[str, tuple[dict[str, Any], str]] = {
    "scale": (TEXT, "Factor such as 3.3, 4x or 250%, or 2x3.5 (across x down)."),
    "size": (TEXT, "WIDTHxHEIGHT in pixels."),
    "width": (NUMBER, "Output width; the height follows."),
    "height": (NUMBER, "Output height; the width follows."),
    "max_side": (NUMBER, "Pixels of the longer side."),
    "model": (TEXT, "Name of a model; default: the first of /v1/models."),
    "precision": ({"enum": ["fp32", "fp16", "bf16", "int8"]}, "One that /v1/models lists; default: the first."),
    "format": ({"enum": ["png", "jpg", "webp", "tif", "bmp"]}, "Default: as the input's name, else png."),
    "quality": ({"type": "integer", "minimum": 1, "maximum": 100}, "For JPEG and WebP; default: 95."),
    "lossless": ({"type": "boolean"}, "Lossless WebP."),
}
"""Parameters of an order: schema and description. Exactly one of the size's must be given."""
CLIP_ORDER = {
    **{name: ORDER[name] for name in ("scale", "size", "width", "height", "max_side", "model", "precision")},
    "format": ({"enum": ["mkv", "mp4", "m4v", "mov", "webm"]}, "Default: as the input's name, else mkv."),
    "on_error": ({"enum": ["stop", "repeat", "skip"]}, "What follows a frame that cannot be decoded; default: stop."),
}
CLIP_UPLOAD = {
    "name": (TEXT, "File name, where the body is the clip itself."),
    "start": ({"type": "boolean"}, "false: only plan it; /v1/clips/{id}/start begins. Default: true."),
}
ERRORS = {
    "400": "A parameter is malformed or contradicts another.",
    "404": "There is no such picture, model, job or clip.",
    "408": "The upload took too long.",
    "413": "The upload, or what the order would take, exceeds a limit; `error` says which.",
    "415": "The file is no picture or clip that can be read.",
    "503": "Too much work waits already; see Retry-After.",
    "504": "The work took too long.",
    "507": "The server has no memory or no disk left.",
}


def document() -> dict[str, Any]:
    """Return the document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "hiif-deploy",
            "version": __version__,
            "description": "Upscales pictures and clips by any factor.",
        },
        "paths": _paths(),
        "components": {
            "schemas": {"Error": {"type": "object", "properties": {"error": TEXT}, "required": ["error"]}},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _paths() -> dict[str, Any]:
    order = [_query(name, *spec) for name, spec in ORDER.items()]
    picture = _query("picture", TEXT, "Id of a picture that the server has, in place of a body.")
    id_ = {"name": "id", "in": "path", "required": True, "schema": TEXT}
    state = _answer("The job's state.", "application/json")
    made = _answer("The picture.", "image/*")
    simple = {
        "/v1/models": "The models; the first one is the default.",
        "/health/live": "Whether the server runs.",
        "/health/ready": "Whether it takes work.",
        "/metrics": "Prometheus metrics.",
        "/openapi.json": "This document.",
        "/v2": "Open Inference Protocol: the server.",
        "/v2/health/live": "Open Inference Protocol: whether the server runs.",
        "/v2/health/ready": "Open Inference Protocol: whether it takes work.",
    }
    model = {"name": "model", "in": "path", "required": True, "schema": TEXT}
    return {
        **{path: {"get": _operation(text, {"200": _answer(text)})} for path, text in simple.items()},
        "/v2/models/{model}": {"get": _operation("A model's metadata.", {"200": _answer("Metadata.")}, [model])},
        "/v2/models/{model}/ready": {
            "get": _operation("Whether a model is open.", {"200": _answer("It is.")}, [model])
        },
        "/v1/pictures": {
            "get": _operation("The pictures of the server, without uploads.", {"200": _answer("Ids and names.")}),
            "post": _operation("Keep an upload, to be shown by IIIF.", {"201": _answer("Its id.")}, body=True),
        },
        "/v1/pictures/{id}": {
            "get": _operation("A picture's size, degradations and model.", {"200": _answer("The picture.")}, [id_]),
            "delete": _operation("Remove an upload.", {"204": _answer("Removed.")}, [id_]),
        },
        "/v1/plan": {"get": _operation("What an order would take.", {"200": _answer("The plan.")}, [picture, *order])},
        "/v1/upscale": {"post": _operation("Upscale a picture at once.", {"200": made}, [picture, *order], body=True)},
        "/v1/jobs": {"post": _operation("Queue a picture.", {"202": state}, [picture, *order], body=True)},
        "/v1/jobs/{id}": {
            "get": _operation("A job's state.", {"200": state}, [id_]),
            "delete": _operation("Cancel a job, or remove one that is over.", {"204": _answer("Done.")}, [id_]),
        },
        "/v1/jobs/{id}/events": {
            "get": _operation("States as server-sent events.", {"200": _answer("Events.", "text/event-stream")}, [id_])
        },
        "/v1/jobs/{id}/result": {"get": _operation("A finished job's picture.", {"200": made}, [id_])},
        **_clip_paths(id_),
    }


def _clip_paths(id_: dict[str, Any]) -> dict[str, Any]:
    order = [_query(name, *spec) for name, spec in CLIP_ORDER.items()]
    upload = [_query(name, *spec) for name, spec in CLIP_UPLOAD.items()]
    state, clip = _answer("The clip's state."), _answer("The clip.", "video/*")
    kept = {"201": _answer("The clip's plan."), "202": state}
    plan, events = {"200": _answer("The plan.")}, {"200": _answer("Events.", "text/event-stream")}
    one = "/v1/clips/{id}"
    return {
        "/v1/clips": {"post": _operation("Plan and queue a clip.", kept, [*upload, *order], body=True)},
        one: {
            "get": _operation("A clip's state.", {"200": state}, [id_]),
            "delete": _operation("Cancel a clip, or remove one that is over.", {"204": _answer("Done.")}, [id_]),
        },
        f"{one}/plan": {"get": _operation("What another order would take.", plan, [id_, *order])},
        f"{one}/start": {"post": _operation("Queue a clip, or resume it.", {"202": state}, [id_, *order])},
        f"{one}/events": {"get": _operation("States as server-sent events.", events, [id_])},
        f"{one}/source": {"get": _operation("The clip as it came.", {"200": clip}, [id_])},
        f"{one}/result": {"get": _operation("The upscaled clip with all streams.", {"200": clip}, [id_])},
    }


def _operation(
    summary: str, answers: dict[str, Any], parameters: list[dict[str, Any]] | None = None, *, body: bool = False
) -> dict[str, Any]:
    schema = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    errors = {status: {"description": text, "content": schema} for status, text in ERRORS.items()}
    found = {"summary": summary, "parameters": parameters or [], "responses": {**answers, **errors}}
    return {**found, "requestBody": _body()} if body else found


def _body() -> dict[str, Any]:
    file = {"type": "string", "contentMediaType": "application/octet-stream"}
    form = {"type": "object", "properties": {"file": file}, "description": "A file, and parameters as fields."}
    return {"content": {"application/octet-stream": {}, "multipart/form-data": {"schema": form}}}


def _answer(text: str, media_type: str = "application/json") -> dict[str, Any]:
    return {"description": text, "content": {media_type: {}}}


def _query(name: str, schema: dict[str, Any], text: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": text}
