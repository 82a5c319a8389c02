"""Who answers: the FastAPI front end. Imports no torch."""
