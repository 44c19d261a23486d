"""Stand-ins for the plant: camera, PLC gate, broker."""
