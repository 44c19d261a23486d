"""`cangate run` as the plant meets it: a process, a real mosquitto, a real OPC UA client, plain HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
import pytest_asyncio
from asyncua import ua

from adapters.simulation.broker import free_port
from tests.support.mqtt import PlantClient, private_mosquitto
from tests.support.opcua import plain_client
from tests.support.parts import draw_part
from tests.support.service import ServiceProcess, command
from tests.support.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory, store: Path) -> AsyncIterator[ServiceProcess]:
    """One service for most tests: it goes on after each of them, as it does in a plant."""
    async with (
        private_mosquitto() as broker,
        ServiceProcess(tmp_path_factory.mktemp("line"), broker.port, "bars", store) as service,
    ):
        yield service


@pytest_asyncio.fixture(loop_scope="module")
async def line(shared: ServiceProcess) -> AsyncIterator[tuple[ServiceProcess, PlantClient]]:
    """Lend the shared service, running, and a client that has heard nothing of other tests but what is retained."""
    assert shared.process is not None
    if shared.process.returncode is not None:
        await shared.start()
    async with PlantClient(shared.broker_port) as plant:
        yield shared, plant


def put(folder: Path, name: str, *, damaged: bool = False) -> str:
    """Write a part into `folder` and return its uri."""
    cv2.imwrite(str(folder / name), draw_part(5000, damaged=damaged))
    return (folder / name).as_uri()


async def ask(plant: PlantClient, uri: str, **fields: object) -> dict[str, Any]:
    """Publish an event and return its verdict, after checking that the gate was told the same."""
    event = {"event_id": secrets.token_hex(8), "part_id": "P", "trigger_id": 7, "image": {"uri": uri}} | fields
    await plant.send("image-ready", json.dumps(event).encode())
    verdict = await about(event["event_id"], plant, "verdict")
    gate = await about(event["event_id"], plant, "gate")
    shared = ("event_id", "part_id", "trigger_id", "seq", "gate", "decision", "station")
    assert {name: gate[name] for name in shared} == {name: verdict[name] for name in shared}
    return verdict


async def about(event_id: object, plant: PlantClient, leaf: str) -> dict[str, Any]:
    """Return the next message about an event; after a crash what came just before it may be said again."""
    while (message := json.loads((await plant.next(leaf)).payload))["event_id"] != event_id:
        pass
    return dict(message)


async def tags_are(service: ServiceProcess, expected: Mapping[str, object]) -> bool:
    """Tell whether tags have these values, with a client of their own."""
    async with plain_client(service.endpoint) as client:
        namespace = await client.get_namespace_index("urn:cangate")
        nodes = [client.get_node(f"ns={namespace};s=line1.{name}") for name in expected]
        return list(await client.read_values(nodes)) == list(expected.values())


async def http_get(service: ServiceProcess, path: str) -> Any:
    """Return what the HTTP API answers."""
    async with httpx.AsyncClient(base_url=service.url) as http:
        return (await http.get(path)).raise_for_status().json()


async def test_service_judges_on_every_way_out(line: tuple[ServiceProcess, PlantClient]) -> None:
    """Verdict, gate message, tags and HTTP agree on a good and on a damaged part."""
    service, plant = line
    before = (await http_get(service, "/api/status"))["counts"]
    good = await ask(plant, put(service.frames, "good.png"))
    assert (good["decision"], good["gate"], good["reason"]) == ("OK", "PASS", "score_below_threshold")
    assert set(good["stages_ms"]) == {"load", "roi", "normalize", "embed", "score", "boxes"}
    assert (good["image"]["width"], good["image"]["height"]) == (240, 180)

    bad = await ask(plant, put(service.frames, "bad.png", damaged=True))
    assert (bad["decision"], bad["gate"]) == ("DAMAGED", "REJECT")
    assert bad["boxes"]
    assert bad["seq"] == good["seq"] + 1
    judged = {"ResultSeq": bad["seq"], "Verdict": 2, "Reject": True, "ResultValid": True, "Score": bad["score"]}
    shown = judged | {"BoxCount": len(bad["boxes"]), "ResultEventId": bad["event_id"]}
    await eventually(partial(tags_are, service, shown))

    listed = await http_get(service, "/api/verdicts")
    assert [verdict["event_id"] for verdict in listed[:2]] == [bad["event_id"], good["event_id"]]
    assert await http_get(service, f"/api/verdicts/{good['event_id']}") == good
    after = (await http_get(service, "/api/status"))["counts"]
    assert {name: after[name] - before[name] for name in after} == {"ok": 1, "damaged": 1, "error": 0}


def half(folder: Path) -> str:
    put(folder, "half.png")
    whole = (folder / "half.png").read_bytes()
    (folder / "half.png").write_bytes(whole[: len(whole) // 2])
    return (folder / "half.png").as_uri()


def written(content: bytes) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        (folder / "strange.png").write_bytes(content)
        return (folder / "strange.png").as_uri()

    return write


def uniform(folder: Path) -> str:
    cv2.imwrite(str(folder / "blank.png"), np.full((180, 240, 3), 127, np.uint8))
    return (folder / "blank.png").as_uri()


def huge(folder: Path) -> str:
    cv2.imwrite(str(folder / "huge.png"), np.zeros((5000, 5000), np.uint8))
    return (folder / "huge.png").as_uri()


BAD_FRAMES: list[tuple[str, Callable[[Path], str], dict[str, object], str]] = [
    ("missing", lambda folder: (folder / "gone.png").as_uri(), {}, "frame_missing"),
    ("truncated", half, {}, "frame_corrupt"),
    ("zero bytes", written(b""), {}, "frame_corrupt"),
    ("text", written(b"I am no image"), {}, "frame_corrupt"),
    ("outside the roots", lambda _: "file:///etc/hostname", {}, "frame_refused"),
    ("too many pixels", huge, {}, "frame_refused"),
    ("unknown scheme", lambda _: "ftp://camera/1.png", {}, "frame_refused"),
    ("deadline is a text", lambda folder: put(folder, "a.png"), {"deadline_ms": "soon"}, "frame_refused"),
    ("deadline is zero", lambda folder: put(folder, "a.png"), {"deadline_ms": 0}, "frame_refused"),
    ("no image", lambda folder: put(folder, "a.png"), {"image": None}, "frame_refused"),
    ("wrong schema", lambda folder: put(folder, "a.png"), {"schema": "other/1"}, "frame_refused"),
    ("long expired", lambda folder: put(folder, "a.png"), {"captured_at": "2020-01-01T00:00:00Z"}, "deadline_missed"),
]


async def test_service_answers_bad_input_and_goes_on(line: tuple[ServiceProcess, PlantClient]) -> None:
    """Every bad frame and event gets its named ERROR, and the next good one is judged; nothing counts as a defect."""
    service, plant = line
    for case, make, fields, reason in BAD_FRAMES:
        verdict = await ask(plant, make(service.frames), **fields)
        assert (case, verdict["decision"], verdict["gate"], verdict["reason"]) == (case, "ERROR", "REJECT", reason)
        assert verdict["score"] is None
    wrong_hash = {"uri": put(service.frames, "a.png"), "sha256": "0" * 64}
    assert (await ask(plant, "", image=wrong_hash))["reason"] == "frame_refused"
    content = (service.frames / "a.png").read_bytes()
    right_hash = {"uri": (service.frames / "a.png").as_uri(), "sha256": hashlib.sha256(content).hexdigest()}
    assert (await ask(plant, "", image=right_hash))["decision"] == "OK"
    # what names no event cannot be answered: it is counted and passed over
    for payload in (b"", b"{", b"null", b"[1,2]", b'{"event_id": 5.5}', b"\xff\xfe", b'{"a":' * 5000, b"x" * 70_000):
        await plant.send("image-ready", payload)
    assert (await ask(plant, put(service.frames, "good.png")))["decision"] == "OK"
    assert plant.waiting("verdict") == 0
    assert "Traceback" not in service.log()
    async with httpx.AsyncClient(base_url=service.url) as http:
        metrics = (await http.get("/metrics")).text
    assert 'cangate_refused_total{reason="too_large",transport="mqtt"} 1.0' in metrics


async def test_service_answers_any_name_by_that_name(line: tuple[ServiceProcess, PlantClient]) -> None:
    """No valid id, but a name: ERROR/frame_refused that says it again on every way out, and the same after a crash."""
    service, plant = line
    said = {}
    for event_id in ("x" * 257, "x" * 60_000, "\t\x1b[2J\r\n\x7f", 7):
        name = str(event_id)
        event = json.dumps({"event_id": event_id, "image": {"uri": put(service.frames, "good.png")}}).encode()
        await plant.send("image-ready", event)
        said[event] = (await plant.next("verdict")).payload
        verdict = json.loads(said[event])
        shown = (verdict["event_id"], verdict["decision"], verdict["gate"], verdict["reason"])
        assert shown == (name, "ERROR", "REJECT", "frame_refused")
        assert json.loads((await plant.next("gate")).payload)["event_id"] == name
        await eventually(partial(tags_are, service, {"ResultEventId": name}))
        assert (await http_get(service, "/api/verdicts"))[0] == verdict
        async with httpx.AsyncClient(base_url=service.url) as http:
            assert (await http.get("/")).status_code == 200
    assert (await ask(plant, put(service.frames, "good.png")))["decision"] == "OK"
    await service.stop(signal.SIGKILL)
    await service.start()
    for event, first in said.items():
        await plant.send("image-ready", event)
        while (again := (await plant.next("verdict")).payload) != first:
            assert json.loads(again)["event_id"] != json.loads(first)["event_id"]
    assert "Traceback" not in service.log()


def counted(service: ServiceProcess, query: str) -> int:
    """Look into the journal beside the service."""
    with closing(sqlite3.connect(f"file:{service.folder}/journal.sqlite?mode=ro", uri=True)) as journal:
        return int(journal.execute(query).fetchone()[0] or 0)


async def test_service_echoes_correlation_data_across_a_crash(tmp_path: Path, store: Path) -> None:
    """Broker and service go down over two events, one decided and one not: what the next run says finds who asked."""
    answer = {f"/{name}.png": asyncio.Event() for name in ("decided", "open")}

    async def camera(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answer[(await reader.readline()).decode().split()[1]].wait()
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(camera, "127.0.0.1", 0) as host, private_mosquitto() as broker:
        where = f"127.0.0.1:{host.sockets[0].getsockname()[1]}"
        images = f'http_hosts = ["{where}"]\nhttp_timeout_s = 60'
        async with ServiceProcess(tmp_path, broker.port, "bars", store, images=images) as service:
            async with PlantClient(broker.port) as plant:
                for path in answer:
                    event = {"event_id": path, "image": {"uri": f"http://{where}{path}"}, "deadline_ms": 600_000}
                    await plant.send(
                        "image-ready", json.dumps(event).encode(), correlation_data=path.encode() + b"\0\xff"
                    )
                await eventually(lambda: counted(service, "SELECT count(*) FROM events") == 2)
                await broker.stop(signal.SIGKILL)  # it keeps nothing: only the journal knows of the events
            answer["/decided.png"].set()
            await eventually(lambda: counted(service, "SELECT count(seq) FROM events") == 1)
            await service.stop(signal.SIGKILL)
            answer["/open.png"].set()
            await broker.start()
            async with PlantClient(broker.port) as plant:
                await service.start()
                heard = [await plant.next("verdict") for _ in answer]
    said = {json.loads(each.payload)["event_id"]: each.correlation_data for each in heard}
    assert said == {path: path.encode() + b"\0\xff" for path in answer}


async def test_service_repeats_a_verdict_byte_for_byte(line: tuple[ServiceProcess, PlantClient]) -> None:
    """The same event id again: the same bytes, no second gate message, also after a crash and a restart."""
    service, plant = line
    event = json.dumps({"event_id": "same", "image": {"uri": put(service.frames, "good.png")}}).encode()
    await plant.send("image-ready", event)
    first = (await plant.next("verdict")).payload
    await plant.next("gate")
    await plant.send("image-ready", event, correlation_data=b"again")
    again = await plant.next("verdict")
    assert (again.payload, again.correlation_data) == (first, b"again")
    assert plant.waiting("gate") == 0
    await service.stop(signal.SIGKILL)
    await service.start()
    await plant.send("image-ready", event)
    assert (await plant.next("verdict")).payload == first
    fresh = await ask(plant, put(service.frames, "good.png"))
    assert fresh["seq"] == json.loads(first)["seq"] + 1


async def test_service_keeps_its_word_though_its_journal_is_removed(line: tuple[ServiceProcess, PlantClient]) -> None:
    """It is told as fault 101, and the next run repeats what was said and goes on counting."""
    service, plant = line
    event = json.dumps({"event_id": "kept", "image": {"uri": put(service.frames, "good.png")}}).encode()
    await plant.send("image-ready", event)
    first = (await plant.next("verdict")).payload
    for file in service.folder.glob("journal*"):
        file.unlink()
    last = await ask(plant, put(service.frames, "good.png"))
    while (json.loads((await plant.next("status")).payload)["fault"] or {}).get("code") != 101:
        pass
    await service.stop(signal.SIGKILL)
    await service.start()
    await plant.send("image-ready", event)
    while (again := (await plant.next("verdict")).payload) != first:
        assert json.loads(again)["event_id"] != "kept"
    assert (await ask(plant, put(service.frames, "good.png")))["seq"] == last["seq"] + 1


async def test_service_answers_what_came_while_it_was_away(line: tuple[ServiceProcess, PlantClient]) -> None:
    """Events that the broker kept for a killed service are answered at its return; expired ones as missed deadlines."""
    service, plant = line
    await ask(plant, put(service.frames, "good.png"))
    await service.stop(signal.SIGKILL)
    for number in range(5):
        event = {
            "event_id": f"late{number}",
            "image": {"uri": put(service.frames, "good.png")},
            "deadline_ms": 50,
            "captured_at": "2026-01-01T00:00:00Z",
        }
        await plant.send("image-ready", json.dumps(event).encode())
    await service.start()
    for number in range(5):
        verdict = await about(f"late{number}", plant, "verdict")
        assert (verdict["reason"], verdict["gate"]) == ("deadline_missed", "REJECT")
        assert (await about(f"late{number}", plant, "gate"))["gate"] == "REJECT"


async def test_service_takes_raw_images(line: tuple[ServiceProcess, PlantClient]) -> None:
    """A JPEG inside the message, its metadata as user properties."""
    _, plant = line
    image = cv2.imencode(".png", draw_part(77))[1].tobytes()
    await plant.send(
        "image-ready/raw",
        image,
        correlation_data=b"c",
        user_properties=[("event_id", "raw1"), ("part_id", "P9"), ("trigger_id", "9"), ("deadline_ms", "5000")],
    )
    heard = await plant.next("verdict")
    verdict = json.loads(heard.payload)
    assert (verdict["event_id"], verdict["part_id"], verdict["trigger_id"]) == ("raw1", "P9", 9)
    assert verdict["decision"] in ("OK", "DAMAGED")
    assert (heard.correlation_data, heard.retain) == (b"c", False)
    assert heard.expiry_s is not None
    assert 1 <= heard.expiry_s <= 5


async def test_service_inspects_on_a_plc_trigger(line: tuple[ServiceProcess, PlantClient]) -> None:
    """A change of Trigger is an image-ready event; its verdict is on the tags and on MQTT."""
    service, plant = line
    uri = put(service.frames, "good.png")
    async with plain_client(service.endpoint) as client:
        namespace = await client.get_namespace_index("urn:cangate")

        def node(name: str) -> Any:
            return client.get_node(f"ns={namespace};s=line1.{name}")

        async with asyncio.timeout(10):
            while not await node("Ready").read_value():
                pass
        await node("TriggerPartId").write_value("P-plc")
        await node("TriggerImageUri").write_value(uri)
        await node("Trigger").write_value(41, ua.VariantType.UInt32)
        verdict = json.loads((await plant.next("verdict")).payload)
        assert (verdict["part_id"], verdict["trigger_id"], verdict["decision"]) == ("P-plc", 41, "OK")
        assert verdict["event_id"].startswith("line1-41-")
        async with asyncio.timeout(10):
            while await node("ResultSeq").read_value() != verdict["seq"]:
                pass
        assert await node("TriggerAck").read_value() == 41
        assert await node("Reject").read_value() is False


async def test_service_obeys_commands(line: tuple[ServiceProcess, PlantClient]) -> None:
    """ping, pause and resume, a new threshold as a new version, rollback; a bad command is answered in one line."""
    service, plant = line

    async def order(name: str, **args: object) -> dict[str, Any]:
        await plant.send("cmd", json.dumps({"command": name, "args": args}).encode())
        return dict(json.loads((await plant.next("reply")).payload))

    assert (await order("ping"))["ok"]
    assert (await order("pause"))["ok"]
    assert (await ask(plant, put(service.frames, "good.png")))["reason"] == "model_unavailable"
    assert (await order("resume"))["ok"]
    reply = await order("set_threshold", threshold=1e-6)
    assert reply["ok"], reply
    assert reply["result"]["model"]["version"] == "2"
    strict = await ask(plant, put(service.frames, "good.png"))
    assert (strict["decision"], strict["threshold"], strict["model"]["version"]) == ("DAMAGED", 1e-6, "2")
    assert (await order("rollback_model"))["ok"]
    assert (await ask(plant, put(service.frames, "good.png")))["decision"] == "OK"
    for name, args in (("set_threshold", {"threshold": "low"}), ("activate_model", {}), ("explode", {})):
        reply = await order(name, **args)
        assert not reply["ok"]
        assert "\n" not in reply["error"]


async def test_service_ends_promptly_and_says_good_bye(line: tuple[ServiceProcess, PlantClient]) -> None:
    """SIGTERM: exit status 0, an offline status that is retained, and the heartbeat no longer rises."""
    service, plant = line
    assert await service.stop(signal.SIGTERM) == 0
    async with asyncio.timeout(10):
        while json.loads((await plant.next("status")).payload)["state"] != "offline":
            pass
    assert "Traceback" not in service.log()


async def test_service_without_its_model_says_so(tmp_path: Path) -> None:
    """No model in the store: not ready, in fault, and every event is answered ERROR/model_unavailable."""
    async with (
        private_mosquitto() as broker,
        ServiceProcess(tmp_path, broker.port, "nobody", tmp_path / "empty", expect=503) as service,
        PlantClient(broker.port) as plant,
    ):
        async with httpx.AsyncClient(base_url=service.url) as http:
            readiness = (await http.get("/readyz")).json()
            assert not readiness["ready"]
            assert any(reason.startswith("model: ") for reason in readiness["reasons"])
            assert (await http.get("/healthz")).status_code == 200
        verdict = await ask(plant, put(service.frames, "good.png"))
        assert (verdict["reason"], verdict["gate"]) == ("model_unavailable", "REJECT")
        assert await tags_are(service, {"Fault": True, "FaultCode": 1, "Ready": False})


async def test_service_that_is_started_twice_says_why_in_one_line(
    line: tuple[ServiceProcess, PlantClient], tmp_path: Path
) -> None:
    """The port that is taken, whatever else would be worth a warning; with ports of its own, the journal."""
    service, _ = line
    elsewhere = tmp_path / "elsewhere.toml"
    text = service.config.read_text()
    for port in (service.opcua_port, service.http_port):
        text = text.replace(str(port), str(free_port()))
    elsewhere.write_text(text)
    for config, named in ((service.config, str(service.opcua_port)), (elsewhere, "journal.url")):
        async with command("run", "-c", str(config)) as second:
            _, complaint = await asyncio.wait_for(second.communicate(), 60)
        assert second.returncode == 2
        (said,) = complaint.decode().splitlines()
        assert said.startswith("cangate: ")
        assert named in said
