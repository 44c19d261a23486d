"""What the system does; knows no transport."""
