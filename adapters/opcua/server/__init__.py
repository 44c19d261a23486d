"""The station's own OPC UA server: contract section 3."""
