"""Training of the starter backbone: made-up surfaces and damage, and an objective that is the decision itself."""
