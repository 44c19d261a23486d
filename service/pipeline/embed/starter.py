"""Placeholder."""


class StarterEmbedder: ...
