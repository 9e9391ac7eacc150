"""Pages for a browser: OpenAPI's, with scripts and styles that come with a package, so that no other host is asked."""

from __future__ import annotations

from pathlib import Path

import fastapi_offline
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.staticfiles import StaticFiles

FILES = "/docs/files"
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)


def add_pages(app: FastAPI) -> None:
    """`/docs`, what the service takes and answers, to be read and tried; `/` leads there."""

    @app.get("/", include_in_schema=False)
    def root() -> RedirectResponse:
        return RedirectResponse("docs")

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        page = get_swagger_ui_html(
            openapi_url="openapi.json",
            title=app.title,
            swagger_js_url=f"{FILES[1:]}/swagger-ui-bundle.js",
            swagger_css_url=f"{FILES[1:]}/swagger-ui.css",
            swagger_favicon_url=f"{FILES[1:]}/favicon.png",
            swagger_ui_parameters={"validatorUrl": None},  # it would ask swagger.io
        )
        page.headers["content-security-policy"] = _POLICY
        return page

    app.mount(FILES, StaticFiles(directory=Path(fastapi_offline.__file__).parent / "static"))
