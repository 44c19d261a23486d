"""The words everyone shares: messages, settings, topics, node ids. Imports nothing of ours."""
