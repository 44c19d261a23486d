"""The HTTP API as a client sees it, over a real socket."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from urllib.parse import quote

import cv2
import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from schemas.messages import Decision, Fault, FaultCode, StationState, Status
from service.errors import UsageError
from tests.support.hmi import HmiBench, make_answer, make_frame, make_verdict, served, serving

ODD_EVENT_IDS = [
    "plain",
    ".",
    "..",
    "a/b",
    "a/b/image",
    "image",
    "100%",
    "a%2Fb",
    "ü → x",
    "a?b#c",
    "a+b c",
    "//x",
    "x/",
    "'\"<>",
]


@pytest.fixture
async def client(bench: HmiBench) -> AsyncIterator[httpx.AsyncClient]:
    async with served(bench) as client:
        yield client


async def test_verdicts_of_an_unused_station_are_an_empty_list(client: httpx.AsyncClient) -> None:
    """Nothing judged yet is an answer, not an error."""
    answer = await client.get("/api/verdicts")
    assert (answer.status_code, answer.json()) == (200, [])
    assert answer.headers["content-type"] == "application/json"


async def test_verdicts_are_the_stored_bytes_newest_first(bench: HmiBench, client: httpx.AsyncClient) -> None:
    """What was published is what can be read, byte for byte."""
    verdicts = [make_verdict(seq) for seq in (1, 2, 3)]
    for verdict in verdicts:
        await bench.judge(verdict)
    answer = await client.get("/api/verdicts")
    assert b"[" + b",".join(verdict.to_json() for verdict in reversed(verdicts)) + b"]" == answer.content
    assert verdicts[1].to_json() == (await client.get("/api/verdicts/e2")).content


async def test_verdicts_are_limited_and_paged_by_seq(bench: HmiBench, client: httpx.AsyncClient) -> None:
    """`before` continues where a page ended; 50 is the default length."""
    for seq in range(1, 61):
        await bench.judge(make_verdict(seq))
    newest = [verdict["seq"] for verdict in (await client.get("/api/verdicts")).json()]
    older = [verdict["seq"] for verdict in (await client.get("/api/verdicts?limit=500&before=11")).json()]
    assert (newest, older) == (list(range(60, 10, -1)), list(range(10, 0, -1)))


async def test_verdicts_can_be_filtered(bench: HmiBench, client: httpx.AsyncClient) -> None:
    """By decision, by part, and by both."""
    await bench.judge(make_verdict(1, Decision.OK, part_id="A"))
    await bench.judge(make_verdict(2, Decision.DAMAGED, part_id="A"))
    await bench.judge(make_verdict(3, Decision.DAMAGED, part_id="B/&ü"))

    async def seqs(**query: str) -> list[int]:
        return [verdict["seq"] for verdict in (await client.get("/api/verdicts", params=query)).json()]

    assert await seqs(decision="DAMAGED") == [3, 2]
    assert await seqs(part_id="A") == [2, 1]
    assert await seqs(decision="DAMAGED", part_id="B/&ü") == [3]
    assert await seqs(decision="ERROR") == []


async def test_unusable_query_values_are_422(client: httpx.AsyncClient) -> None:
    """Rather than guessed at or ignored; nor is a name that means nothing."""
    queries = (
        "limit=0 limit=501 limit=-1 limit=x limit= limit=1_0 limit=%2010 limit=1&limit=2 "
        "before=x before=-1 before=9223372036854775808 "
        f"decision=ok decision=BROKEN decision= Limit=1 part=A part_id=%00 part_id={'x' * 257}"
    ).split()
    answers = {query: (await client.get(f"/api/verdicts?{query}")).status_code for query in queries}
    assert answers == dict.fromkeys(queries, 422)


@pytest.mark.parametrize("word", ["limit", "before"])
@pytest.mark.parametrize("value", ["-1", "x", "1_0", "+1"])
async def test_number_that_is_none_is_refused_in_plain_words(client: httpx.AsyncClient, word: str, value: str) -> None:
    """Whoever reads the answer knows what to write instead."""
    answer = await client.get("/api/verdicts", params={word: value})
    (finding,) = answer.json()["detail"]
    assert (answer.status_code, finding["loc"]) == (422, ["query", word])
    assert finding["msg"] == "Input should be a whole number, written in digits"


async def test_any_event_id_finds_its_verdict_and_picture(bench: HmiBench, client: httpx.AsyncClient) -> None:
    """An id may hold slashes and percent signs and may end like our own route."""
    for seq, event_id in enumerate(ODD_EVENT_IDS, start=1):
        verdict = make_verdict(seq, event_id=event_id)
        await bench.judge(verdict, make_frame())
        asked = {"event": event_id, "overlay": "boxes"}
        assert (await client.get("/picture", params=asked)).headers["content-type"] == "image/jpeg", event_id
        if event_id in (".", ".."):  # of these this client, as a browser, makes another path
            continue
        path = f"/api/verdicts/{quote(event_id, safe='')}"
        assert verdict.to_json() == (await client.get(path)).content, event_id
        assert (await client.get(f"{path}/image")).headers["content-type"] == "image/jpeg", event_id


async def test_slashes_of_an_event_id_may_stay_as_they_are(bench: HmiBench, client: httpx.AsyncClient) -> None:
    """Many clients do not encode them."""
    verdict = make_verdict(1, event_id="line1/cam2/77")
    await bench.judge(verdict, make_frame())
    assert verdict.to_json() == (await client.get("/api/verdicts/line1/cam2/77")).content
    assert (await client.get("/api/verdicts/line1/cam2/77/image")).status_code == 200


async def test_unknown_events_are_404_in_one_line(bench: HmiBench, client: httpx.AsyncClient) -> None:
    """A verdict without a picture has no image either."""
    await bench.judge(make_verdict(1, Decision.ERROR))
    for path in (
        "/api/verdicts/nobody",
        "/api/verdicts/nobody/image",
        "/api/verdicts/e1/image",
        "/api/nothing",
        "/picture?event=nobody&overlay=boxes",
    ):
        answer = await client.get(path)
        assert answer.status_code == 404
        assert "\n" not in answer.json()["detail"]


async def test_image_shows_what_was_asked_for(bench: HmiBench, client: httpx.AsyncClient) -> None:
    """Boxes by default, in full-frame pixels; a heat map where the patches are strange; or nothing at all."""
    anomaly_map = np.zeros((8, 8), np.float32)
    anomaly_map[4, 4] = 1.5
    verdict = make_verdict(1, Decision.DAMAGED, boxes=[(200, 40, 260, 100)])
    await bench.judge(verdict, make_frame(), anomaly_map)

    async def picture(query: str = "") -> np.ndarray:
        answer = await client.get(f"/api/verdicts/e1/image{query}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
        bgr = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
        assert bgr is not None
        return np.asarray(bgr)

    plain, boxes, heat = await picture("?overlay=none"), await picture(), await picture("?overlay=heatmap")
    assert plain.shape == boxes.shape == heat.shape == (240, 320, 3)
    changed_y, changed_x = np.nonzero(np.abs(boxes.astype(int) - plain).max(axis=2) > 60)
    assert np.allclose(
        (changed_x.min(), changed_y.min(), changed_x.max() + 1, changed_y.max() + 1), (200, 40, 260, 100), atol=3
    )
    strange = np.abs(heat.astype(int) - plain).max(axis=2)
    assert strange[135, 135] > 60  # the centre of cell (4, 4) of 8 on 240 px
    assert strange[30, 30] < 10
    assert (await client.get("/api/verdicts/e1/image?overlay=xray")).status_code == 422
    for query in ("", "?event=e1", "?event=e1&overlay=xray"):
        assert (await client.get(f"/picture{query}")).status_code == 422


async def test_status_is_the_contract_message(bench: HmiBench, client: httpx.AsyncClient) -> None:
    """The same document that is retained on the status topic."""
    bench.view.state = StationState.DEGRADED
    bench.view.fault = Fault(code=FaultCode.SINK_DOWN, text="opcua: port closed")
    answer = await client.get("/api/status")
    assert bench.view.status() == Status.model_validate_json(answer.content)
    assert answer.json()["schema"] == "cangate/status/1"


async def test_head_is_answered_as_get_without_the_body(bench: HmiBench, client: httpx.AsyncClient) -> None:
    """Supervisors and load balancers ask so."""
    await bench.judge(make_verdict(1), make_frame())
    paths = "/api/verdicts /api/verdicts/e1 /api/verdicts/e1/image /api/status /healthz /readyz /metrics / /history"
    for path in paths.split():
        head, got = await client.head(path), await client.get(path)
        assert (head.status_code, head.content) == (200, b""), path
        assert head.headers["content-type"] == got.headers["content-type"], path
    assert (await client.head("/api/nothing")).status_code == 404


async def test_probes_tell_living_from_ready(bench: HmiBench, client: httpx.AsyncClient) -> None:
    """Not ready is 503 with the reasons; alive it is all the same."""
    ready = await client.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"ready": True, "reasons": []})
    bench.view.reasons = ["mqtt: connection refused", "model: none is active"]
    ready = await client.get("/readyz")
    assert ready.status_code == 503
    assert ready.json() == {"ready": False, "reasons": ["mqtt: connection refused", "model: none is active"]}
    alive = await client.get("/healthz")
    assert (alive.status_code, alive.json()) == (200, {"alive": True})


async def test_metrics_count_each_verdict_once(bench: HmiBench, client: httpx.AsyncClient) -> None:
    """A repeated answer is no new part."""

    async def samples() -> dict[str, float]:
        text = (await client.get("/metrics")).text
        return {
            sample.name + json.dumps(sample.labels, sort_keys=True): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    before = await samples()
    verdict = make_verdict(1, Decision.DAMAGED)
    await bench.judge(verdict)
    await bench.server.publish(make_answer(verdict, repeated=True))
    await bench.server.publish_status(bench.view.status(), ready=True)
    after = await samples()

    def gained(name: str, **labels: str) -> float:
        key = name + json.dumps(labels, sort_keys=True)
        return after[key] - before.get(key, 0.0)

    assert gained("cangate_verdicts_total", decision="DAMAGED", reason="score_at_or_above_threshold") == 1
    assert gained("cangate_latency_seconds_count") == 1
    assert gained("cangate_stage_seconds_count", stage="embed") == 1
    assert after['cangate_state{"cangate_state": "ready"}'] == 1
    assert after["cangate_queue{}"] == 0


async def test_journal_trouble_is_503_in_one_line(bench: HmiBench, client: httpx.AsyncClient) -> None:
    """The reader may come again; the probes still answer."""
    bench.journal.failing = True
    for path in ("/api/verdicts", "/api/verdicts/e1"):
        answer = await client.get(path)
        assert (answer.status_code, answer.json()) == (503, {"detail": "journal: disk full"})
    assert (await client.get("/healthz")).status_code == 200


async def test_every_answer_is_closed_to_other_sites(client: httpx.AsyncClient) -> None:
    """No CORS, no framing, nothing from other hosts; also on the page and on errors."""
    for path in ("/", "/api/verdicts", "/api/nothing"):
        answer = await client.get(path, headers={"Origin": "http://elsewhere.example"})
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "access-control-allow-origin" not in answer.headers
    polling = "/_nicegui_ws/socket.io/?EIO=4&transport=polling"
    assert (await client.get(polling, headers={"Origin": "http://elsewhere.example"})).status_code == 400
    assert (await client.get("/docs")).status_code == 404
    assert "/api/status" in (await client.get("/openapi.json")).json()["paths"]


async def test_port_in_use_is_a_usage_error_with_its_name(bench: HmiBench) -> None:
    """Unless another one may be taken."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=rf"^http.port: 127.0.0.1:{port} cannot be used: Address already in use$"):
            await bench.new_server(port).open()
        async with serving(bench.new_server(port, take_free_port=True)) as server:
            assert server.url != f"http://127.0.0.1:{port}"
            async with httpx.AsyncClient(trust_env=False) as client:
                assert (await client.get(f"{server.url}/healthz")).status_code == 200


