"""The nodes of our own namespace as a NodeSet2 file (OPC 10000-6, annex F), read from a server that was built."""

from __future__ import annotations

import asyncio
import importlib.metadata
import io
import xml.etree.ElementTree as ET
from datetime import UTC, datetime

from asyncua import Server
from asyncua.common.xmlexporter import XmlExporter

from adapters.opcua.tags import TagSpace
from schemas.tags import NAMESPACE_URI

_STANDARD_URI = "http://opcfoundation.org/UA/"


def render_nodeset(station: str) -> str:
    """Return the NodeSet2 XML of `station`. Starts no server; takes a few seconds."""
    return asyncio.run(_render(station))


async def _render(station: str) -> str:
    server = Server()
    await server.init()
    await server.set_application_uri(NAMESPACE_URI)
    await TagSpace.create(server, station, datetime.now(UTC))
    namespace = await server.get_namespace_index(NAMESPACE_URI)
    exporter = XmlExporter(server)
    ours = [node_id for node_id in server.iserver.aspace.keys() if node_id.NamespaceIndex == namespace]  # noqa: SIM118 - no dict
    await exporter.build_etree([server.get_node(node_id) for node_id in ours])  # type: ignore[no-untyped-call]
    root = exporter.etree.getroot()
    assert root is not None
    root.insert(1, _models(importlib.metadata.version("cangate")))
    ET.indent(exporter.etree, "  ")
    text = io.StringIO()
    exporter.etree.write(text, encoding="unicode", xml_declaration=False)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text.getvalue()}\n'


def _models(version: str) -> ET.Element:
    models = ET.Element("Models")
    model = ET.SubElement(models, "Model", {"ModelUri": NAMESPACE_URI, "Version": version})
    # 1.04, which every server of today contains; importers compare the date
    standard = {"ModelUri": _STANDARD_URI, "Version": "1.04", "PublicationDate": "2018-05-15T00:00:00Z"}
    ET.SubElement(model, "RequiredModel", standard)
    return models
