"""The synthetic world: scenes, questions, needles."""
