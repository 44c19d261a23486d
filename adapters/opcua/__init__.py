"""OPC UA, both ways: the station as a server (`server`) and as client of a PLC's (`client`), and what both need."""
