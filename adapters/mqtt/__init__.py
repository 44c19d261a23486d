"""MQTT: image-ready events in, verdicts, gate commands and status out."""

from adapters.mqtt.adapter import MqttAdapter

__all__ = ["MqttAdapter"]
