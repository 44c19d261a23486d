"""What clients of the station's server are told, and what that may cost: asyncua's subscriptions, bounded and quick."""
