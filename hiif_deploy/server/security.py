"""Who may use a server: the host name, the origin and the token of every request; headers that protect its pages."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

from hiif_deploy.server.options import ServeOptions, is_loopback
from hiif_deploy.server.web import RequestError, respond, respond_error

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

COOKIE = "hiif-deploy-token"
OPEN_PATHS = ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready")
"""Without a token: they tell nothing."""
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' blob: data:; "
        "media-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
}


ALLOWED_ORIGIN = "Access-Control-Allow-Origin"
CORS = {
    "Access-Control-Allow-Headers": "Authorization, Content-Type",
    "Access-Control-Allow-Methods": "GET, HEAD, POST, DELETE, OPTIONS",
}


class Guard:
    """An ASGI middleware around all routes."""

    def __init__(self, app: App, options: ServeOptions) -> None:
        self._app = app
        self._options = options

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass on what may pass, with headers added to the response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = _headers(scope)
        cors = self._cors(scope["path"], headers.get("origin"))

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {key.lower() for key, _ in message["headers"]}
                more = ((key.lower().encode(), value.encode()) for key, value in {**HEADERS, **cors}.items())
                added = (pair for pair in more if pair[0] == b"vary" or pair[0] not in given)
                message["headers"] = [*message["headers"], *added]
            await send(message)

        try:
            answer = self._checked(scope, headers, has_cors=ALLOWED_ORIGIN in cors)
        except RequestError as error:
            answer = respond_error(error)
        await (answer or self._app)(scope, receive, send_with_headers)

    def check(self, scope: Message) -> None:
        """Raise RequestError for a request that may not pass."""
        headers = _headers(scope)
        self._checked(scope, headers, has_cors=ALLOWED_ORIGIN in self._cors(scope["path"], headers.get("origin")))

    def _checked(self, scope: Message, headers: dict[str, str], *, has_cors: bool) -> Any:
        """None for a request that passes, or the response to one that is answered here. RequestError otherwise."""
        if "content-length" in headers and "transfer-encoding" in headers:
            # A proxy before this server may believe the other one, and take the rest of the body for a request.
            raise RequestError(400, "Content-Length and Transfer-Encoding: expected one", {"Connection": "close"})
        self._check_host(headers.get("host", ""))
        if scope["method"] == "OPTIONS" and has_cors:
            return respond("", "text/plain", status=204)
        if scope["method"] not in SAFE_METHODS:
            _check_origin(headers, has_cors=has_cors)
        if self._options.token is None or scope["path"] in OPEN_PATHS:
            return None
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if scope["path"] == "/" and self._is_token(query.get("token", [""])[0]):
            # A browser gets the token once in a link; the page's own requests then carry it.
            cookie = f"{COOKIE}={self._options.token}; HttpOnly; SameSite=Strict; Path=/"
            return respond("", "text/plain", {"Location": "/", "Set-Cookie": cookie}, 303)
        scheme, _, sent = headers.get("authorization", "").partition(" ")
        if (scheme.lower() == "bearer" and self._is_token(sent.strip())) or self._is_token(_cookie(headers)):
            return None
        raise RequestError(
            401, "this server needs its token (Authorization: Bearer TOKEN)", {"WWW-Authenticate": "Bearer"}
        )

    def _check_host(self, host: str) -> None:
        """Without a token: only the names of this machine. A web page elsewhere can give its own name this address."""
        if self._options.token is None and not is_loopback(_split(f"//{host}").hostname or ""):
            raise RequestError(421, "this server answers to localhost and loopback addresses only")

    def _is_token(self, sent: str) -> bool:
        return self._options.token is not None and hmac.compare_digest(sent.encode(), self._options.token.encode())

    def _cors(self, path: str, origin: str | None) -> dict[str, str]:
        """Headers that allow a page of an origin that was named to read the response; IIIF wants all for info.json."""
        allowed = self._options.cors
        if path.startswith("/iiif/") and path.endswith("/info.json"):
            allowed = ("*",)
        # Responses without an Origin too, so that a cache gives a page of another origin no response that lacks them.
        if "*" in allowed:
            return {ALLOWED_ORIGIN: "*", **CORS}
        varying = {"Vary": "Origin"} if allowed else {}
        return {ALLOWED_ORIGIN: origin, **CORS, **varying} if origin in allowed else varying


def _headers(scope: Message) -> dict[str, str]:
    return {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}


def _check_origin(headers: dict[str, str], *, has_cors: bool) -> None:
    """RequestError 403 for a request that a page of another origin makes a browser send."""
    origin = headers.get("origin")
    if origin is not None and not has_cors and _split(origin).netloc != headers.get("host", ""):
        raise RequestError(403, "pages of other origins may not send this request (see --cors)")


def _split(url: str) -> SplitResult:
    """Parts of a URL; none of one that is malformed."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _cookie(headers: dict[str, str]) -> str:
    """The token's cookie. `http.cookies` gives none where another program of this host has set a malformed one."""
    from starlette.requests import cookie_parser

    return cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
