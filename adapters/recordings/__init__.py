"""Sessions on disk: recorded, read, imported from folders and exported to them."""
