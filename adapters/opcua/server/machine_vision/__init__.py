"""OPC 40100-1 Machine Vision beside the plain tags: the subset that a station offers, and its VisionSystem object."""
