"""The service as client of a PLC's OPC UA server: contract section 4."""

from adapters.opcua.client.adapter import OpcUaClientAdapter

__all__ = ["OpcUaClientAdapter"]
