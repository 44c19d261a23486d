"""The nodes of our own namespace as a NodeSet2 file (OPC 10000-6, annex F), read from a server that was built."""

from __future__ import annotations

import asyncio
import importlib.metadata
import io
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from typing import Final

from asyncua import Server
from asyncua.common.xmlexporter import XmlExporter

from adapters.opcua.server.machine_vision import declarations
from adapters.opcua.server.machine_vision.address_space import NodeSpace
from adapters.opcua.server.machine_vision.instance import METADATA, VisionSystemNodes
from adapters.opcua.server.tags import TagSpace
from schemas.tags import NAMESPACE_URI

_STANDARD_URI: Final = "http://opcfoundation.org/UA/"
_OLDEST: Final = datetime(2018, 5, 15, tzinfo=UTC)


def render_nodeset(station: str, *, machine_vision: bool) -> str:
    """Return the NodeSet2 XML of `station`, with its VisionSystem where wanted. Starts no server; takes seconds."""
    return asyncio.run(_render(station, machine_vision=machine_vision))


async def _render(station: str, *, machine_vision: bool) -> str:
    server = Server()
    await server.init()
    await server.set_application_uri(NAMESPACE_URI)
    now = datetime.now(UTC)
    await TagSpace.create(server, station, now)
    namespace = await server.get_namespace_index(NAMESPACE_URI)
    if machine_vision:
        space = await NodeSpace.create(server, own=namespace)
        VisionSystemNodes.create(space, server.iserver.aspace, station, now)
    exporter = XmlExporter(server)
    ours = [
        node_id
        for node_id in server.iserver.aspace.keys()  # noqa: SIM118 - it is no dict
        # the description of the standard's namespace is a server's own
        if node_id.NamespaceIndex == namespace and not str(node_id.Identifier).startswith(f"{station}.{METADATA}")
    ]
    await exporter.build_etree([server.get_node(node_id) for node_id in ours])  # type: ignore[no-untyped-call]
    root = exporter.etree.getroot()
    assert root is not None
    root.insert(1, _models(importlib.metadata.version("cangate"), machine_vision=machine_vision))
    ET.indent(exporter.etree, "  ")
    text = io.StringIO()
    exporter.etree.write(text, encoding="unicode", xml_declaration=False)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text.getvalue()}\n'


def _models(version: str, *, machine_vision: bool) -> ET.Element:
    models = ET.Element("Models")
    model = ET.SubElement(models, "Model", {"ModelUri": NAMESPACE_URI, "Version": version})
    required = [(_STANDARD_URI, "1.04", _OLDEST)]  # which every server of today contains; importers compare the date
    if machine_vision:
        required.append((declarations.NAMESPACE_URI, declarations.VERSION, declarations.PUBLISHED))
    for uri, their_version, published in required:
        ET.SubElement(
            model,
            "RequiredModel",
            {"ModelUri": uri, "Version": their_version, "PublicationDate": f"{published:%Y-%m-%dT%H:%M:%SZ}"},
        )
    return models
