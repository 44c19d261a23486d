"""Everything with a wire, a disk or a screen; each maps its library's errors to ours."""
