"""The page's files over HTTP."""

from __future__ import annotations

from functools import cache
from html import escape

from fastapi import APIRouter, Request, Response

from fibflow.serving.page import assets
from fibflow.serving.page.assets import Asset, Assets, PageMissing
from fibflow.serving.problems import not_found

router = APIRouter(include_in_schema=False)

#: Nothing but what this server has, and no script or style in the page itself.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# A file's name stands for its content, the page's for none.
_FOR_EVER, _ASK_AGAIN = "public, max-age=31536000, immutable", "no-cache"
_METHODS = ["GET", "HEAD"]


@cache
def _assets() -> Assets:
    return assets.load()


@router.api_route("/", methods=_METHODS)
async def page(request: Request) -> Response:
    """Return the page, or what is missing for it."""
    try:
        return _answer(request, _assets().index, _ASK_AGAIN)
    except PageMissing as error:
        # Not cached: the next request looks again.
        text = (
            "<!doctype html><html lang=en><meta charset=utf-8><title>Fibflow</title><h1>No page here yet</h1>"
            f"<p>{escape(str(error)).capitalize()}.</p>"
            "<p>The API is there: <a href=openapi.json>openapi.json</a>.</p>"
        )
        return Response(text, 404, {**_HEADERS, "Cache-Control": "no-store"}, "text/html; charset=utf-8")


@router.api_route(f"/{assets.FOLDER}/{{version}}/{{name}}", methods=_METHODS)
async def file(request: Request, version: str, name: str) -> Response:
    """Return one of the page's files.

    While servers of two versions stand behind one address, a page may ask the other for its files. Then the
    answer is what there is, and nobody keeps it.

    Raises:
        Problem: 404, there is no such file.
    """
    try:
        found = _assets()
    except PageMissing as error:
        raise not_found(str(error), "no_page") from None
    asset = found.files.get(name)
    if asset is None:
        raise not_found("the page has no such file", "unknown_file")
    return _answer(request, asset, _FOR_EVER if version == found.version else _ASK_AGAIN)


def _answer(request: Request, asset: Asset, caching: str) -> Response:
    headers = {**_HEADERS, "Cache-Control": caching, "ETag": asset.etag}
    known = request.headers.get("if-none-match", "")
    if asset.etag in (part.strip().removeprefix("W/") for part in known.split(",")):
        return Response(status_code=304, headers=headers)
    return Response(asset.body, headers=headers, media_type=asset.content_type)
