"""Who does the work: the RQ edit worker and the generation engine around one resident model."""