async def test_port_is_claimed_before_anybody_is_served(bench: HmiBench) -> None:
    """Two services on one port are told apart at start, not at the first part."""
    first = bench.new_server()
    await first.open()
    port = int(first.url.rsplit(":", 1)[1])
    with pytest.raises(UsageError):
        await bench.new_server(port).open()
    await first.close()
    again = bench.new_server(port)
    await again.open()
    await again.close()


async def test_probes_answer_before_the_station_runs(bench: HmiBench) -> None:
    """A model takes its time to load; until then the station is not ready, and says so."""
    bench.view.reasons = ["model: none is loaded"]
    await bench.server.open()
    async with httpx.AsyncClient(base_url=bench.server.url, trust_env=False) as client:
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/healthz")).status_code == 200
    await bench.server.close()


async def test_server_can_be_started_again(bench: HmiBench) -> None:
    """The supervisor does so after a defect."""
    async with serving(bench.server) as server:
        url = server.url
    async with serving(bench.server) as server, httpx.AsyncClient(trust_env=False) as client:
        assert server.url == url
        assert (await client.get(f"{url}/")).status_code == 200


async def test_server_stops_while_a_client_is_connected(bench: HmiBench) -> None:
    """A browser that stays open does not hold up the service."""
    async with serving(bench.server) as server:
        port = int(server.url.rsplit(":", 1)[1])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    writer.close()


async def test_page_starts_with_what_the_journal_knows(bench: HmiBench) -> None:
    """A restart does not leave the operator with an empty page."""
    await bench.judge(make_verdict(7, Decision.DAMAGED, part_id="C-000007"))
    restarted = bench.new_server()
    async with serving(restarted) as server, httpx.AsyncClient(trust_env=False) as client:
        assert "C-000007" in (await client.get(server.url)).text
