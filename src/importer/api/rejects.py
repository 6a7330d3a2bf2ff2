"""The rejects of an import, streamed from the ledger as CSV or JSON."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import msgspec
from litestar import get
from litestar.response import Stream

from importer.api.limits import RequestLimit, prefetch_first_chunk
from importer.api.openapi import IMPORTS, problem_responses
from importer.api.problems import ProblemCode, RequestProblem
from importer.api.requests import FromService, ImportId, find
from importer.api.schemas import Reject
from importer.api.state import Service
from loader import rejects
from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.postgres import ledger, target_table
from loader.postgres.connection import Connection, Database
from loader.schema import COLUMNS

# The unit of sending. The service reads the next one when the client has taken this one.
_CHUNK_BYTES = 64 * 1024

Writer = Callable[[int, Iterable[rejects.Reject]], Iterator[bytes]]

_PROBLEMS = problem_responses(
    ProblemCode.IMPORT_NOT_FOUND,
    ProblemCode.NOTHING_LOADED,
    ProblemCode.DATABASE_UNAVAILABLE,
    ProblemCode.TOO_BUSY,
)


@get(
    "/imports/{import_id:str}/rejects",
    operation_id="listRejects",
    tags=[IMPORTS],
    summary="List the rejected rows",
    description="Returns each rejected row with its line, column and reason, in the order of the file. While the import"
    " runs, those of the parts that are committed.",
    response_description="The rejected rows.",
    responses=_PROBLEMS,
)
async def list_rejects(service: FromService, import_id: ImportId) -> Stream:
    """Handle GET /imports/{id}/rejects."""
    return Stream(await _listing(service, import_id, _json), media_type="application/json")


@get(
    "/imports/{import_id:str}/rejects.csv",
    operation_id="downloadRejects",
    tags=[IMPORTS],
    summary="Download the rejected rows",
    description="Returns a CSV file like the imported one, to be corrected and imported: a header, then the rejected rows,"
    " byte for byte. While the import runs, those of the parts that are committed.",
    response_description="The rejected rows.",
    responses=_PROBLEMS,
)
async def download_rejects(service: FromService, import_id: ImportId) -> Stream:
    """Handle GET /imports/{id}/rejects.csv."""
    disposition = f'attachment; filename="rejects-{import_id}.csv"'
    return Stream(
        await _listing(service, import_id, _csv),
        media_type="text/csv",
        headers={"Content-Disposition": disposition},
    )


async def _listing(service: Service, import_id: UUID, write: Writer) -> AsyncGenerator[bytes]:
    """Return the listing of an import. Raises the problems of _PROBLEMS."""
    found = await find(service, import_id)
    try:
        return await prefetch_first_chunk(_chunks(service.listings, service.database_url, import_id, write))
    except LoaderError as error:
        if error.code is not FailureCode.IMPORT_NOT_FOUND:
            raise
        raise RequestProblem(
            ProblemCode.NOTHING_LOADED,
            f"The database has no rows of import {import_id}, which is {found.state}.",
            state=found.state,
        ) from error


async def _chunks(
    limit: RequestLimit, database_url: str, import_id: UUID, write: Writer
) -> AsyncGenerator[bytes]:
    """Yield the listing. Raises LoaderError: IMPORT_NOT_FOUND if the ledger does not have the import."""
    with contextlib.ExitStack() as held:
        held.enter_context(limit.acquire())
        # Its own thread: when a client disconnects during a read, this thread closes the connection after that read.
        executor = ThreadPoolExecutor(1, "rejects")
        loop = asyncio.get_running_loop()
        reading = _read(database_url, import_id, write)
        try:
            while chunk := await loop.run_in_executor(executor, next, reading, b""):
                yield chunk
        finally:
            slot = held.pop_all()  # released when the connection is closed
            closing = executor.submit(reading.close)
            closing.add_done_callback(lambda _: _call_soon(loop, slot.close))
            executor.shutdown(wait=False)


def _call_soon(loop: asyncio.AbstractEventLoop, action: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: the service has ended
        loop.call_soon_threadsafe(action)


def _read(database_url: str, import_id: UUID, write: Writer) -> Generator[bytes]:
    with Database(database_url).connection("rejects") as connection:
        found = _find(connection, import_id)
        pieces = write(found.column_count, ledger.rejects(connection, found.import_key))
        chunk = bytearray()
        for piece in pieces:
            chunk += piece
            if len(chunk) >= _CHUNK_BYTES:
                yield bytes(chunk)
                chunk.clear()
        yield bytes(chunk)


def _find(connection: Connection, import_id: UUID) -> ledger.Import:
    if not target_table.exists(connection):
        raise ledger.not_found(import_id)
    return ledger.get_import(connection, import_id)


def _csv(column_count: int, found: Iterable[rejects.Reject]) -> Iterator[bytes]:
    """Yield a file like the imported one: the standard header, then the original rows, byte for byte."""
    yield ",".join(column.header for column in COLUMNS[:column_count]).encode() + b"\n"
    for reject in found:
        yield reject.original + b"\n"


def _json(_column_count: int, found: Iterable[rejects.Reject]) -> Iterator[bytes]:
    separator = b"["
    for reject in found:
        shown = Reject(
            line=reject.line,
            byte_offset=reject.byte_offset,
            column=reject.column,
            value=reject.value,
            reason=reject.reason,
            original=reject.original.decode(errors="backslashreplace"),
        )
        yield separator + msgspec.json.encode(shown)
        separator = b",\n"
    yield b"]" if separator == b",\n" else b"[]"
