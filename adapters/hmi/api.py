"""The HTTP API for machines: verdicts, pictures, status, probes, metrics (contract section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated
from urllib.parse import unquote

from fastapi import APIRouter, FastAPI, HTTPException, Query, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from adapters.hmi.bridge import Bridge
from adapters.pictures import Overlay, PictureStore
from adapters.telemetry import Metrics
from schemas.messages import Decision, PartId
from service.errors import JournalError
from service.ports import VerdictQuery

_JSON = "application/json"
_MAX_SEQ = 2**63 - 1
_KEEP_PICTURE = {"Cache-Control": "private, max-age=600"}


def _digits(value: object) -> object:
    """Refuse what Python takes for a whole number and nobody else: 1_0, blanks around it."""
    if isinstance(value, str) and not (value.isascii() and value.isdecimal()):
        raise PydanticCustomError("digits", "Input should be a whole number, written in digits")
    return value


_DIGITS = BeforeValidator(_digits)


class Liveness(BaseModel):
    """Answer of /healthz."""

    alive: bool = True


class Readiness(BaseModel):
    """Answer of /readyz: `reasons` say what is missing, one line each."""

    ready: bool
    reasons: Sequence[str]


class VerdictParams(BaseModel):
    """What a reader may ask of /api/verdicts; `before` is a seq."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, _DIGITS, Field(ge=1, le=500)] = 50
    before: Annotated[int, _DIGITS, Field(ge=0, le=_MAX_SEQ)] | None = None
    decision: Decision | None = None
    part_id: PartId | None = None

    def query(self) -> VerdictQuery:
        """Return it as the journal takes it."""
        return VerdictQuery(self.limit, self.before, self.decision, self.part_id)


def build_api(*, bridge: Bridge, pictures: PictureStore, metrics: Metrics, version: str) -> FastAPI:
    """Return the API.

    It expects paths with their percent-encoding in place: an event id may hold slashes, and only an encoded one tells
    the verdict of `a/image` (`a%2Fimage`) from the picture of `a`.
    """
    api = FastAPI(title="cangate", version=version, docs_url=None, redoc_url=None, redirect_slashes=False)
    api.include_router(_records(bridge, pictures))
    api.include_router(_probes(bridge, metrics))

    @api.get("/picture", response_class=Response, include_in_schema=False)
    async def picture_for_page(event: str, overlay: Overlay) -> Response:
        """Return the picture of one event as the page asks for it, see `picture_url`."""
        return await _picture(pictures, event, overlay)

    return api


def _records(bridge: Bridge, pictures: PictureStore) -> APIRouter:
    router = APIRouter(prefix="/api/verdicts")

    @router.get("")
    async def verdicts(params: Annotated[VerdictParams, Query()], request: Request) -> Response:
        """Return stored verdicts, newest first, each with its exact bytes."""
        asked = request.query_params
        if len(asked.multi_items()) > len(asked):
            raise HTTPException(422, "a word of the query is given twice")
        try:
            rows = await bridge.verdicts(params.query())
        except JournalError as exc:
            raise _unavailable(exc) from exc
        return Response(b"[" + b",".join(rows) + b"]", media_type=_JSON)

    @router.get("/{event_id:path}/image", response_class=Response)
    async def picture(event_id: str, overlay: Overlay = Overlay.BOXES) -> Response:
        """Return the picture of one event as JPEG."""
        return await _picture(pictures, unquote(event_id), overlay)

    @router.get("/{event_id:path}")
    async def verdict(event_id: str) -> Response:
        """Return the verdict on one event, with its exact bytes."""
        try:
            found = await bridge.verdict(unquote(event_id))
        except JournalError as exc:
            raise _unavailable(exc) from exc
        if found is None:
            raise HTTPException(404, f"no verdict on event {unquote(event_id)}")
        return Response(found, media_type=_JSON)

    return router


async def _picture(pictures: PictureStore, event_id: str, overlay: Overlay) -> Response:
    jpeg = await pictures.image(event_id, overlay)
    if jpeg is None:
        raise HTTPException(404, f"no picture of event {event_id} is kept")
    return Response(jpeg, media_type="image/jpeg", headers=_KEEP_PICTURE)


def _probes(bridge: Bridge, metrics: Metrics) -> APIRouter:
    router = APIRouter()

    @router.get("/api/status")
    async def status() -> Response:
        """Return the state of the station."""
        return Response((await bridge.status()).to_json(), media_type=_JSON)

    @router.get("/healthz")
    async def healthz() -> Liveness:
        """Tell that the process lives: its loop, not only this thread."""
        await bridge.status()
        return Liveness()

    @router.get("/readyz")
    async def readyz(response: Response) -> Readiness:
        """Tell whether the station can work; 503 and why where it cannot."""
        reasons = await bridge.not_ready()
        if reasons:
            response.status_code = 503
        return Readiness(ready=not reasons, reasons=reasons)

    @router.get("/metrics")
    async def metrics_text() -> Response:
        """Return the metrics of this station and its process for Prometheus."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return router


def _unavailable(error: JournalError) -> HTTPException:
    return HTTPException(503, f"journal: {error}")
