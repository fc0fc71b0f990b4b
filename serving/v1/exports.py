"""``/v1/exports``: bars of one symbol to all as a file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from fibflow.io.storage import LakeError
from fibflow.serving.access import Scope, require
from fibflow.serving.caching import VARY
from fibflow.serving.exports.export import close_exporter, exporter_of
from fibflow.serving.exports.request import MOST_SYMBOLS, ExportQuery, export_query
from fibflow.serving.exports.stream import ExportResponse
from fibflow.serving.exports.writers import (
    ArrowWriter,
    BacktestZip,
    CsvWriter,
    ExportFormat,
    ParquetWriter,
)
from fibflow.serving.history.lakestate import gone
from fibflow.serving.services import Services, services


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Give back what exports hold when the application stops."""
    try:
        yield
    finally:
        close_exporter(app)


router = APIRouter(prefix="/v1", tags=["exports"], lifespan=_lifespan)

_FILE: dict[str, Any] = {
    "description": "The file.",
    "content": {
        writer.content_type: {"schema": {"type": "string", "format": "binary"}}
        for writer in (ParquetWriter, ArrowWriter, CsvWriter, BacktestZip)
    },
    "headers": {
        "X-Lake-Versions": {"description": "what was read, as as_of takes it", "schema": {"type": "string"}},
        "Content-Disposition": {"description": "a name for the file", "schema": {"type": "string"}},
        "ETag": {"description": "names this content", "schema": {"type": "string"}},
    },
}
_SYMBOLS = (
    "symbols with commas, at most 20,000 (POST takes long lists), or all (in lower case: ALL is a symbol)"
)
_TIMEFRAME = "any: 5d, 1d, 1h, 5m, ..."
_BOUND = "YYYY-MM-DD (a session), ISO 8601, or an epoch; bars whose ts lies in [start, end)"
_FORMAT = "parquet by default; backtesting: CSV for backtesting.py, a zip of them for several symbols"
_ADJUSTED = "scale to the splits up to now; on raw prices only"
_COMPLETE = "without windows that have not ended; true by default for backtesting"
_COLUMNS = "names of columns with commas; all by default"
_ANCHOR = "of <N>d: exchange, listing; of minutes and hours: midnight, open; the lake's by default"
_AS_OF = "the lake as it was: a time, or versions such as bars:12,live:340"

#: How often an export is begun: a second time where files had gone.
_ATTEMPTS = 2

Text = Annotated[str | None, Field(max_length=200)]


class ExportBody(BaseModel):
    """A question for an export, for long lists of symbols."""

    model_config = ConfigDict(extra="forbid")

    symbols: (
        Annotated[list[Annotated[str, Field(max_length=64)]], Field(min_length=1, max_length=MOST_SYMBOLS)]
        | Annotated[str, Field(max_length=16_384)]
    ) = Field(description="a list, a text with commas, or all")
    timeframe: Text = Field(description=_TIMEFRAME)
    start: str | int | None = Field(None, description=_BOUND)
    end: str | int | None = Field(None, description=_BOUND)
    format: Text = Field(None, description=_FORMAT)
    adjusted: bool | None = Field(None, description=_ADJUSTED)
    complete: bool | None = Field(None, description=_COMPLETE)
    columns: list[str] | str | None = Field(None, description=_COLUMNS)
    anchor: Text = Field(None, description=_ANCHOR)
    as_of: str | int | None = Field(None, description=_AS_OF)


@router.get(
    "/exports", dependencies=[Depends(require(Scope.EXPORT))], responses={200: _FILE}, response_class=Response
)
async def get_export(
    request: Request,
    shared: Annotated[Services, Depends(services)],
    symbols: Annotated[str | None, Query(description=_SYMBOLS)] = None,
    timeframe: Annotated[str | None, Query(description=_TIMEFRAME)] = None,
    start: Annotated[str | None, Query(description=_BOUND)] = None,
    end: Annotated[str | None, Query(description=_BOUND)] = None,
    format: Annotated[
        str | None, Query(description=_FORMAT, json_schema_extra={"enum": list(ExportFormat)})
    ] = None,
    adjusted: Annotated[str | None, Query(description=_ADJUSTED)] = None,
    complete: Annotated[str | None, Query(description=_COMPLETE)] = None,
    columns: Annotated[str | None, Query(description=_COLUMNS)] = None,
    anchor: Annotated[str | None, Query(description=_ANCHOR)] = None,
    as_of: Annotated[str | None, Query(description=_AS_OF)] = None,
) -> Response:
    """Bars as a file, by symbol and ts, streamed.

    All of it is from the versions of the lake that ``X-Lake-Versions`` names. Where the export cannot be
    ended the connection breaks: a file that ends as HTTP says is whole.
    """
    given = {
        "timeframe": timeframe,
        "start": start,
        "end": end,
        "format": format,
        "adjusted": adjusted,
        "complete": complete,
        "columns": columns,
        "anchor": anchor,
        "as_of": as_of,
    }
    query = await shared.run(export_query, given, symbols, lambda: shared.reference.calendar)
    return await _answer(request, shared, query)


@router.post(
    "/exports", dependencies=[Depends(require(Scope.EXPORT))], responses={200: _FILE}, response_class=Response
)
async def post_export(
    request: Request, shared: Annotated[Services, Depends(services)], body: ExportBody
) -> Response:
    """Bars as a file, for lists of symbols that a URL does not hold; else as GET."""
    given: dict[str, str | None] = {}
    for name, value in body.model_dump(exclude={"symbols"}).items():
        if isinstance(value, bool):
            value = "true" if value else "false"
        given[name] = None if value is None else ",".join(value) if isinstance(value, list) else str(value)
    query = await shared.run(export_query, given, body.symbols, lambda: shared.reference.calendar)
    return await _answer(request, shared, query)


async def _answer(request: Request, shared: Services, query: ExportQuery) -> Response:
    exporter = exporter_of(request.app)
    for attempt in range(_ATTEMPTS):
        plan = await shared.run(exporter.plan, query)
        etag = query.etag(plan.versions)
        headers = {
            "ETag": etag,
            "Cache-Control": "no-cache" if query.bars.as_of is None else "private, max-age=3600",
            "Vary": VARY,
            "X-Lake-Versions": plan.versions_text,
        }
        if request.method == "GET" and etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        export = await exporter.begin(query, plan)
        try:
            # What is wrong with the question is told before the file begins.
            first = await export.next()
        except LakeError as error:
            export.close()
            if query.bars.as_of is not None and await shared.run(exporter.lacks_files, plan):
                raise gone() from error
            if attempt == _ATTEMPTS - 1:
                raise
            # Vacuum may have taken a file since the tables were looked at.
            await shared.run(shared.history.state.look_again)
        except BaseException:
            export.close()
            raise
        else:
            headers["Content-Disposition"] = f'attachment; filename="{query.filename(export.suffix)}"'
            return ExportResponse(export, first, headers)
    raise AssertionError("unreachable")
