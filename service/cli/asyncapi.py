"""The MQTT side as an AsyncAPI 3 document, written from the models and topics that the service itself uses."""

from __future__ import annotations

from importlib.metadata import version
from typing import TypeAlias

from pydantic import JsonValue
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from schemas.base import Message
from schemas.messages import Command, ImageEvent
from schemas.settings import MqttSettings, Settings
from schemas.topics import Leaf, Prefix, StationTopics
from service.cli.topic_table import TOPICS, Topic

Json: TypeAlias = dict[str, JsonValue]

_BINDING_VERSION = "0.2.0"  # of the AsyncAPI MQTT bindings, the first with MQTT 5 properties


def render_asyncapi(settings: Settings) -> Json:
    """Return the AsyncAPI 3.0 document of one station, from the service's point of view."""
    topics = StationTopics(Prefix(settings.mqtt.prefix), settings.station.id)
    schemas: list[tuple[type[Message], JsonSchemaMode]] = [
        (topic.message, "serialization" if topic.from_service else "validation")
        for leaf, topic in TOPICS.items()
        if leaf is not Leaf.IMAGE_READY_RAW
    ]
    references, definitions = models_json_schema(schemas, ref_template="#/components/schemas/{model}")
    payloads = {message: reference for (message, _), reference in references.items()}
    channels: Json = {}
    operations: Json = {}
    messages: Json = {}
    for leaf, topic in TOPICS.items():
        name = topic.name
        channels[name] = _channel(topics.of(leaf), topic)
        operations[name if topic.from_service else f"on{name[0].upper()}{name[1:]}"] = _operation(topic)
        messages[name] = _raw_image() if leaf is Leaf.IMAGE_READY_RAW else _message(topic, payloads[topic.message])
    return {
        "asyncapi": "3.0.0",
        "id": f"urn:cangate:{settings.station.id}",
        "info": {
            "title": f"cangate, station {settings.station.id}",
            "version": version("cangate"),
            "description": "Inspection of metal canisters: image-ready events in, one verdict and gate decision out "
            "for each, before its deadline.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"broker": _server(settings.mqtt)},
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": definitions["$defs"], "securitySchemes": _security()},
    }


def _server(mqtt: MqttSettings) -> Json:
    server: Json = {
        "host": f"{mqtt.host}:{mqtt.port}",
        "protocol": "secure-mqtt" if mqtt.tls else "mqtt",
        "protocolVersion": mqtt.protocol,
        "description": "The plant's broker.",
    }
    schemes = [name for name, used in (("user", bool(mqtt.username)), ("certificate", bool(mqtt.cert_file))) if used]
    if schemes:
        server["security"] = [{"$ref": f"#/components/securitySchemes/{name}"} for name in schemes]
    return server


def _security() -> Json:
    return {
        "user": {"type": "userPassword", "description": "mqtt.username, mqtt.password"},
        "certificate": {"type": "X509", "description": "mqtt.cert_file, mqtt.key_file"},
    }


def _channel(address: str, topic: Topic) -> Json:
    name = topic.name
    return {
        "address": address,
        "description": topic.summary,
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
    }


def _operation(topic: Topic) -> Json:
    name = topic.name
    operation: Json = {
        "action": "send" if topic.from_service else "receive",
        "channel": {"$ref": f"#/channels/{name}"},
        "summary": topic.summary,
        "messages": [{"$ref": f"#/channels/{name}/messages/{name}"}],
        "bindings": {"mqtt": {"qos": 1, "retain": topic.retain, "bindingVersion": _BINDING_VERSION}},
    }
    if topic.message is Command:
        operation["reply"] = {
            "channel": {"$ref": "#/channels/reply"},
            "messages": [{"$ref": "#/channels/reply/messages/reply"}],
        }
    return operation


def _message(topic: Topic, payload: Json) -> Json:
    return {
        "name": topic.message.__name__,
        "title": (topic.message.__doc__ or "").strip().splitlines()[0],
        "contentType": "application/json",
        "payload": payload,
    }


def _raw_image() -> Json:
    """Return the message whose payload is the picture; the event travels beside it, as texts (MQTT 5 only)."""
    return {
        "name": "ImageReadyRaw",
        "title": "The encoded picture, with the event as MQTT 5 user properties.",
        "contentType": "image/jpeg",
        "headers": {
            "type": "object",
            "required": ["event_id"],
            "properties": {name: {"type": "string"} for name in ImageEvent.model_fields},
        },
        "payload": {"type": "string", "format": "binary", "description": "JPEG or PNG"},
    }
