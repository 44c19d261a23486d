"""Training of the starter backbone: surfaces and damage made up at random, and an objective that is the very decision."""
